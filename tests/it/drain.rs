//! The graceful end, under load (T12's outer half).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, Outcome, Running, Tally, Wire, sized},
    support::{Server, Signal},
};

const MS: Duration = Duration::from_millis(1);
const DRAIN: Duration = Duration::from_secs(5);

/// Every kind of client at once, each until it is refused.
fn load(server: &Server) -> Vec<Running> {
    let load = || Load::new(server.addr()).clients(3).until_refused();
    let keep = |think| Mode::KeepAlive { think };
    vec![
        load().start(),
        load().mode(keep(Duration::ZERO)).start(),
        load().mode(keep(20 * MS)).start(),
        load().mode(keep(Duration::ZERO)).get("/slow?ms=60").start(),
        load().mode(Mode::Pipelined { depth: 4 }).start(),
        load().echo(256 * 1024, 8, 5 * MS).start(),
    ]
}

fn must_have_lost_nothing(tally: &Tally) {
    // A connection that nobody had accepted when the listening socket closed never came to a request.
    let never_taken = tally.count(Outcome::Reset) + tally.count(Outcome::WriteError);
    tally.must(
        "every response begun is complete",
        tally.failed() == tally.count(Outcome::Refused) + never_taken,
    );
    tally.must(
        "no connection that was served is reset",
        tally.count_reused(Outcome::Reset) + tally.count_reused(Outcome::WriteError) == 0,
    );
}

fn ends_under_load(everybody: bool) {
    let mut sum: Option<Tally> = None;
    let mut longest = Duration::ZERO;
    for _ in 0..sized(20, 4) {
        let server = Server::run("playground")
            .workers(4)
            .env("DRAIN_MS", DRAIN.as_millis())
            .start();
        let running = load(&server);
        sleep(300 * MS);
        let begun = Instant::now();
        if everybody {
            server.signal_all(Signal::SIGTERM);
        } else {
            server.signal(Signal::SIGTERM);
        }
        assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
        let took = begun.elapsed();
        longest = longest.max(took);
        assert!(took <= DRAIN + 1000 * MS, "{took:?}");
        assert_eq!(
            server.output().matches("worker started").count(),
            4,
            "one was started after TERM\n{}",
            server.output()
        );
        assert_eq!(
            server
                .lines("exit worker=")
                .iter()
                .filter(|line| line.contains("status=exit:0"))
                .count(),
            4,
            "{}",
            server.output()
        );
        for load in running {
            let tally = load.wait();
            must_have_lost_nothing(&tally);
            sum = Some(match sum.take() {
                Some(sum) => sum.and(tally),
                None => tally,
            });
        }
    }
    eprintln!("{}  ended after {longest:.1?} at the latest", sum.unwrap());
}

fn every_worker_ended_with_0(server: &Server) {
    assert!(
        server
            .lines("exit worker=")
            .iter()
            .all(|line| line.contains("status=exit:0")),
        "{}",
        server.output()
    );
}

#[test]
fn term_to_the_primary_under_load_cuts_nothing() {
    ends_under_load(false);
}

#[test]
fn term_to_all_processes_at_once_under_load_cuts_nothing() {
    ends_under_load(true);
}

#[test]
fn a_request_longer_than_the_deadline_is_cut_there_and_the_end_is_still_a_success() {
    let server = Server::run("playground")
        .workers(2)
        .env("DRAIN_MS", 400)
        .start();
    let mut slow = Wire::to(server.addr()).unwrap();
    slow.send(b"GET /slow?ms=30000 HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    sleep(100 * MS);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(slow.response().unwrap_err(), Outcome::Reset);
    let cut = begun.elapsed();
    assert!((400 * MS..=900 * MS).contains(&cut), "{cut:?}");
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
    assert!(begun.elapsed() <= 1400 * MS, "{:?}", begun.elapsed());
    every_worker_ended_with_0(&server);
}

// L7: the report of what was cut.
#[test]
fn what_is_cut_at_the_deadline_is_logged_and_told_to_the_hook() {
    for workers in [1, 0] {
        let server = Server::run("playground")
            .workers(workers)
            .env("DRAIN_MS", 400)
            .start();
        let id = 1_u32.min(workers);
        let mut wires: Vec<_> = (0..20).map(|_| Wire::to(server.addr()).unwrap()).collect();
        wires[0]
            .send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n1")
            .unwrap();
        server.get("/");
        for wire in &mut wires[1..] {
            wire.send(b"GET /slow?ms=60000 HTTP/1.1\r\nHost: test\r\n\r\n")
                .unwrap();
        }
        // Connections are handed over in order.
        server.get("/");
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
        let cut = server.lines("cut worker=");
        assert_eq!(cut.len(), 16, "{}", server.output());
        let beginning = format!("cut worker={id} of=20 ");
        assert!(
            cut.iter().all(|line| line.starts_with(&beginning)),
            "{cut:#?}"
        );
        assert!(cut[0].contains("POST /echo after "), "{cut:#?}");
        assert!(cut[1].contains("GET /slow after "), "{cut:#?}");
        let log = server.output();
        let logged = |text| log.matches(text).count();
        assert_eq!(
            logged("a request was cut at the drain deadline"),
            16,
            "{log}"
        );
        assert_eq!(
            logged("more requests were cut at the drain deadline"),
            1,
            "{log}"
        );
    }
}

// The answer is in the worker's hands and in the kernel's while its client does not read.
#[test]
fn a_slow_reader_gets_its_answer_to_the_end() {
    let server = Server::run("playground")
        .workers(2)
        .env("DRAIN_MS", DRAIN.as_millis())
        .start();
    let body = vec![b'x'; 2_000_000];
    let mut wires: Vec<_> = (0..4).map(|_| Wire::to(server.addr()).unwrap()).collect();
    for wire in &mut wires {
        wire.send(
            format!(
                "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .as_bytes(),
        )
        .unwrap();
        wire.send(&body).unwrap();
    }
    sleep(100 * MS);
    server.signal_all(Signal::SIGTERM);
    sleep(1000 * MS);
    for wire in &mut wires {
        assert!(wire.response().unwrap().body == body);
    }
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
}

// A worker that can take no more connections must hear the order to leave all the same.
#[test]
fn a_worker_that_is_full_leaves_as_quickly_as_any() {
    let server = Server::run("playground")
        .workers(1)
        .env("MAX_CONNECTIONS", 4)
        .env("LINGER_MS", 300)
        .start();
    let mut idle: Vec<_> = (0..4).map(|_| Wire::to(server.addr()).unwrap()).collect();
    idle.iter_mut()
        .for_each(|wire| assert_eq!(wire.get("/").unwrap().status, 200));
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
    assert!(
        begun.elapsed() <= 2000 * MS,
        "{:?}\n{}",
        begun.elapsed(),
        server.output()
    );
    every_worker_ended_with_0(&server);
}
