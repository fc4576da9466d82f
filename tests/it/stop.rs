//! Ending, and the other signals: what is promised for each of them. T12, T18.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::support::{Conn, Server, Signal, TempDir, try_get};

/// A request that takes this long, in the hands of a worker.
fn in_flight(server: &Server, ms: u32) -> Conn {
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", &format!("/slow?ms={ms}"), &[], "").unwrap();
    // Connections are handed over in order: when each worker has answered a later one, this one has been taken.
    (0..2 * server.worker_pids().len()).for_each(|_| drop(server.get("/")));
    conn
}

#[test]
fn term_and_int_end_gracefully() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Server::run("playground").workers(2).start();
        let mut conn = in_flight(&server, 500);
        server.signal(signal);
        assert_eq!(conn.response().unwrap().body, "after 500 ms", "{signal}");
        assert_eq!(server.wait_exit().code(), Some(0), "{signal}");
        let exits = server.lines("exit ");
        assert_eq!(exits.len(), 2, "{signal}: {exits:?}");
        for exit in exits {
            assert!(
                exit.contains("status=exit:0 in_flight=0 open=0 after_disconnect=true"),
                "{signal}: {exit}"
            );
        }
    }
}

#[test]
fn an_idle_server_ends_at_once() {
    let server = Server::run("playground").workers(2).start();
    server.get("/");
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    server.wait_exit();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = Server::run("playground").workers(2).start();
    let mut conn = in_flight(&server, 60_000);
    server.signal(Signal::SIGTERM);
    server.wait_for_line("ending gracefully");
    let begun = Instant::now();
    // It counts from half a second after the first on, and may come as often as it likes.
    server.wait_until("the end", |server| {
        server.signal_to(server.pid(), Signal::SIGINT);
        !server.is_running()
    });
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(400)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
    assert!(conn.response().is_err());
    assert_eq!(server.wait_exit().code(), Some(0));
}

// systemd and `pkill` send it to the group and to the process: that is one order, not two.
#[test]
fn a_second_signal_right_after_the_first_is_the_same_one() {
    let server = Server::run("playground").workers(2).start();
    let mut conn = in_flight(&server, 1_000);
    server.signal(Signal::SIGTERM);
    server.wait_for_line("ending gracefully");
    server.signal(Signal::SIGTERM);
    assert_eq!(conn.response().unwrap().body, "after 1000 ms");
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn quit_ends_at_once() {
    let server = Server::run("playground").workers(2).start();
    let mut conn = in_flight(&server, 60_000);
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

// Also while workers boot: nothing has to be ready to be ended.
#[test]
fn a_cluster_that_boots_can_be_ended() {
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let server = Server::run("playground")
            .workers(2)
            .env("BOOT", "hang")
            .env("DRAIN_MS", 1_000)
            .start_only();
        server.wait_until("2 workers", |server| {
            server.output().matches("worker started").count() == 2
        });
        let begun = Instant::now();
        server.signal(signal);
        assert_eq!(server.wait_exit().code(), Some(0), "{signal}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{signal}: {:?}",
            begun.elapsed()
        );
    }
}

// T16 in small, L-14.
#[test]
fn the_socket_file_is_removed() {
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let dir = TempDir::new();
        let path = dir.path("app.sock");
        let server = Server::run("playground")
            .workers(2)
            .env("ADDR", format!("unix:{path}"))
            .start();
        assert_eq!(server.addr(), format!("unix:{path}"));
        assert_eq!(server.get("/").body, "hello world");
        server.signal(signal);
        assert_eq!(server.wait_exit().code(), Some(0), "{signal}");
        assert!(!std::fs::exists(path).unwrap(), "{signal}");
    }
}

#[test]
fn what_is_below_serve_runs_in_every_process() {
    let server = Server::run("cleanup").workers(2).start();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    let output = server.output();
    let cleaned: Vec<_> = output
        .lines()
        .filter(|line| line.ends_with(": cleaned up"))
        .collect();
    assert_eq!(
        cleaned.iter().copied().collect::<BTreeSet<_>>(),
        [
            "worker 0: cleaned up",
            "worker 1: cleaned up",
            "primary: cleaned up"
        ]
        .into()
    );
    assert_eq!(cleaned.len(), 3, "once each");
    assert_eq!(cleaned[2], "primary: cleaned up", "after its workers");
}

// K-7.
// W-18: what holds a worker after its end was asked for.
#[test]
fn a_main_that_goes_on_after_serve_is_ended() {
    let server = Server::run("playground")
        .workers(2)
        .env("AFTER", "sleep")
        .env("EXIT_GRACE_MS", 300)
        .start();
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
    let exits = server.lines("exit ");
    assert!(
        exits.len() == 2 && exits.iter().all(|exit| exit.contains("status=signal:9")),
        "{exits:?}"
    );
}

/// Ends the clients also when the test fails, which else would wait for them.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn l08_a_worker_that_is_sent_term_is_replaced_and_no_request_fails() {
    let server = Server::run("playground").workers(4).start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    while !stop.load(Relaxed) {
                        failed.extend(try_get(server.addr(), "/slow?ms=5").err());
                    }
                    failed
                })
            })
            .collect();
        let ends = StopAtEnd(&stop);
        for victim in server.worker_pids() {
            server.signal_to(victim, Signal::SIGTERM);
            server.wait_until("its replacement", |server| {
                let pids = server.worker_pids();
                pids.len() == 4 && !pids.contains(&victim)
            });
        }
        drop(ends);
        for client in clients {
            assert!(client.join().unwrap().is_empty());
        }
    });
    server.wait_until("4 exits", |server| server.lines("exit ").len() == 4);
    let exits = server.lines("exit ");
    assert!(
        exits
            .iter()
            .all(|exit| exit.contains("status=exit:0 in_flight=0 open=0")),
        "{exits:?}"
    );
}

#[test]
fn hup_replaces_every_worker() {
    let server = Server::run("playground")
        .workers(2)
        .through("setsid")
        .start();
    let before: BTreeSet<_> = server.worker_pids().into_iter().collect();
    server.signal(Signal::SIGHUP);
    server.wait_until("2 other workers", |server| {
        let now: BTreeSet<_> = server.worker_pids().into_iter().collect();
        now.len() == 2 && now.is_disjoint(&before)
    });
    assert_ne!(server.get("/").header("x-generation"), Some("1"));
}

#[test]
fn ttin_and_ttou_scale_and_usr1_opens_logs_anew_everywhere() {
    // Without a terminal, which would send the first two itself.
    let server = Server::run("playground")
        .workers(2)
        .through("setsid")
        .start();
    server.signal(Signal::SIGTTIN);
    server.wait_until("3 workers", |server| {
        server.lines("fork to listening").len() == 3 && server.worker_pids().len() == 3
    });
    server.signal(Signal::SIGTTOU);
    server.wait_until("2 workers", |server| server.worker_pids().len() == 2);
    for times in 1..=2 {
        server.signal(Signal::SIGUSR1);
        server.wait_until(
            "the primary and both workers open their logs anew",
            |server| {
                let reopened = |who| server.lines(&format!("{who} opens its log anew")).len();
                [
                    reopened("primary"),
                    reopened("worker 0"),
                    reopened("worker 1"),
                ] == [times; 3]
            },
        );
    }
    assert_eq!(server.get("/").body, "hello world");
}
