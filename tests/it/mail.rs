//! Messages that are more than a few bytes one way: large ones, questions and answers, broadcasts, descriptors, waiting for room.
//!
//! The server is this very test binary: [`fixture`] is a test that is run again as a process of its own.

#![allow(
    clippy::print_stdout,
    reason = "the fixture tells the tests what happens"
)]

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path},
    routing::{get, post},
};
use axum_cluster::{ClusterLayer, ClusteredServer, Error, Message, Worker, WorkerHandle};
use serde::{Deserialize, Serialize};

use crate::{
    client::sized,
    support::{Server, Signal, poll_for, procfs, request, say},
};

const FIFTY_MB: usize = 50_000_000;

// ===== the tests =====

fn ask(server: &Server, path: &str) -> String {
    let response = request(server.addr(), "POST", path, &[], "")
        .unwrap_or_else(|error| panic!("{error}\n{}", server.output()));
    assert_eq!(
        response.status,
        200,
        "{}\n{}",
        response.body,
        server.output()
    );
    response.body
}

fn start(workers: u32) -> Server {
    Server::fixture("mail::fixture").workers(workers).start()
}

// I-3.
// I-18, K-15: one memfd each way, in order with what is small.
#[test]
fn fifty_megabytes_arrive_intact_both_ways() {
    let server = start(1);
    ask(&server, &format!("/raw/{FIFTY_MB}"));
    server.wait_for_line(&format!("primary got {FIFTY_MB} bytes: intact"));
    server.wait_for_line(&format!("worker 1 got {FIFTY_MB} bytes: intact"));
}

#[test]
fn questions_and_answers_may_be_large() {
    let server = start(1);
    assert_eq!(ask(&server, "/large/1000000"), "intact");
    // The primary's question, and the worker's answer.
    ask(&server, "/ask-me/large/1000000");
    server.wait_for_line("worker 1 answers: intact");
}

// I-8: an answer is the receipt.
#[test]
fn a_question_is_answered_or_dropped() {
    for workers in [2, 0] {
        let server = start(workers);
        assert_eq!(ask(&server, "/ask/echo/hello"), "hello");
        assert_eq!(ask(&server, "/ask/drop/x"), "NoReply");
        // Answered twice: the first one counts, and the second is told.
        assert_eq!(ask(&server, "/ask/twice/x"), "x");
        server.wait_for_line("the second answer: nobody waits");
        // Kept in the primary for a while and answered from elsewhere; one that nobody waits for any more hurts nobody.
        assert_eq!(ask(&server, "/ask/later/y"), "y");
        assert_eq!(ask(&server, "/give-up"), "given up");
        assert_eq!(ask(&server, "/ask/echo/again"), "again");
        assert_eq!(server.stop().code(), Some(0));
    }
}

// I-9, K-6.
#[test]
fn a_worker_is_asked_and_answers_or_dies() {
    for workers in [1, 0] {
        let server = start(workers);
        let id = workers;
        ask(&server, "/ask-me/echo/hello");
        server.wait_for_line(&format!("worker {id} answers: hello"));
        ask(&server, "/ask-me/drop/x");
        server.wait_for_line(&format!("worker {id} answers: NoReply"));
    }
    let server = start(1);
    ask(&server, "/ask-me/die/x");
    server.wait_for_line("worker 1 answers: Gone");
    // It did not come at the cost of the cluster (K-6).
    server.wait_until("a replacement", |server| ask_ok(server, "/ask/echo/z"));
}

fn ask_ok(server: &Server, path: &str) -> bool {
    request(server.addr(), "POST", path, &[], "").is_ok_and(|response| response.status == 200)
}

#[test]
fn a_question_to_a_primary_that_is_killed_is_gone() {
    let server = start(1);
    let answer = thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&server, "/ask/keep/x"));
        server.wait_for_line("kept");
        server.signal(Signal::SIGKILL);
        asking.join().unwrap()
    });
    assert_eq!(answer, "Gone");
    server.wait_exit();
}

#[test]
fn questions_cross_both_ways_at_once() {
    let server = start(2);
    let many = sized(1000, 100);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(
                    ask(&server, &format!("/many/{many}")),
                    format!("{many} right")
                )
            });
        }
        ask(&server, &format!("/ask-me/many/{many}"));
    });
    server.wait_for_line(&format!("answers: {many} right"));
}

