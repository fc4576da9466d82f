//! The low level: workers that the program forks itself, and the stream of events.

#![allow(
    clippy::print_stdout,
    clippy::exit,
    reason = "the fixture tells what happens"
)]

use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum_cluster::{
    Error, Signal, Worker,
    cluster::{Cluster, Event, Primary, Role},
};

use crate::support::{Server, get, say};

// C-18, E-1 to E-3, E-5 to E-7, X-10, K-4: the example's own words.
#[test]
fn low_level_tells_its_story() {
    let (status, output) = Server::run("low_level").start_expecting_exit();
    assert_eq!(status.code(), Some(0), "{output}");
    let of = |id: u32| -> Vec<_> {
        let beginning = format!("worker {id} ");
        let lines = output
            .lines()
            .filter_map(|line| line.strip_prefix(&beginning));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(output.lines().next(), Some("set up"), "{output}");
    assert_eq!(output.lines().last(), Some("all have ended"), "{output}");
    let accident = [
        "in slot 0 forked",
        "online",
        "says: I have an accident",
        "disconnected",
        "ended with code 3: an accident, so another is forked",
    ];
    assert_eq!(of(1), accident, "{output}");
    for (id, slot) in [(2, 1), (3, 0)] {
        let forked = format!("in slot {slot} forked");
        let waited = [
            &*forked,
            "online",
            "says: I wait",
            "disconnected",
            "ended with code 0: it was told to",
        ];
        assert_eq!(of(id), waited, "{output}");
    }
}

// The brief's example of `disconnect`: with an endless connection the worker is dead 2.0 to 2.5 s after `listening`. W-16, W-20, X-15.
#[test]
fn graceful_worker_is_killed_after_two_seconds() {
    let server = Server::run("graceful_worker").start_only();
    server.wait_for_line("worker 1 listens on 127.0.0.1:");
    let listening = Instant::now();
    server.wait_for_line("worker 1 hears: shutdown");
    server.wait_for_line("worker 1 has not left within 2 s");
    server.wait_for_line("worker 1 was ended by SIGTERM, as it was told to: true");
    let took = listening.elapsed();
    assert!(
        took >= Duration::from_millis(1950) && took < Duration::from_millis(2500),
        "{took:?}"
    );
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn hyper_only_serves_without_axum() {
    let server = Server::run("hyper_only").start();
    let mut answers: Vec<_> = (0..2)
        .map(|_| get(server.addr(), "/any/path?x=1").body)
        .collect();
    answers.sort();
    assert_eq!(
        answers,
        [
            "GET /any/path, says worker 1\n",
            "GET /any/path, says worker 2\n"
        ]
    );
}

// C-1, C-5 to C-8, C-13 to C-15, C-17, E-1, E-9, I-22, K-4, K-21, K-23, S-1, S-7, W-10, W-13 to W-15, X-3, X-5; see the fixture.
#[test]
fn a_program_forks_its_workers_itself() {
    let (status, output) = Server::fixture("forks::fixture").start_expecting_exit();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("\nall as promised"), "{output}");
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn fixture() {
    if std::env::var_os("ADDR").is_none() {
        return;
    }
    crate::support::block_on(async {
        let exec = std::env::current_exe().unwrap();
        match Cluster::new().exec(exec).start().await.unwrap() {
            Role::Primary(primary) => supervise(primary).await,
            Role::Worker(worker) => work(worker).await,
        }
    });
}

// E-4, E-8, I-6: a worker's addresses as asked and as bound. A stream that is dropped leaves the rest to `wait`, and the hooks.
#[test]
fn what_a_stream_leaves_hooks_are_told() {
    let server = Server::fixture("forks::streamed").start();
    assert_eq!(get(server.addr(), "/").body, "hello");
    let told = server.lines("stream: ");
    assert_eq!(told[0], "stream: Setup");
    assert_eq!(told[1..3], ["stream: fork 1", "stream: fork 2"]);
    let listening = format!("asked 127.0.0.1:0 bound {}", server.addr());
    assert_eq!(
        server.output().matches(&listening).count(),
        2,
        "{}",
        server.output()
    );
    assert_eq!(
        server.output().matches("stream: worker").count(),
        2,
        "{}",
        server.output()
    );
    server.signal(crate::support::Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    let mut hooks = server.lines("hook: ");
    hooks.sort();
    assert_eq!(hooks, ["hook: exit 1", "hook: exit 2"]);
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn streamed() {
    let Ok(addr) = std::env::var("ADDR") else {
        return;
    };
    let server = axum_cluster::ClusteredServer::bind(addr)
        .workers(2)
        .program(std::env::current_exe().unwrap())
        .on_fork(|_| say!("hook: fork"))
        .on_exit(|worker, _| say!("hook: exit {}", worker.id()));
    crate::support::block_on(async {
        match server.start().await.unwrap() {
            Role::Primary(primary) => stream_then_wait(&primary).await,
            Role::Worker(worker) => {
                for n in 0..100 {
                    worker.send(&n).unwrap();
                }
                let hello =
                    axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
                worker.serve(hello).await.unwrap();
            }
        }
    });
}

async fn stream_then_wait(primary: &Primary) {
    assert!(matches!(primary.fork(), Err(Error::Supervised)));
    let mut events = primary.events();
    let mut messages = BTreeMap::<_, Vec<u32>>::new();
    let mut ready = false;
    while !(ready && messages.len() == 2 && messages.values().all(|heard| heard.len() == 100)) {
        match events.recv().await.unwrap() {
            Event::Fork { worker } => say!("stream: fork {}", worker.id()),
            Event::Listening {
                worker,
                asked,
                bound,
            } => {
                say!(
                    "stream: worker {} asked {} bound {bound}",
                    worker.id(),
                    asked.unwrap()
                );
            }
            Event::Message { worker, message } => {
                messages
                    .entry(worker.id())
                    .or_default()
                    .push(message.json().unwrap());
            }
            Event::Ready => ready = true,
            other => say!("stream: {other:?}"),
        }
    }
    // I-6.
    assert!(
        messages
            .values()
            .all(|heard| heard.iter().copied().eq(0..100))
    );
    assert!(matches!(primary.wait().await, Err(Error::AlreadyStarted)));
    drop(events);
    say!("listening on {}", primary.local_addrs()[0]);
    primary.wait().await.unwrap();
}

// TERM to the primary: all are told to leave, and when they have ended the stream ends too. TERM to one worker: nobody takes its place.
#[test]
fn signals_end_what_was_forked_by_hand() {
    let server = Server::fixture("forks::plain").start_only();
    server.wait_for_line("2 up");
    let pid: u32 = server.lines("pid of 1: ")[0]["pid of 1: ".len()..]
        .parse()
        .unwrap();
    server.signal_to(pid, crate::support::Signal::SIGTERM);
    server.wait_for_line("1 ended with Some(0) after true");
    assert_eq!(server.lines("drained 1").len(), 1);
    assert_eq!(server.worker_pids().len(), 1);
    server.signal(crate::support::Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    server.wait_for_line("2 ended with Some(0) after true");
    assert_eq!(server.lines("drained ").len(), 2);
}

// N-10, K-18: workers that never serve learn of the primary's death too, and end by themselves.
#[test]
fn workers_drain_when_the_primary_is_gone() {
    let server = Server::fixture("forks::plain").start_only();
    server.wait_for_line("2 up");
    server.signal(crate::support::Signal::SIGKILL);
    server.wait_exit();
    server.wait_until("2 lines", |server| server.lines("drained ").len() == 2);
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn plain() {
    if std::env::var_os("ADDR").is_none() {
        return;
    }
    crate::support::block_on(async {
        let exec = std::env::current_exe().unwrap();
        match Cluster::new().exec(exec).start().await.unwrap() {
            Role::Primary(primary) => {
                let mut events = primary.events();
                for _ in 0..2 {
                    let worker = primary.fork().unwrap();
                    say!("pid of {}: {}", worker.id(), worker.process().pid());
                }
                let mut up = 0;
                while let Some(event) = events.recv().await {
                    match event {
                        Event::Online { .. } => {
                            up += 1;
                            say!("{up} up");
                        }
                        Event::Exit { worker, exit } => {
                            let (code, after) = (exit.code(), exit.after_disconnect);
                            say!("{} ended with {code:?} after {after}", worker.id());
                        }
                        _ => {}
                    }
                }
                primary.wait().await.unwrap_err();
                drop(events);
                primary.wait().await.unwrap();
            }
            Role::Worker(worker) => {
                worker.draining().await;
                say!("drained {}", worker.id());
            }
        }
    });
}

type Told = Arc<Mutex<BTreeMap<u64, Vec<&'static str>>>>;

async fn supervise(primary: Primary) {
    let mut events = primary.events();
    // E-1: once, before everything else.
    assert!(matches!(events.recv().await, Some(Event::Setup)));
    assert!(
        primary.events().recv().await.is_none(),
        "there is one stream"
    );
    let told = Told::default();
    let reader = tokio::spawn({
        let told = told.clone();
        async move {
            while let Some(event) = events.recv().await {
                let (worker, what) = match event {
                    Event::Fork { worker } => (worker, "fork"),
                    Event::Online { worker } => (worker, "online"),
                    Event::Message { worker, .. } => (worker, "message"),
                    Event::Disconnect { worker } => (worker, "disconnect"),
                    Event::Exit { worker, .. } => (worker, "exit"),
                    other => panic!("{other:?}"),
                };
                told.lock()
                    .unwrap()
                    .entry(worker.id().get())
                    .or_default()
                    .push(what);
            }
        }
    });
    // C-7, C-8 bettered: an error, no event, and no id used up.
    let failed = primary.fork_with(|options| options.cwd("/does/not/exist"));
    assert!(matches!(failed, Err(Error::Spawn { .. })), "{failed:?}");
    // C-5: in the table when `fork` returns. W-14, W-15.
    let (one, two) = (primary.fork().unwrap(), primary.fork().unwrap());
    assert_eq!((one.id().get(), one.slot().get()), (1, 0));
    assert_eq!((two.id().get(), two.slot().get()), (2, 1));
    assert!(primary.worker(one.id()).is_some());
    assert!(one.is_connected() && !one.is_dead());
    one.online().await.unwrap();
    two.online().await.unwrap();
    // X-3, W-10: ids count up, slots are used again.
    one.process().kill(Signal::Kill).unwrap();
    let exit = one.exited().await;
    assert_eq!(
        (exit.code(), exit.signal(), exit.after_disconnect),
        (None, Some(Signal::Kill), false)
    );
    assert!(primary.worker(one.id()).is_none());
    let three = primary.fork().unwrap();
    assert_eq!((three.id().get(), three.slot().get()), (3, 0));
    assert!(one.listening().await.is_err(), "it never will");
    // C-15: one of them leaves already.
    drop(two.disconnect());
    // C-13, C-14, K-4, X-5: complete when all have ended, also one that had not even said hello.
    primary.disconnect().await;
    for worker in [&two, &three] {
        assert!(worker.is_dead() && !worker.is_connected());
        assert_eq!(worker.exited_after_disconnect(), Some(true));
        assert_eq!(worker.exited().await.code(), Some(0));
    }
    assert!(primary.workers().is_empty());
    primary.disconnect().await;
    // C-17: more can be forked.
    let said = say(&primary).await;
    let user = if rustix::process::geteuid().is_root() {
        1234
    } else {
        rustix::process::geteuid().as_raw()
    };
    assert_eq!(said, format!("yes in / as {user}"));
    // These are a server's.
    assert!(matches!(primary.scale(3).await, Err(Error::Unsupervised)));
    assert!(matches!(primary.restart().await, Err(Error::Unsupervised)));
    primary.shutdown().await;
    assert!(matches!(primary.fork(), Err(Error::Gone)));
    reader.await.unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told[&1], ["fork", "online", "disconnect", "exit"]);
    // E-9, I-22: a worker's last message before its end.
    assert_eq!(
        told[&2],
        ["fork", "online", "message", "disconnect", "exit"]
    );
    assert_eq!(
        told[&3],
        ["fork", "online", "message", "disconnect", "exit"]
    );
    assert_eq!(
        told[&4],
        ["fork", "online", "message", "disconnect", "exit"]
    );
    assert_eq!(told.len(), 4);
    say!("all as promised");
}

/// S-7: what only this one is told, and what it prints.
async fn say(primary: &Primary) -> String {
    let worker = primary.fork_with(|options| {
        let options = options
            .env("SAY", "yes")
            .cwd("/")
            .stdout(std::process::Stdio::piped());
        if rustix::process::geteuid().is_root() {
            options.gid(1234).uid(1234)
        } else {
            options
        }
    });
    let worker = worker.unwrap();
    let mut stdout = worker.process().take_stdout().unwrap();
    assert!(worker.process().take_stdout().is_none() && worker.process().take_stderr().is_none());
    worker.online().await.unwrap();
    worker.disconnect().await;
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    let said = text.lines().find_map(|line| line.strip_prefix("say: "));
    said.unwrap_or_default().to_owned()
}

async fn work(worker: Worker) {
    worker.draining().await;
    if let Ok(say) = std::env::var("SAY") {
        let here = std::env::current_dir().unwrap();
        say!(
            "say: {say} in {} as {}",
            here.display(),
            rustix::process::geteuid().as_raw()
        );
    }
    worker.send(&"the last word").unwrap();
    worker.disconnect().await;
    // W-14, W-13.
    assert!(!worker.is_connected());
    assert_eq!(worker.exited_after_disconnect(), Some(true));
}

// ===== what a fork is started with, says, and ends with =====

fn story(of: &str) {
    let server = Server::fixture("forks::stories").env("STORY", of);
    let (status, output) = server.start_expecting_exit();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("\nthe end"), "{output}");
}

// C-10, S-2, S-4 to S-7, S-11, S-12, N-8: what is said last counts, for all forks; one of them may be otherwise, and is alone in that.
#[test]
fn settings_hold_for_every_fork_and_one_may_differ() {
    story("settings");
}

// nobody asked for these ends.
#[test]
fn workers_end_themselves_in_every_way() {
    story("ends");
}

// I-1 to I-4, E-5, C-2 to C-4: everything that is JSON, bytes as they are, and nothing is reserved.
#[test]
fn any_value_and_any_bytes_are_a_message() {
    story("words");
}

// E-4, W-2, L-10: of TCP, unix and UDP sockets that a worker asks for, not of its own.
#[test]
fn a_listener_that_a_worker_opens_is_an_event() {
    story("listens");
}

// W-6, K-6: what a worker does to its channel is told with its name, and is its own end only.
#[test]
fn an_error_names_its_worker() {
    story("errors");
}

// N-7, C-11, K-22: also where the program forks its workers itself.
#[test]
fn a_policy_that_is_none_is_an_error_before_the_first_fork() {
    let server = Server::fixture("forks::stories").env("STORY", "ends");
    let server = server.env("AXUM_CLUSTER_SCHEDULING", "fastest");
    let (status, output) = server.start_expecting_exit();
    assert_ne!(status.code(), Some(0), "{output}");
    let error = "AXUM_CLUSTER_SCHEDULING is `fastest`";
    assert!(output.contains(error), "{output}");
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn stories() {
    let Ok(story) = std::env::var("STORY") else {
        return;
    };
    let base = ["forks::stories", "--exact", "--ignored", "--nocapture"];
    let args = move |last: &'static str| base.into_iter().chain([last]);
    let mut cluster = Cluster::new()
        .exec(std::env::current_exe().unwrap())
        .scheduling(axum_cluster::Scheduling::LeastConnections)
        .args(args("overruled"))
        .args(args("for-all"))
        .cwd("/")
        .silent(story == "settings");
    if story == "settings" && rustix::process::geteuid().is_root() {
        cluster = cluster.gid(1234).uid(1234);
    }
    crate::support::block_on(async {
        match (cluster.start().await.unwrap(), &*story) {
            (Role::Primary(primary), "settings") => settings(&primary, args("for-one")).await,
            (Role::Primary(primary), "ends") => ends(&primary).await,
            (Role::Primary(primary), "errors") => errors(&primary).await,
            (Role::Primary(primary), "words") => words(&primary).await,
            (Role::Primary(primary), _) => listens(&primary).await,
            (Role::Worker(worker), "settings") => tell_settings(&worker).await,
            (Role::Worker(_), "ends") => end(),
            (Role::Worker(_), "errors") => spoil().await,
            (Role::Worker(worker), "words") => say_words(&worker).await,
            (Role::Worker(worker), _) => listen(&worker).await,
        }
    });
}

async fn settings(primary: &Primary, other: impl Iterator<Item = &'static str>) {
    let text = |pipe: &mut dyn std::io::Read| {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        let said = text.lines().find_map(|line| line.strip_prefix("say: "));
        said.map(str::to_owned)
    };
    let first = primary.fork().unwrap();
    let other = primary.fork_with(|options| {
        let mut options = options.args(other).cwd("/proc").env("WORD", "its own");
        if rustix::process::geteuid().is_root() {
            options = options.gid(1235).uid(1235);
        }
        options
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
    });
    let (other, last) = (other.unwrap(), primary.fork().unwrap());
    primary.disconnect().await;
    for worker in [first, last] {
        let process = worker.process();
        let (mut stdout, mut stderr) = (
            process.take_stdout().unwrap(),
            process.take_stderr().unwrap(),
        );
        let plain = Some(format!("for-all in / with nothing as {}", user(1234)));
        assert_eq!(
            (text(&mut stdout), text(&mut stderr)),
            (plain.clone(), plain)
        );
    }
    assert!(other.process().take_stdout().is_none());
    let mut stderr = other.process().take_stderr().unwrap();
    let differs = format!("for-one in /proc with its own as {}", user(1235));
    assert_eq!(text(&mut stderr), Some(differs));
    say!("the end");
}

/// Only root can choose.
fn user(wanted: u32) -> u32 {
    let this = rustix::process::geteuid();
    if this.is_root() {
        wanted
    } else {
        this.as_raw()
    }
}

async fn tell_settings(worker: &Worker) {
    let here = std::env::current_dir().unwrap();
    let word = std::env::var("WORD").unwrap_or_else(|_| "nothing".into());
    let last = std::env::args().next_back().unwrap();
    let user = rustix::process::geteuid().as_raw();
    let said = format!("\nsay: {last} in {} with {word} as {user}", here.display());
    println!("{said}");
    eprintln!("{said}");
    worker.draining().await;
}

async fn ends(primary: &Primary) {
    for (how, code, signal) in [
        ("exit", Some(3), None),
        ("panic", Some(101), None),
        ("abort", None, Some(Signal::Abrt)),
        ("kill", None, Some(Signal::Kill)),
    ] {
        let worker = primary
            .fork_with(|options| options.env("END", how))
            .unwrap();
        worker.disconnected().await;
        let exit = worker.exited().await;
        assert_eq!((exit.code(), exit.signal()), (code, signal), "{how}");
        assert!(!exit.after_disconnect, "{how}");
        assert_eq!(worker.exited_after_disconnect(), Some(false), "{how}");
    }
    say!("the end");
}

fn end() {
    match &*std::env::var("END").unwrap() {
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        "kill" => {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
        _ => panic!("as uncaught as can be"),
    }
}

async fn errors(primary: &Primary) {
    let mut events = primary.events();
    let spoiler = primary.fork().unwrap();
    let mut told = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Error {
                worker,
                slot,
                error,
            } => {
                assert!(matches!(error, Error::Protocol(_)), "{error:?}");
                told.push((worker.unwrap().id(), slot.unwrap()));
            }
            Event::Exit { .. } => break,
            _ => {}
        }
    }
    assert_eq!(told, [(spoiler.id(), spoiler.slot())]);
    assert_eq!(spoiler.exited().await.signal(), Some(Signal::Kill));
    primary.fork().unwrap().exited().await;
    say!("the end");
}

/// Writes nonsense to whatever it has that is a channel.
async fn spoil() {
    use nix::sys::socket::{MsgFlags, send};
    for number in 3..64 {
        let _ = send(number, &[0xff; 9], MsgFlags::MSG_DONTWAIT);
    }
    std::future::pending::<()>().await;
}

fn values() -> Vec<serde_json::Value> {
    use serde_json::json;
    vec![
        json!("text: é, 世界, 𝄞, \n and \0"),
        json!(12),
        json!(-1.5),
        json!(true),
        json!(null),
        json!([1, "two", [3]]),
        json!({"a": {"b": null}}),
        json!({"cmd": "NODE_CLUSTER", "ack": -1}),
        json!({"cmd": "NODE_"}),
        // As JavaScript has it.
        json!(f64::NAN),
    ]
}

const BYTES: [u8; 5] = [0, 255, b'\n', 0, b'{'];

async fn words(primary: &Primary) {
    assert!(axum_cluster::cluster::is_primary() && !axum_cluster::cluster::is_worker());
    assert!(axum_cluster::cluster::worker().is_none());
    assert!(axum_cluster::cluster::primary().is_some());
    let mut events = primary.events();
    let worker = primary.fork().unwrap();
    for value in values() {
        worker.send(&value).unwrap();
    }
    worker.send_bytes(BYTES.to_vec()).unwrap();
    let mut heard = Vec::new();
    while heard.len() < values().len() + 1 {
        if let Some(Event::Message { message, .. }) = events.recv().await {
            heard.push(message);
        }
    }
    let bytes = heard.pop().unwrap();
    assert_eq!(bytes.bytes()[..], BYTES);
    assert!(matches!(bytes.json::<String>(), Err(Error::Json(_))));
    let heard: Vec<serde_json::Value> = heard.iter().map(|it| it.json().unwrap()).collect();
    assert_eq!(heard, values());
    worker.disconnect().await;
    say!("the end");
}

/// Says what it is told.
async fn say_words(worker: &Worker) {
    assert!(axum_cluster::cluster::is_worker() && !axum_cluster::cluster::is_primary());
    assert!(axum_cluster::cluster::primary().is_none());
    let this = axum_cluster::cluster::worker().unwrap();
    assert_eq!((this.id(), worker.is_connected()), (worker.id(), true));
    let no_json = BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(worker.send(&no_json), Err(Error::Json(_))));
    let mut messages = worker.messages();
    for _ in 0..=values().len() {
        let message = messages.recv().await.unwrap();
        worker.send_bytes(message.bytes().clone()).unwrap();
    }
    worker.draining().await;
}

async fn listens(primary: &Primary) {
    let mut events = primary.events();
    let directory = crate::support::TempDir::new();
    let path = directory.path("socket");
    let worker = primary
        .fork_with(|options| options.env("SOCKET", &path))
        .unwrap();
    worker.listening().await.unwrap();
    let (mut told, mut heard) = (Vec::new(), None);
    while let Some(event) = events.recv().await {
        match event {
            Event::Listening { asked, bound, .. } => {
                told.push((asked.unwrap().to_string(), bound.to_string()));
            }
            Event::Message { message, .. } => heard = Some(message),
            Event::Disconnect { .. } => break,
            _ => {}
        }
        if let (Some(_), 3) = (&heard, told.len()) {
            drop(worker.disconnect());
        }
    }
    let [tcp, unix, udp]: [String; 3] = heard.unwrap().json().unwrap();
    assert_eq!(unix, format!("unix:{path}"));
    let any = || "127.0.0.1:0".to_owned();
    assert_eq!(told, [(any(), tcp), (unix.clone(), unix), (any(), udp)]);
    assert_eq!(worker.exited().await.code(), Some(0));
    say!("the end");
}

async fn listen(worker: &Worker) {
    use axum_cluster::cluster::{bind_udp, listen};
    let path = std::env::var("SOCKET").unwrap();
    let tcp = listen("127.0.0.1:0").await.unwrap();
    let unix = listen(format!("unix:{path}")).await.unwrap();
    let udp = bind_udp("127.0.0.1:0").await.unwrap();
    let _own = listen("127.0.0.1:0").exclusive().await.unwrap();
    let bound = [tcp.local_addr(), unix.local_addr()].map(ToString::to_string);
    let [tcp, unix] = &bound;
    let udp = udp.local_addr().unwrap().to_string();
    worker.send(&[tcp, unix, &udp]).unwrap();
    worker.draining().await;
}
