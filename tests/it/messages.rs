//! Messages and counts: exact, in both directions. I-6, W-3.

use std::thread;

use crate::support::{Conn, Server, Signal, get, request};

/// The two totals that `request_count` prints at its end.
fn totals(server: &Server) -> (u64, u64) {
    let line = server
        .lines("final: ")
        .pop()
        .unwrap_or_else(|| panic!("no last line: {}", server.output()));
    let numbers: Vec<u64> = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    (numbers[0], numbers[1])
}

// T30 in small, K-17; the million is in the proof.
#[test]
fn request_count_counts_every_request_once() {
    let server = Server::run("request_count").workers(4).start();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut conn = Conn::open(server.addr()).unwrap();
                for _ in 0..400 {
                    conn.ask("GET", "/", &[], "").unwrap();
                    assert_eq!(conn.response().unwrap().body, "hello world");
                }
                for _ in 0..100 {
                    assert_eq!(get(server.addr(), "/").body, "hello world");
                }
            });
        }
    });
    server.wait_for_line("numReqs = 2000 (scoreboard: 2000)");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    assert_eq!(totals(&server), (2000, 2000));
}

// I-23.
// What a worker sent last is flushed when it ends gracefully: nothing waits for the ten milliseconds of a batch. T15, I-21, K-15.
#[test]
fn messages_sent_last_are_flushed() {
    for _ in 0..5 {
        let server = Server::run("request_count").workers(2).start();
        (0..20).for_each(|_| drop(server.get("/")));
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_exit().code(), Some(0));
        assert_eq!(totals(&server), (20, 20));
    }
}

#[test]
fn a_broadcast_reaches_every_worker() {
    let server = Server::run("playground").workers(4).start();
    for text in ["one", "two", "three"] {
        assert_eq!(
            request(server.addr(), "POST", "/broadcast", &[], text)
                .unwrap()
                .status,
            200
        );
    }
    server.wait_until("12 lines", |server| {
        server.output().matches(" heard ").count() == 12
    });
    for id in 1..=4 {
        // Three workers sent one each, so the order among them is the primary's; but all workers hear the same.
        assert_eq!(heard(&server, id), heard(&server, 1));
    }
}

fn heard(server: &Server, id: u32) -> Vec<String> {
    let beginning = format!("worker {id} heard ");
    server
        .lines(&beginning)
        .iter()
        .map(|line| line[beginning.len()..].to_owned())
        .collect()
}

// W-3.
// The brief's example of `worker.send`, W-22: both directions, and a replacement is greeted as well.
#[test]
fn workers_send_back_what_they_are_sent() {
    let server = Server::run("echo_messages").workers(2).start();
    for id in [1, 2] {
        server.wait_for_line(&format!("worker {id} sends back: hi there"));
    }
    let victim = server.worker_pids()[0];
    server.signal_to(victim, Signal::SIGKILL);
    server.wait_for_line("worker 3 sends back: hi there");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    // I-6, at most once: nobody was sent anything twice.
    assert_eq!(server.output().matches("hi there").count(), 3);
}

// I-20, K-14: a message sent at the fork, before the worker is a process that could listen, waits for its first subscriber.
#[test]
fn messages_from_early_on_are_kept() {
    let server = Server::run("playground")
        .workers(3)
        .env("GREET", "welcome")
        .env("BOOT", "slow:200")
        .start();
    server.wait_until("3 lines", |server| {
        server.output().matches(" heard welcome").count() == 3
    });
    let victim = server.worker_pids()[0];
    server.signal_to(victim, Signal::SIGKILL);
    server.wait_until("the replacement's line", |server| {
        heard(server, 4) == ["welcome"]
    });
}

// What does not fit a datagram goes beside it.
#[test]
fn a_message_of_any_size_arrives() {
    let server = Server::run("playground").workers(2).start();
    let large = "x".repeat(700_000);
    assert_eq!(
        request(server.addr(), "POST", "/broadcast", &[], &large)
            .unwrap()
            .status,
        200
    );
    let fits = "x".repeat(60_000);
    assert_eq!(
        request(server.addr(), "POST", "/broadcast", &[], &fits)
            .unwrap()
            .status,
        200
    );
    server.wait_until("4 lines", |server| {
        server.output().matches(" heard ").count() == 4
    });
    for id in 1..=2 {
        let mut heard = heard(&server, id);
        // The two may have been sent by two workers.
        heard.sort();
        assert_eq!(heard, ["60000 bytes", "700000 bytes"]);
    }
}