#[test]
fn a_broadcast_goes_to_all_others() {
    let server = start(4);
    for text in ["one", "two", "three"] {
        let sender: u32 = ask(&server, &format!("/broadcast/{text}")).parse().unwrap();
        let line = format!(" heard {text}");
        server.wait_until("3 hear it", |server| {
            server.output().matches(&line).count() == 3
        });
        assert!(
            !server.output().contains(&format!("worker {sender}{line}")),
            "the sender does not hear itself\n{}",
            server.output()
        );
        assert!(!server.output().contains("primary got"));
    }
    // Large ones too: the same memfd for all.
    ask(&server, "/broadcast-large/300000");
    server.wait_until("3 hear it", |server| {
        server.output().matches(" heard 300000 bytes").count() == 3
    });
    let alone = start(0);
    assert_eq!(ask(&alone, "/broadcast/nobody"), "0");
}

// I-6: strict order, each message once; I-7: a bound, and `Full` past it.
#[test]
fn whoever_waits_for_room_loses_nothing_and_keeps_the_order() {
    for workers in [1, 0] {
        let server = start(workers);
        let count = sized(200_000, 20_000);
        let answer = ask(&server, &format!("/stream/{count}"));
        assert_eq!(answer, format!("{count} sent, then Full, then more"));
        server.wait_for_line(&format!("{count} in order"));
    }
}

// I-6: also where they go different ways, in a datagram with others, by memfd, with a descriptor, or as a question.
#[test]
fn messages_of_every_kind_keep_their_order() {
    for workers in [1, 0] {
        let server = start(workers);
        let count = sized(20_000, 400);
        assert_eq!(
            ask(&server, &format!("/mixed/{count}")),
            format!("{} right", count / 4)
        );
        server.wait_for_line(&format!("{count} in order"));
    }
}

// K-16.
// I-12, I-15, I-17: nothing waits for an acknowledgement, and both directions at once do not stand in each other's way.
#[test]
fn descriptors_go_both_ways_in_order_and_none_stays() {
    let server = start(1);
    let worker = server.worker_pids()[0];
    let count = sized(100_000, 500);
    ask(&server, "/sockets/100");
    server.wait_for_line("100 sockets in order");
    let before = (server.fds(), procfs::descriptors(worker));
    thread::scope(|scope| {
        scope.spawn(|| ask(&server, &format!("/sockets/{count}")));
        scope.spawn(|| ask(&server, &format!("/ask-me/sockets/{count}")));
    });
    server.wait_until("both", |server| {
        server
            .output()
            .matches(&format!("{count} sockets in order"))
            .count()
            == 2
    });
    let flat = poll_for(Duration::from_secs(5), || {
        server.fds() <= before.0 && procfs::descriptors(worker) <= before.1
    });
    assert!(
        flat,
        "{} and {} descriptors, {before:?} before",
        server.fds(),
        procfs::descriptors(worker)
    );
}

// A worker that is stopped takes nothing; what waits for it is closed when it dies: here, in its queue, and in the kernel.
#[test]
fn no_descriptor_stays_when_the_receiver_dies() {
    let server = start(2);
    ask(&server, "/flood-a-stopped-one");
    server.wait_for_line("stopped ");
    let stopped = server
        .lines("stopped ")
        .pop()
        .and_then(|line| line["stopped ".len()..].parse().ok())
        .unwrap();
    server.signal_to(stopped, Signal::SIGKILL);
    server.wait_for_line("all of them are closed");
}

