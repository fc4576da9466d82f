//! How one worker's life ends, asked for from either side, and what its handle says of it.

#![allow(
    clippy::print_stdout,
    clippy::exit,
    reason = "the fixture tells what happens, and does what it is asked for"
)]

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    routing::{get, post},
};
use axum_cluster::{ClusteredServer, Signal as Sig, Worker, WorkerHandle, cluster};

use crate::support::{Conn, Server, Signal, poll_for, procfs, request, say};

fn start(workers: u32) -> Server {
    Server::fixture("lives::fixture").workers(workers).start()
}

/// Has the primary do something with a worker.
fn tell(server: &Server, what: &str) {
    // The worker that passes it on may be the very one that it ends, before it has answered. What becomes of it is waited for.
    let _ = request(server.addr(), "POST", &format!("/primary/{what}"), &[], "");
}

/// The lines about one worker, in order.
fn story(server: &Server, id: u32) -> Vec<String> {
    let beginning = format!("{id}: ");
    let lines = server.lines(&beginning);
    lines
        .iter()
        .map(|line| line[beginning.len()..].to_owned())
        .collect()
}

/// Its whole life, if nothing but its end is of interest.
fn life(end: &str, after: bool) -> Vec<String> {
    [
        "fork connected=true dead=false after=None".to_owned(),
        "online connected=true dead=false after=None".to_owned(),
        "listening connected=true dead=false after=None".to_owned(),
        format!("disconnect connected=false dead=false after=Some({after})"),
        format!("exit {end} connected=false dead=true after=Some({after})"),
    ]
    .into()
}

fn check(server: &Server, id: u32, end: &str, after: bool) {
    server.wait_for_line(&format!("{id}: exit"));
    let mut story = story(server, id);
    // A handle tells how things are, and the process may have ended by the time the hook runs.
    story[3] = story[3].replace("dead=true", "dead=false");
    assert_eq!(story, life(end, after), "{}", server.output());
    server.wait_for_line(&format!(
        "latched {id}: online=true listening=true exit {end}"
    ));
}

// W-16, X-4; K-5, W-19: asked twice is asked once. W-12, W-13, W-14, W-15 in every line of the hooks; W-1, W-2, W-4, W-5: the futures
// of its handle tell the same, E-8.
#[test]
fn a_worker_that_the_primary_disconnects_drains_and_ends_with_0() {
    let server = start(2);
    let mut slow = Conn::open(server.addr()).unwrap();
    slow.ask("GET", "/slow", &[], "").unwrap();
    let id = server.number_after("slow in ", 0);
    tell(&server, &format!("disconnect-{id}"));
    tell(&server, &format!("disconnect-{id}"));
    server.wait_for_line("3: listening");
    assert!(
        !server.output().contains(&format!("{id}: disconnect")),
        "it is not done yet"
    );
    tell(&server, "finish");
    assert_eq!(slow.response().unwrap().body, "done");
    check(&server, id, "code=Some(0) signal=None", true);
    server.wait_for_line(&format!("ticket {id}: code=Some(0) signal=None"));
}

// W-20, X-1, K-6: first it may drain, so an idle worker ends with 0; its table entry goes with it; the dead take no signal.
#[test]
fn kill_lets_an_idle_worker_drain() {
    let server = start(2);
    // E-1: before the first fork.
    let output = server.output();
    assert!(output.find("set up") < output.find("1: fork"), "{output}");
    tell(&server, "kill-1");
    check(&server, 1, "code=Some(0) signal=None", true);
    server.wait_for_line("ticket 1: code=Some(0) signal=None");
    tell(&server, "kill-1");
    server.wait_for_line("ticket 1: gone");
}

// W-20 as section 0 decides it: one that is leaving already ends at once, by the very signal.
#[test]
fn kill_of_a_leaving_worker_shows_the_signal() {
    let server = start(2);
    for (nth, (order, signal)) in [("kill", "Term"), ("killint", "Int"), ("killkill", "Kill")]
        .into_iter()
        .enumerate()
    {
        let mut slow = Conn::open(server.addr()).unwrap();
        slow.ask("GET", "/slow", &[], "").unwrap();
        let id = server.number_after("slow in ", nth);
        tell(&server, &format!("disconnect-{id}"));
        tell(&server, &format!("{order}-{id}"));
        check(
            &server,
            id,
            &format!("code=None signal=Some({signal})"),
            true,
        );
        assert!(slow.response().is_err());
        server.wait_for_line(&format!("{}: listening", nth + 3));
    }
}

// X-17, section 0: a blocked worker is killed after the drain deadline (1 s here) and a second more.
#[test]
fn kill_of_a_blocked_worker_has_a_bound() {
    let server = start(2);
    let mut blocked = Conn::open(server.addr()).unwrap();
    blocked.ask("GET", "/block", &[], "").unwrap();
    let id = server.number_after("blocks in ", 0);
    let begun = Instant::now();
    tell(&server, &format!("kill-{id}"));
    check(&server, id, "code=None signal=Some(Kill)", true);
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(5));
}

