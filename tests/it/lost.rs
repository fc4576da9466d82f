//! Ways to lose a request, by the numbers of `requests-lost.md`, where no other module has a test of them yet.
//!
//! `cargo test --test it l0` and `l1` run all of the list, wherever they are.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, Outcome, Wire, sized},
    restart::must_have_lost_nothing,
    shaken::{must_all_be_good, some},
    support::{Server, Signal},
};

const MS: Duration = Duration::from_millis(1);

fn wires(server: &Server, count: usize) -> Vec<Wire> {
    let wires = (0..count).map(|_| Wire::to(server.addr()).unwrap());
    wires.collect()
}

/// Each is answered once more, and told that it was the last time. A worker that has not heard of the end yet may answer before that.
fn must_be_answered_a_last_time(mut wires: Vec<Wire>) {
    for wire in &mut wires {
        loop {
            let answer = wire.get("/").unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            if answer.closes {
                break;
            }
        }
        assert_eq!(wire.response().unwrap_err(), Outcome::Reset, "the end");
    }
}

// Where no other worker can take a connection, the race is won by waiting for the request that is on its way.
#[test]
fn l01_an_idle_connection_is_answered_once_more_when_the_server_ends() {
    let server = Server::run("playground").workers(2).start();
    let mut idle = wires(&server, 8);
    idle.iter_mut()
        .for_each(|wire| assert_eq!(wire.get("/").unwrap().status, 200));
    server.signal(Signal::SIGTERM);
    server.wait_for_line("ending gracefully");
    must_be_answered_a_last_time(idle);
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn l02_a_connection_without_a_byte_is_answered_when_its_worker_was_replaced() {
    let server = Server::run("playground").workers(2).start();
    let silent = wires(&server, 16);
    // Handed over in order: when each worker has answered a later one, these have been taken.
    Load::new(server.addr()).count(8).run().must_be_perfect();
    server.signal(Signal::SIGHUP);
    server.wait_until("two new workers and the end of the old", |server| {
        server.output().contains(" restarted ") && server.worker_pids().len() == 2
    });
    for mut wire in silent {
        assert_eq!(wire.get("/").unwrap().number("x-generation"), 2);
    }
}

#[test]
fn l02_a_connection_without_a_byte_is_answered_when_the_server_ends() {
    let server = Server::run("playground").workers(2).start();
    let silent = wires(&server, 8);
    Load::new(server.addr()).count(8).run().must_be_perfect();
    server.signal(Signal::SIGTERM);
    server.wait_for_line("ending gracefully");
    must_be_answered_a_last_time(silent);
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn l05_the_old_worker_answers_for_as_long_as_the_new_one_boots() {
    let server = Server::run("playground")
        .workers(1)
        .env("BOOT", "slow:1500")
        .start();
    let think = Mode::KeepAlive { think: MS };
    let running = Load::new(server.addr()).clients(4).mode(think).start();
    server.wait_until("answers", |_| running.done() > 50);
    let old = server.worker_pids();
    server.signal(Signal::SIGHUP);
    server.wait_until("a second worker", |server| server.worker_pids().len() == 2);
    let done = running.done();
    server.wait_until("answers while it boots", |_| running.done() > done + 50);
    assert!(server.worker_pids().contains(&old[0]));
    assert!(!server.output().contains(" restarted "));
    server.wait_until("the end of the old one", |server| {
        server.worker_pids().iter().all(|pid| !old.contains(pid))
    });
    let done = running.done();
    server.wait_until("answers of the new one", |_| running.done() > done + 50);
    let tally = running.stop();
    must_have_lost_nothing(&tally, 1);
    tally.must("nobody waited for the boot", tally.slowest() < 1_500 * MS);
}

//
// A stopped worker takes what is handed to it, which is nothing but a write into its socket, and dies before it has looked at it.
#[test]
fn l06_connections_handed_to_a_worker_that_dies_go_to_another() {
    const CONNECTIONS: usize = 12;
    for _ in 0..sized(20, 3) {
        let server = Server::run("playground").workers(2).start();
        Load::new(server.addr()).count(8).run().must_be_perfect();
        let victim = server.worker_pids()[0];
        server.signal_to(victim, Signal::SIGSTOP);
        let (sent, addr) = (Barrier::new(CONNECTIONS + 1), server.addr());
        let answers: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut wire = Wire::to(addr).unwrap();
                        wire.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
                        sent.wait();
                        wire.response().map(|response| response.status)
                    })
                })
                .collect();
            sent.wait();
            server.signal_to(victim, Signal::SIGKILL);
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .collect()
        });
        assert_eq!(answers, [Ok(200); CONNECTIONS], "{}", server.output());
    }
}

// The whole body is sent, nobody reads it, and the client looks at the answer last.
#[test]
fn l09_an_answer_survives_the_body_that_nobody_read() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect_first_or_later()?;
        let body = "x".repeat(200_000);
        let head = format!(
            "POST /ignore/7 HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // The server may have ended it before the last byte; its answer is there all the same.
        let _ = wire.send(format!("{head}{body}").as_bytes());
        case.moment();
        case.expect(wire.response(), "7").map(drop)
    });
}

#[test]
fn l12_clients_that_never_pause_do_not_keep_a_server_from_ending() {
    let server = Server::run("playground").workers(2).start();
    let busy = Mode::KeepAlive {
        think: Duration::ZERO,
    };
    let running = Load::new(server.addr())
        .clients(8)
        .mode(busy)
        .until_refused()
        .start();
    server.wait_until("answers", |_| running.done() > 200);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    let took = begun.elapsed();
    // The deadline of the drain is 30 s.
    assert!(took < 5_000 * MS, "{took:?}");
    let tally = running.wait();
    // A connection that nobody had accepted when the listening socket closed never came to a request.
    let on_used = tally.count_reused(Outcome::Reset) + tally.count_reused(Outcome::WriteError);
    tally.must("no connection that was served is reset", on_used == 0);
    tally.must(
        "nothing is cut, nothing hangs",
        tally.count(Outcome::Cut) + tally.count(Outcome::Timeout) == 0,
    );
}