// What unit tests of handlers see.
#[tokio::test]
async fn a_pair_asks_answers_waits_and_sends_large() {
    use tower::ServiceExt as _;

    let (layer, mut messages) = ClusterLayer::pair();
    let app = router().layer(layer);
    let call = |path: &str| {
        let request = axum::http::Request::post(path)
            .body(axum::body::Body::empty())
            .unwrap();
        let app = app.clone();
        async move {
            let response = app.oneshot(request).await.unwrap();
            let body = axum::body::to_bytes(response.into_body(), 1000).await;
            String::from_utf8(body.unwrap().into()).unwrap()
        }
    };
    let primary = async {
        let mut kept = VecDeque::new();
        while let Some(message) = messages.recv().await {
            match message.json::<Order>() {
                Ok(order) if order.what == "drop" => drop(message),
                Ok(_) => kept.push_back(message),
                Err(_) => panic!("{message:?}"),
            }
            if let Some(message) = kept.pop_front()
                && message.is_request()
            {
                let text = message.json::<Order>().unwrap().text;
                message.reply(&text).unwrap();
                assert!(matches!(message.reply(&1), Err(Error::NotAsked)));
                assert!(!message.is_request());
            }
        }
    };
    let worker = async {
        assert_eq!(call("/ask/echo/hello").await, "hello");
        assert_eq!(call("/ask/drop/x").await, "NoReply");
        assert_eq!(call("/large/300000").await, "intact");
        assert_eq!(call("/sockets/20").await, "20 sent");
    };
    tokio::select! {
        () = primary => panic!("the worker is still there"),
        () = worker => {}
    }
}

// ===== the server =====

#[derive(Serialize, Deserialize)]
struct Order {
    what: String,
    text: String,
}

fn order(what: impl Into<String>, text: impl Into<String>) -> Order {
    Order {
        what: what.into(),
        text: text.into(),
    }
}

fn name(error: &Error) -> String {
    match error {
        Error::NoReply => "NoReply".into(),
        Error::Gone => "Gone".into(),
        Error::Full => "Full".into(),
        other => format!("{other:?}"),
    }
}

fn said(answer: axum_cluster::Result<Message>) -> String {
    answer
        .and_then(|message| message.json())
        .unwrap_or_else(|error| name(&error))
}

fn content(size: usize) -> String {
    let mut content = "abcdefghijklmnopqrstuvw".repeat(size / 23 + 1);
    content.truncate(size);
    content
}

/// Says whether a large message of plain bytes is what it was.
fn judge(who: &str, message: &Message) {
    let size = message.bytes().len();
    let whole = *message.bytes() == content(size);
    let verdict = if whole { "intact" } else { "damaged" };
    say!("{who} got {size} bytes: {verdict}");
}

/// One end of a pair of streams, through the other end of which `n` has been said.
fn socket(n: u32) -> OwnedFd {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(&n.to_le_bytes()).unwrap();
    theirs.into()
}

/// Checks that sockets come in their order.
#[derive(Default)]
struct Sockets(u32);

impl Sockets {
    fn take(&mut self, message: &Message, of: u32) {
        for fd in message.take_fds() {
            let mut number = [0; 4];
            UnixStream::from(fd).read_exact(&mut number).unwrap();
            assert_eq!(u32::from_le_bytes(number), self.0);
            self.0 += 1;
        }
        if self.0 == of {
            say!("{of} sockets in order");
            self.0 = 0;
        }
    }
}

/// Sends so many sockets, one or a few to a message.
async fn send_sockets(count: u32, send: impl Fn(Vec<OwnedFd>) -> axum_cluster::Sending) {
    let mut next = 0;
    while next < count {
        let end = (next + 1 + next % 15).min(count);
        send((next..end).map(socket).collect()).await.unwrap();
        next = end;
    }
}