// X-3, W-11 as section 0 decides them: `process().kill()` signals at once, and nobody asked the worker to leave.
#[test]
fn a_signal_to_the_process_ends_it_at_once() {
    let server = start(2);
    for (id, signal) in [
        (1, "Int"),
        (2, "Term"),
        (3, "Hup"),
        (4, "Kill"),
        (5, "Quit"),
    ] {
        tell(&server, &format!("signal{signal}-{id}"));
        check(
            &server,
            id,
            &format!("code=None signal=Some({signal})"),
            false,
        );
        server.wait_for_line(&format!("{}: listening", id + 2));
    }
    tell(&server, "signalTerm-1");
    server.wait_for_line("signal 1: gone");
}

// where the worker hangs, SIGKILL follows a second later.
#[test]
fn a_signal_to_the_process_of_a_blocked_worker_ends_it_too() {
    let server = start(2);
    let mut blocked = Conn::open(server.addr()).unwrap();
    blocked.ask("GET", "/block", &[], "").unwrap();
    let id = server.number_after("blocks in ", 0);
    tell(&server, &format!("signalTerm-{id}"));
    check(&server, id, "code=None signal=Some(Kill)", false);
}

// W-17, X-7; X-8, W-21.
#[test]
fn a_worker_ends_itself() {
    for (order, end, after) in [
        ("disconnect", "code=Some(0) signal=None", true),
        ("kill", "code=Some(0) signal=None", true),
        ("exit3", "code=Some(3) signal=None", false),
        ("abort", "code=None signal=Some(Abrt)", false),
    ] {
        let server = start(1);
        // It may be gone before it has answered.
        let _ = request(server.addr(), "POST", &format!("/worker/{order}"), &[], "");
        check(&server, 1, end, after);
        server.wait_for_line("2: listening");
        assert_eq!(server.get("/id").body, "2");
    }
}

// I-22: what a worker sent before it killed itself is delivered, before its end is told.
#[test]
fn the_last_message_comes_before_the_end() {
    let server = start(1);
    let _ = request(server.addr(), "POST", "/worker/farewell", &[], "");
    server.wait_for_line("1: exit");
    let story = story(&server, 1);
    let said: Vec<_> = story
        .iter()
        .filter(|line| line.starts_with("says "))
        .collect();
    assert_eq!(said.len(), 1000, "{}", server.output());
    assert_eq!(story[3], "says 0");
    assert_eq!(story[1002], "says 999");
    assert!(story[1003].starts_with("disconnect ") && story[1004].starts_with("exit code=Some(0)"));
}

// a worker that was stopped has connections on their way to it when it is killed.
#[test]
fn a_death_with_connections_on_their_way_is_told_like_any_other() {
    let server = start(2);
    let pid = server.number_after("pid of 1: ", 0);
    server.signal_to(pid, Signal::SIGSTOP);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Conn::open(server.addr()).unwrap();
            client.ask("GET", "/id", &[], "").unwrap();
            client
        })
        .collect();
    server.signal_to(pid, Signal::SIGKILL);
    check(&server, 1, "code=None signal=Some(Kill)", false);
    for mut client in clients {
        assert_ne!(client.response().unwrap().body, "1");
    }
}

// K-19: its runtime does not turn, and a thread of its own sees that the primary is gone.
#[test]
fn a_blocked_worker_does_not_outlive_its_primary() {
    let server = start(1);
    let pid = server.worker_pids()[0];
    let mut blocked = Conn::open(server.addr()).unwrap();
    blocked.ask("GET", "/block", &[], "").unwrap();
    server.wait_for_line("blocks in ");
    server.signal(Signal::SIGKILL);
    server.wait_exit();
    assert!(poll_for(Duration::from_secs(20), || {
        procfs::process(pid).is_none_or(|process| process.is_zombie())
    }));
}

// The channel closes when the worker has drained, also where its `main` goes on: disconnect, then exit.
#[test]
fn a_worker_is_disconnected_before_its_main_returns() {
    let server = Server::fixture("lives::fixture")
        .workers(2)
        .env("AFTER", "wait")
        .start();
    tell(&server, "disconnect-1");
    server.wait_for_line("1: disconnect connected=false dead=false after=Some(true)");
    assert!(!server.output().contains("1: exit"));
    let pid = server.number_after("pid of 1: ", 0);
    server.signal_to(pid, Signal::SIGKILL);
    check(&server, 1, "code=None signal=Some(Kill)", true);
}

fn state(worker: &WorkerHandle) -> String {
    format!(
        "connected={} dead={} after={:?}",
        worker.is_connected(),
        worker.is_dead(),
        worker.exited_after_disconnect()
    )
}

