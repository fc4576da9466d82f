//! A worker that dies, hangs or never comes up is dealt with, and nobody else is. K-20.

use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::support::{Server, Signal, procfs, try_get};

/// The one line about the exit of this process.
fn exit_of(server: &Server, pid: u32) -> String {
    let about = format!(" pid={pid} ");
    let line = |server: &Server| {
        server
            .lines("exit ")
            .into_iter()
            .find(|line| line.contains(&about))
    };
    server.wait_until(&format!("the exit of {pid}"), |server| {
        line(server).is_some()
    });
    line(server).unwrap()
}

// T5, C-18, E-7, W-13: whatever ends a worker, the same place is taken by a new one.
#[test]
fn a_worker_that_dies_is_replaced() {
    let server = Server::run("playground").workers(2).start();
    for (how, status) in [
        ("exit", "exit:1"),
        ("abort", "signal:6"),
        ("panic", "exit:101"),
        ("segv", "signal:11"),
    ] {
        server.wait_until("2 workers", |server| {
            server.get("/").status == 200 && server.worker_pids().len() == 2
        });
        let before = server.worker_pids();
        assert!(
            try_get(server.addr(), &format!("/crash?how={how}")).is_err(),
            "{how} answered"
        );
        server.wait_until("another worker", |server| {
            server.worker_pids().len() == 2 && server.worker_pids() != before
        });
        let gone: Vec<_> = before
            .iter()
            .copied()
            .filter(|&pid| !server.worker_pids().contains(&pid))
            .collect();
        assert_eq!(gone.len(), 1, "{how} took another worker with it");
        let exit = exit_of(&server, gone[0]);
        assert!(
            exit.contains(&format!(
                "status={status} in_flight=1 open=1 after_disconnect=false"
            )),
            "{how}: {exit}"
        );
        assert_eq!(server.get("/").body, "hello world");
    }
    // Places are used again, ids never.
    let part = |n: usize| {
        server
            .lines("exit ")
            .iter()
            .map(|line| line.split(' ').nth(n).unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(part(1).len(), 4, "one id, two exits");
    assert!(
        part(2).is_subset(&["slot=0".to_owned(), "slot=1".to_owned()].into()),
        "{:?}",
        part(2)
    );
    server.wait_until("6 workers listening in all", |server| {
        server.lines("fork to listening").len() == 6
    });
    for _ in 0..4 {
        let answering = format!("worker={}", server.get("/").worker());
        assert!(
            !part(1).contains(&answering),
            "the id of a dead worker was used again: {answering}"
        );
    }
}

// T3.
#[test]
fn a_worker_that_is_never_ready_is_killed() {
    let server = Server::run("playground")
        .workers(1)
        .env("BOOT", "hang")
        .env("BOOT_MS", 300)
        .env("DRAIN_MS", 500)
        .start_only();
    server.wait_for_line("was not ready in time: killed");
    server.wait_until("its exit", |server| !server.lines("exit ").is_empty());
    let exit = server.lines("exit ").remove(0);
    assert!(exit.contains("status=signal:9"), "{exit}");
    server.wait_until("a second try", |server| {
        server.output().matches("worker started").count() == 2
    });
}

// T9, C-9.
#[test]
fn a_program_that_is_broken_from_the_start_ends_with_the_reason() {
    let begun = Instant::now();
    let (status, output) = Server::run("playground")
        .workers(1)
        .env("BOOT", "exit1")
        .start_expecting_exit();
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(1), "{output}");
    let error = output
        .lines()
        .find(|line| line.contains("died 16 times in one place before it was ready"))
        .unwrap_or_else(|| panic!("{output}"));
    for part in [
        "examples/playground",
        "exit status: 1",
        "before it reached `serve`",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(output.matches("worker started").count(), 16);
    assert!(
        (8..20).contains(&took.as_secs()),
        "about 13 s, not {took:?}"
    );
}

#[test]
fn a_main_that_ends_before_serve_is_reported() {
    let server = Server::run("playground")
        .workers(1)
        .env("BOOT", "exit0")
        .start_only();
    server.wait_until("its exit", |server| !server.lines("exit ").is_empty());
    assert!(server.lines("exit ")[0].contains("status=exit:0"));
    server.wait_for_line("worker died");
    let output = server.output();
    let line = output
        .lines()
        .find(|line| line.contains("worker died"))
        .unwrap_or_else(|| panic!("{output}"));
    assert!(
        line.contains("exit status: 0") && line.contains("before it reached `serve`"),
        "{line}"
    );
}

// K-20.
// T7: the heart beats inside the runtime.
#[test]
fn a_worker_that_hangs_is_aborted_and_replaced() {
    let server = Server::run("playground")
        .workers(2)
        .env("HANG_MS", 2_000)
        .start();
    let before = server.worker_pids();
    let addr = server.addr().to_owned();
    let stuck = std::thread::spawn(move || try_get(&addr, "/block?ms=60000"));
    server.wait_until("the abort", |server| {
        // Meanwhile the other worker answers, whoever is stuck.
        assert!(try_get(server.addr(), "/").is_ok());
        !server.lines("exit ").is_empty()
    });
    assert!(
        server.lines("exit ")[0].contains("status=signal:6"),
        "{:?}",
        server.lines("exit ")
    );
    assert!(stuck.join().unwrap().is_err());
    server.wait_until("another worker", |server| server.worker_pids().len() == 2);
    let stayed = server
        .worker_pids()
        .iter()
        .filter(|pid| before.contains(pid))
        .count();
    assert_eq!(stayed, 1);
}

// A worker that is stopped cannot even take the abort.
#[test]
fn a_worker_that_is_stopped_is_killed_and_replaced() {
    let server = Server::run("playground")
        .workers(2)
        .env("HANG_MS", 2_000)
        .start();
    let victim = server.worker_pids()[0];
    server.signal_to(victim, Signal::SIGSTOP);
    let exit = exit_of(&server, victim);
    assert!(
        exit.contains("status=signal:9") || exit.contains("status=signal:6"),
        "{exit}"
    );
    server.wait_until("another worker", |server| {
        server.worker_pids().len() == 2 && !server.worker_pids().contains(&victim)
    });
}

// The time in which the primary itself stood still is nobody's silence. T25 in small.
#[test]
fn a_primary_that_was_stopped_kills_nobody() {
    let server = Server::run("playground")
        .workers(2)
        .env("HANG_MS", 2_000)
        .start();
    let before = server.worker_pids();
    server.signal(Signal::SIGSTOP);
    server.wait_until("the stop", |server| {
        procfs::process(server.pid()).is_some_and(|process| process.state == 'T')
    });
    // Time itself is what is tried here: longer than the hang timeout, twice.
    sleep(Duration::from_secs(4));
    server.signal(Signal::SIGCONT);
    assert_eq!(server.get("/").body, "hello world");
    sleep(Duration::from_secs(1));
    assert_eq!(server.worker_pids(), before);
    assert_eq!(server.lines("exit "), [""; 0]);
}

/// How many connections each worker was relieved of, as logged.
fn relieved_of(server: &Server) -> Vec<u32> {
    let connections = |line: &str| {
        line.contains("takes nothing: its connections")
            .then(|| line.split("connections=").nth(1))
            .flatten()
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|number| number.parse().ok())
    };
    server.output().lines().filter_map(connections).collect()
}

// K-10: Node's free workers are those that took what they were given. One that was stuck gets one connection at a time here as well.
#[test]
fn a_worker_that_stands_still_again_and_again_keeps_one_client_waiting() {
    let server = Server::run("playground").workers(2).start();
    let stopped = server.worker_pids()[0];
    for round in 1..=4 {
        server.signal_to(stopped, Signal::SIGSTOP);
        let mut clients = Vec::new();
        server.wait_until("it is relieved", |server| {
            let mut client = crate::support::Conn::open(server.addr()).unwrap();
            client.ask("GET", "/", &[], "").unwrap();
            clients.push(client);
            relieved_of(server).len() == round
        });
        for mut client in clients {
            assert_eq!(client.response().unwrap().status, 200);
        }
        server.signal_to(stopped, Signal::SIGCONT);
        server.wait_until("it is back", |server| {
            server.output().matches("takes connections again").count() == round
        });
    }
    let relieved = relieved_of(&server);
    assert_eq!(relieved[1..], [1; 3], "{relieved:?}");
}

// K-10, W-13: passed over while it stands still, it is back as soon as it gets on: not at its next heartbeat.
#[test]
fn a_worker_that_was_relieved_is_back_at_once() {
    let server = Server::run("playground").workers(2).start();
    for round in 1..=5 {
        let mut blocked = crate::support::Conn::open(server.addr()).unwrap();
        blocked.ask("GET", "/", &[], "").unwrap();
        let worker = blocked.response().unwrap().worker();
        blocked
            .send("GET /block?ms=500 HTTP/1.1\r\nhost: test\r\n\r\n")
            .unwrap();
        server.wait_until("it is passed over", |server| {
            let _ = server.get("/");
            server
                .output()
                .matches("takes nothing: its connections")
                .count()
                >= round
        });
        assert_eq!(blocked.response().unwrap().status, 200);
        let unblocked = Instant::now();
        while server.get("/").worker() != worker {
            assert!(
                unblocked.elapsed() <= Duration::from_millis(250),
                "round {round}: still out {:?} after it got on",
                unblocked.elapsed()
            );
        }
    }
}