fn router() -> Router {
    let large = |Path(size): Path<usize>, worker: Worker| async move {
        let text = content(size);
        let answer = worker.request(&order("echo", text.clone())).await;
        if said(answer) == text {
            "intact"
        } else {
            "damaged"
        }
    };
    Router::new()
        .route(
            "/ask/{what}/{text}",
            post(
                |Path((what, text)): Path<(String, String)>, worker: Worker| async move {
                    said(worker.request(&order(what, text)).await)
                },
            ),
        )
        .route(
            "/raw/{size}",
            post(|Path(size): Path<usize>, worker: Worker| async move {
                worker.send_bytes(content(size)).unwrap();
            }),
        )
        .route("/large/{size}", post(large))
        .route(
            "/give-up",
            post(|worker: Worker| async move {
                let question = worker.request(&order("later", "z"));
                let early = tokio::time::timeout(Duration::from_millis(1), question).await;
                if early.is_err() {
                    "given up"
                } else {
                    "answered"
                }
            }),
        )
        .route(
            "/ask-me/{what}/{text}",
            post(
                |Path((what, text)): Path<(String, String)>, worker: Worker| async move {
                    worker
                        .send_wait(&order(format!("ask-{what}"), text))
                        .await
                        .unwrap();
                },
            ),
        )
        .route(
            "/many/{count}",
            post(|Path(count): Path<u32>, worker: Worker| async move {
                let questions: Vec<_> = (0..count)
                    .map(|n| worker.request(&order("echo", n.to_string())))
                    .collect();
                count_right(questions).await
            }),
        )
        .route(
            "/broadcast/{text}",
            post(|Path(text): Path<String>, worker: Worker| async move {
                worker.broadcast(&text).unwrap();
                worker.id().to_string()
            }),
        )
        .route(
            "/broadcast-large/{size}",
            post(|Path(size): Path<usize>, worker: Worker| async move {
                worker.broadcast(&content(size)).unwrap();
            }),
        )
        .route("/stream/{count}", post(stream))
        .route("/mixed/{count}", post(mixed))
        .route(
            "/sockets/{count}",
            post(|Path(count): Path<u32>, worker: Worker| async move {
                send_sockets(count, |fds| {
                    worker.send_with_wait(&order("sockets", count.to_string()), fds)
                })
                .await;
                format!("{count} sent")
            }),
        )
        .route(
            "/flood-a-stopped-one",
            post(|worker: Worker| async move {
                worker.send(&order("flood", "")).unwrap();
            }),
        )
        .route("/", get(|| async {}))
        .layer(DefaultBodyLimit::disable())
}

async fn count_right(questions: Vec<axum_cluster::Reply>) -> String {
    let mut right = 0;
    for (n, question) in questions.into_iter().enumerate() {
        right += u32::from(said(question.await) == n.to_string());
    }
    format!("{right} right")
}

async fn stream(Path(count): Path<u32>, worker: Worker) -> String {
    for n in 0..count {
        let text = format!("{n:0>300}");
        worker.send_wait(&order("stream", text)).await.unwrap();
    }
    // Without waiting it is full at some time, and there is room again later.
    let mut more = 0;
    while worker.send(&order("filler", "x".repeat(10_000))).is_ok() {
        more += 1;
    }
    assert!(more > 0);
    worker
        .send_wait(&order("end", count.to_string()))
        .await
        .unwrap();
    format!("{count} sent, then Full, then more")
}