fn ended(exit: &axum_cluster::Exit) -> String {
    format!("code={:?} signal={:?}", exit.code(), exit.signal())
}

/// Latched: asked for only when everything has happened.
async fn latched(worker: WorkerHandle) {
    worker.disconnected().await;
    let exit = worker.exited().await;
    let (online, listening) = (
        worker.online().await.is_ok(),
        worker.listening().await.is_ok(),
    );
    assert_eq!(worker.process().exit_status(), Some(exit.status));
    say!(
        "latched {}: online={online} listening={listening} exit {}",
        worker.id(),
        ended(&exit)
    );
}

fn in_primary(order: &str) {
    let primary = cluster::primary().unwrap();
    let (what, id) = order.split_once('-').unwrap_or((order, "0"));
    let id: u64 = id.parse().unwrap();
    let worker = primary
        .workers()
        .into_iter()
        .find(|worker| worker.id().get() == id);
    let Some(worker) = worker else {
        match what {
            "finish" => drop(primary.broadcast(&"finish")),
            _ => say!(
                "{} {id}: gone",
                if what == "kill" { "ticket" } else { "signal" }
            ),
        }
        return;
    };
    let ticket = match what {
        "disconnect" => worker.disconnect(),
        "kill" => worker.kill(Sig::default()),
        "killint" => worker.kill(Sig::Int),
        "killkill" => worker.kill(Sig::Kill),
        signal => {
            let signals = [Sig::Int, Sig::Term, Sig::Hup, Sig::Kill, Sig::Quit];
            let named = |it: &Sig| signal == format!("signal{it:?}");
            let signal = signals.into_iter().find(named).unwrap();
            return worker.process().kill(signal).unwrap();
        }
    };
    tokio::spawn(async move {
        say!("ticket {id}: {}", ended(&ticket.await));
    });
}

fn router(worker: &Worker) -> Router {
    let finish = worker.clone();
    let slow = move || async move {
        let mut messages = finish.messages();
        say!("slow in {}", finish.id());
        messages.recv().await;
        "done"
    };
    Router::new()
        .route(
            "/id",
            get(|worker: Worker| async move { worker.id().to_string() }),
        )
        .route("/slow", get(slow))
        .route("/block", get(block))
        .route(
            "/endless",
            get(|| async {
                Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>())
            }),
        )
        .route(
            "/primary/{what}",
            post(|Path(what): Path<String>, worker: Worker| async move { worker.send(&what) }),
        )
        .route("/worker/{what}", post(in_worker))
}

async fn block(worker: Worker) {
    say!("blocks in {}", worker.id());
    std::thread::sleep(Duration::from_secs(100));
}

async fn in_worker(Path(what): Path<String>, worker: Worker) {
    assert_eq!(worker.exited_after_disconnect(), None);
    match &*what {
        "disconnect" => {
            drop(worker.disconnect());
            drop(worker.disconnect());
            assert_eq!(worker.exited_after_disconnect(), Some(true));
        }
        "kill" => {
            worker.kill();
            worker.kill();
        }
        "farewell" => {
            for n in 0..1000 {
                worker.send(&format!("says {n}")).unwrap();
            }
            worker.kill();
        }
        "exit3" => std::process::exit(3),
        _ => std::process::abort(),
    }
    std::future::pending::<()>().await;
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn fixture() {
    let Ok(addr) = std::env::var("ADDR") else {
        return;
    };
    let server = ClusteredServer::bind(addr)
        .program(std::env::current_exe().unwrap())
        .drain_deadline(Duration::from_secs(1))
        .on_ready(|primary| say!("listening on {}", primary.local_addrs()[0]))
        .on_setup(|| say!("set up"))
        .on_fork(|worker| {
            tokio::spawn(latched(worker.clone()));
            say!("pid of {}: {}", worker.id(), worker.process().pid());
            say!("{}: fork {}", worker.id(), state(worker));
        })
        .on_online(|worker| say!("{}: online {}", worker.id(), state(worker)))
        .on_listening(|worker, _| say!("{}: listening {}", worker.id(), state(worker)))
        .on_message(|worker, message| {
            let text: String = message.json().unwrap();
            if text.starts_with("says") {
                say!("{}: {text}", worker.id());
            } else {
                in_primary(&text);
            }
        })
        .on_disconnect(|worker| say!("{}: disconnect {}", worker.id(), state(worker)))
        .on_exit(|worker, exit| say!("{}: exit {} {}", worker.id(), ended(&exit), state(worker)));
    server
        .serve_with(|worker| async move { Ok(router(&worker)) })
        .run()
        .unwrap();
    if cluster::is_worker() && std::env::var_os("AFTER").is_some() {
        std::thread::sleep(Duration::from_secs(100));
    }
}
