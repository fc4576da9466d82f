//! No worker processes: the same program in one, for debuggers. DESIGN 3.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::{Conn, Server, Signal, request};

#[test]
fn one_process_is_primary_and_worker_0() {
    let server = Server::run("playground").workers(0).start();
    let answer = server.get("/");
    assert_eq!(
        (answer.body.as_str(), answer.worker(), answer.pid()),
        ("hello world", 0, server.pid())
    );
    assert_eq!(server.children(), []);
    // Said in the log as with workers.
    server.wait_for_line(&format!("listening on {} workers=0", server.addr()));
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn messages_loop_back() {
    let server = Server::run("playground")
        .workers(0)
        .env("GREET", "welcome")
        .start();
    server.wait_for_line("worker 0 heard welcome");
    assert_eq!(
        request(server.addr(), "POST", "/notify", &[], "")
            .unwrap()
            .status,
        200
    );
    server.wait_for_line("numReqs = 1");
    assert_eq!(
        request(server.addr(), "POST", "/broadcast", &[], "to all")
            .unwrap()
            .status,
        200
    );
    server.wait_for_line("worker 0 heard to all");
}

#[test]
fn requests_are_counted_as_ever() {
    let server = Server::run("request_count").workers(0).start();
    (0..50).for_each(|_| drop(server.get("/")));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    assert_eq!(
        server.lines("final: "),
        ["final: messages = 50, scoreboard = 50"]
    );
}

#[test]
fn term_lets_requests_finish_and_runs_what_is_below_serve() {
    let server = Server::run("playground").workers(0).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/slow?ms=500", &[], "").unwrap();
    // A second connection that was answered shows that the first one has been taken.
    server.get("/");
    server.signal(Signal::SIGTERM);
    let answer = conn.response().unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.header("connection")),
        ("after 500 ms", Some("close"))
    );
    assert_eq!(server.wait_exit().code(), Some(0));
    let exits = server.lines("exit ");
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert!(
        exits[0].contains("status=exit:0 in_flight=0 open=0 after_disconnect=true"),
        "{exits:?}"
    );
}

#[test]
fn a_second_term_ends_at_once() {
    let server = Server::run("playground").workers(0).start();
    let addr = server.addr().to_owned();
    let cut = thread::spawn(move || crate::support::try_get(&addr, "/slow?ms=60000"));
    server.get("/");
    server.signal(Signal::SIGTERM);
    // The first shuts the port; only then is the second another order.
    server.wait_until("the second signal's effect", |server| {
        server.signal_to(server.pid(), Signal::SIGTERM);
        !server.is_running()
    });
    assert!(cut.join().unwrap().is_err());
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn cleanup_runs_once() {
    let server = Server::run("cleanup").workers(0).start();
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait_exit().code(), Some(0));
    assert_eq!(server.output().matches("cleaned up").count(), 1);
    assert_eq!(server.lines("primary: cleaned up").len(), 1);
}

#[test]
fn quit_ends_at_once() {
    let server = Server::run("playground").workers(0).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/slow?ms=5000", &[], "").unwrap();
    server.get("/");
    let begun = Instant::now();
    server.signal(Signal::SIGQUIT);
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(conn.response().is_err());
}

// As with worker processes: sent to the group and to the process, it is one order.
#[test]
fn a_second_term_right_after_the_first_is_the_same_one() {
    let server = Server::run("playground").workers(0).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/slow?ms=500", &[], "").unwrap();
    server.get("/");
    server.signal(Signal::SIGTERM);
    // Refused: the first has been obeyed, so that the second is another signal to the process.
    server.wait_until("the end of accepting", |server| {
        Conn::open(server.addr()).is_err()
    });
    server.signal(Signal::SIGTERM);
    assert_eq!(conn.response().unwrap().body, "after 500 ms");
    assert_eq!(server.wait_exit().code(), Some(0));
}