async fn mixed(Path(count): Path<u32>, worker: Worker) -> String {
    let mut questions = Vec::new();
    for n in 0..count {
        let small = order("mixed", n.to_string());
        match n % 4 {
            0 => match worker.send(&small) {
                Err(Error::Full) => worker.send_wait(&small).await.unwrap(),
                sent => sent.unwrap(),
            },
            1 => {
                let large = order("mixed", "0".repeat(200_000) + &n.to_string());
                worker.send_wait(&large).await.unwrap();
            }
            2 => {
                let sending = worker.send_with_wait(&small, [socket(n)]);
                sending.await.unwrap();
            }
            _ => questions.push((n, worker.request(&small))),
        }
    }
    let mut right = 0;
    for (n, question) in questions {
        right += u32::from(said(question.await) == n.to_string());
    }
    worker
        .send_wait(&order("end", count.to_string()))
        .await
        .unwrap();
    format!("{right} right")
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn fixture() {
    let Ok(addr) = std::env::var("ADDR") else {
        return;
    };
    crate::support::block_on(async {
        let (mut sockets, mut streamed, mut kept) = (Sockets::default(), 0, Vec::new());
        ClusteredServer::bind(addr)
            .program(std::env::current_exe().unwrap())
            .on_error(|error| say!("error: {error:?}"))
            .drain_deadline(Duration::from_secs(2))
            .on_ready(|primary| say!("listening on {}", primary.local_addrs()[0]))
            .on_message(move |worker, message| {
                let Ok(order) = message.json::<Order>() else {
                    judge("primary", &message);
                    return worker.send_bytes(message.bytes().clone()).unwrap();
                };
                match &*order.what {
                    "sockets" => sockets.take(&message, order.text.parse().unwrap()),
                    "stream" => {
                        assert_eq!(order.text.parse(), Ok(streamed));
                        streamed += 1;
                    }
                    "mixed" => {
                        assert_eq!(order.text.parse(), Ok(streamed));
                        streamed += 1;
                        if message.is_request() {
                            message.reply(&order.text).unwrap();
                        }
                    }
                    "filler" => {}
                    "end" => say!("{streamed} in order"),
                    "keep" => {
                        kept.push(message);
                        say!("kept");
                    }
                    "flood" => flood_a_stopped_one(worker),
                    _ => in_primary(worker, &message, order),
                }
            })
            .serve_with(|worker| async move {
                tokio::spawn(listen(worker));
                Ok(router())
            })
            .await
            .unwrap();
    });
}

fn in_primary(worker: &WorkerHandle, message: &Message, order: Order) {
    let worker = worker.clone();
    match &*order.what {
        "echo" => message.reply(&order.text).unwrap(),
        "drop" => {}
        "twice" => {
            message.reply(&order.text).unwrap();
            say!("the second answer: {}", message.reply(&2).unwrap_err());
        }
        "later" => {
            let message = message.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                message.reply(&order.text).unwrap();
            });
        }
        "ask-many" => {
            let count: u32 = order.text.parse().unwrap();
            tokio::spawn(async move {
                let questions =
                    (0..count).map(|n| worker.request(&self::order("echo", n.to_string())));
                say!("answers: {}", count_right(questions.collect()).await);
            });
        }
        "ask-large" => {
            let text = content(order.text.parse().unwrap());
            tokio::spawn(async move {
                let answer = said(worker.request(&self::order("echo", &text)).await);
                let verdict = if answer == text { "intact" } else { "damaged" };
                say!("worker {} answers: {verdict}", worker.id());
            });
        }
        "ask-sockets" => {
            let count: u32 = order.text.parse().unwrap();
            tokio::spawn(async move {
                let order = self::order("sockets", order.text);
                send_sockets(count, |fds| worker.send_with_wait(&order, fds)).await;
            });
        }
        what => {
            let order = self::order(what.trim_start_matches("ask-"), order.text);
            tokio::spawn(async move {
                let answer = said(worker.request(&order).await);
                say!("worker {} answers: {answer}", worker.id());
            });
        }
    }
}

/// Not the one who asked for it: that one is to answer the request.
fn flood_a_stopped_one(but: &WorkerHandle) {
    let primary = axum_cluster::cluster::primary().unwrap();
    let victim = primary
        .workers()
        .into_iter()
        .find(|worker| worker.id() != but.id())
        .unwrap();
    let pid = rustix::process::Pid::from_raw(victim.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    tokio::spawn(async move {
        let mut ours = Vec::new();
        let sent = loop {
            let (mine, theirs) = tokio::net::UnixStream::pair().unwrap();
            ours.push(mine);
            let fd = OwnedFd::from(theirs.into_std().unwrap());
            match victim.send_with(&content(60_000), [fd]) {
                Ok(()) => {}
                Err(Error::Full) => break victim.send_wait(&content(80_000)),
                Err(error) => panic!("{error}"),
            }
        };
        // More than the kernel's buffer holds of datagrams this large: some wait in the primary.
        assert!(ours.len() > 40, "{}", ours.len());
        say!("stopped {}", victim.pid());
        for mut stream in ours {
            use tokio::io::AsyncReadExt as _;
            let mut nothing = [0];
            assert!(matches!(stream.read(&mut nothing).await, Ok(0) | Err(_)));
        }
        assert!(matches!(sent.await, Err(Error::Gone)));
        say!("all of them are closed");
    });
}

/// What a worker does with what the primary says.
async fn listen(worker: Worker) {
    let mut messages = worker.messages();
    let mut sockets = Sockets::default();
    while let Some(message) = messages.recv().await {
        if let Ok(text) = message.json::<String>() {
            let text = if text.len() > 100 {
                format!("{} bytes", text.len())
            } else {
                text
            };
            say!("worker {} heard {text}", worker.id());
        } else if let Ok(order) = message.json::<Order>() {
            match &*order.what {
                "echo" => message.reply(&order.text).unwrap(),
                "die" => std::process::abort(),
                "sockets" => sockets.take(&message, order.text.parse().unwrap()),
                _ => drop(message),
            }
        } else {
            judge(&format!("worker {}", worker.id()), &message);
        }
    }
}
