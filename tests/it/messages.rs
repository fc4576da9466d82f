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

// K-6: sending that cannot work is a result, and ends nobody.
#[test]
fn a_message_that_is_too_large_is_an_error_of_the_sender() {
    let server = Server::run("playground").workers(2).start();
    let large = "x".repeat(70_000);
    assert_eq!(
        request(server.addr(), "POST", "/broadcast", &[], &large)
            .unwrap()
            .status,
        500
    );
    let fits = "x".repeat(60_000);
    assert_eq!(
        request(server.addr(), "POST", "/broadcast", &[], &fits)
            .unwrap()
            .status,
        200
    );
    server.wait_until("2 lines", |server| {
        server.output().matches(" heard ").count() == 2
    });
    assert_eq!(heard(&server, 1), ["60000 bytes"]);
    assert_eq!(heard(&server, 2), ["60000 bytes"]);
}
