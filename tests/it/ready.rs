//! Ready and not ready any more: who is told so, and what is still served. L10, L11, L5.

use std::time::{Duration, Instant};

use crate::{
    client::Wire,
    support::{Server, Signal, TempDir, procfs},
};

const MS: Duration = Duration::from_millis(1);

/// Clients that have connected and sent their requests while the primary accepts nothing; then TERM, then it goes on.
fn ended_with_a_full_backlog(server: &Server) {
    server.get("/");
    server.signal(Signal::SIGSTOP);
    server.wait_until("the primary is stopped", |server| {
        procfs::process(server.pid()).is_some_and(|primary| primary.state == 'T')
    });
    let mut waiting: Vec<_> = (0..100).map(|_| Wire::to(server.addr()).unwrap()).collect();
    for wire in &mut waiting {
        wire.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    }
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGCONT);
    for wire in &mut waiting {
        assert_eq!(wire.response().unwrap().status, 200, "{}", server.output());
    }
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
    assert_eq!(server.output().matches("worker started").count(), 2);
}

#[test]
fn l10_the_backlog_is_served_before_a_listener_closes() {
    ended_with_a_full_backlog(&Server::run("playground").workers(2).start());
    let directory = TempDir::new();
    let address = format!("unix:{}", directory.path("s.sock"));
    ended_with_a_full_backlog(
        &Server::run("playground")
            .workers(2)
            .env("ADDR", &address)
            .start(),
    );
}

// A worker that accepts itself and is stopped holds the socket open: who came then was let into the backlog, and reset at the end.
#[test]
fn l10_nobody_is_let_in_where_nobody_accepts_any_more() {
    let server = Server::run("playground")
        .workers(2)
        .env("AXUM_CLUSTER_SCHEDULING", "shared")
        .start();
    let stopped = server.worker_pids()[0];
    server.signal_to(stopped, Signal::SIGSTOP);
    server.signal(Signal::SIGTERM);
    server.wait_for_line("ending gracefully");
    server.wait_until("who comes is refused", |server| {
        std::net::TcpStream::connect(server.addr()).is_err()
    });
    assert!(server.is_running(), "the stopped one is waited for");
    server.signal_to(stopped, Signal::SIGCONT);
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
}

fn ends_in(delay: Duration, workers: u32) -> Server {
    let server = Server::run("playground")
        .workers(workers)
        .env("DRAIN_DELAY_MS", delay.as_millis())
        .env("LINGER_MS", 100)
        .env("READINESS", "print")
        .start();
    server.wait_for_line("cluster ready: true");
    assert_eq!(server.get("/ready").status, 200);
    server
}

#[test]
fn l11_readiness_says_no_before_the_listener_closes() {
    const DELAY: Duration = Duration::from_millis(1_500);
    for workers in [2, 0] {
        let server = ends_in(DELAY, workers);
        let mut kept = Wire::to(server.addr()).unwrap();
        assert_eq!(kept.get("/").unwrap().status, 200);
        let begun = Instant::now();
        // As systemd and `pkill` do: nobody is replaced because of it.
        server.signal_all(Signal::SIGTERM);
        server.wait_until("readiness says no", |server| {
            server.get("/ready").status == 503
        });
        server.wait_for_line("cluster ready: false");
        // Longer than the primary would wait for a TERM of its own.
        while begun.elapsed() < DELAY - 500 * MS {
            assert_eq!(server.get("/ready").status, 503, "new connections too");
            assert_eq!(server.get("/").status, 200);
            assert!(!kept.get("/").unwrap().closes, "it goes on as before");
        }
        assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
        let took = begun.elapsed();
        assert!(took >= DELAY, "{took:?}");
        let started = server.output().matches("worker started").count();
        assert_eq!(started, workers as usize, "{}", server.output());
    }
}

#[test]
fn a_second_signal_during_the_delay_ends_at_once() {
    for workers in [2, 0] {
        let server = ends_in(Duration::from_secs(60), workers);
        server.signal(Signal::SIGTERM);
        server.wait_for_line("cluster ready: false");
        let begun = Instant::now();
        server.wait_until("the end", |server| {
            server.signal_to(server.pid(), Signal::SIGTERM);
            !server.is_running()
        });
        let took = begun.elapsed();
        assert!((300 * MS..3_000 * MS).contains(&took), "{took:?}");
        assert_eq!(server.wait_exit().code(), Some(0), "{}", server.output());
    }
}

#[test]
fn a_worker_that_dies_during_the_delay_is_replaced_by_one_that_is_not_ready_either() {
    let server = ends_in(Duration::from_secs(60), 1);
    server.signal(Signal::SIGTERM);
    server.wait_for_line("cluster ready: false");
    server.signal_to(server.worker_pids()[0], Signal::SIGKILL);
    server.wait_until("the next worker listens", |server| {
        server.output().matches("worker listening").count() == 2
    });
    let answer = server.get("/ready");
    assert_eq!((answer.status, answer.worker()), (503, 2));
    server.signal(Signal::SIGQUIT);
    server.wait_exit();
}

#[test]
fn the_cluster_is_not_ready_while_a_worker_is_missing() {
    let server = Server::run("playground")
        .workers(2)
        .env("READY", "late:200")
        .env("READINESS", "print")
        .start();
    server.wait_for_line("cluster ready: true");
    server.signal_to(server.worker_pids()[0], Signal::SIGKILL);
    server.wait_until("ready again", |server| {
        server.lines("cluster ready: ")
            == [true, false, true].map(|it| format!("cluster ready: {it}"))
    });
}

// L5: no client meets a worker that is not ready.
#[test]
fn a_worker_listens_when_it_says_that_it_is_ready() {
    let begun = Instant::now();
    let server = Server::run("playground")
        .workers(2)
        .env("READY", "late:600")
        .start();
    assert!(begun.elapsed() >= 600 * MS);
    assert_eq!(server.get("/").worker(), 1);
    server.signal(Signal::SIGHUP);
    server.wait_until("the new one has begun", |server| {
        server.output().matches("worker started").count() == 3
    });
    let (begun, mut generation) = (Instant::now(), 1);
    while generation == 1 {
        let answer = server.get("/");
        generation = answer.header("x-generation").unwrap().parse().unwrap();
    }
    assert!(begun.elapsed() >= 500 * MS, "{:?}", begun.elapsed());
}

#[test]
fn a_worker_that_fails_to_get_ready_says_why_and_one_that_never_is_is_killed() {
    let failing = Server::run("playground")
        .workers(1)
        .env("READY", "fail")
        .start_only();
    failing.wait_for_line("a worker did not get ready: `ready_when` failed");
    failing.wait_for_line("asked not to get ready");
    failing.signal(Signal::SIGQUIT);
    failing.wait_exit();
    assert!(!failing.output().contains("worker listening"));
    let hanging = Server::run("playground")
        .workers(1)
        .env("READY", "never")
        .env("BOOT_MS", 400)
        .start_only();
    hanging.wait_for_line("was not ready in time: killed");
    hanging.signal(Signal::SIGQUIT);
    hanging.wait_exit();
    assert!(!hanging.output().contains("worker listening"));
}
