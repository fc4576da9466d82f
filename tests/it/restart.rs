//! A rolling restart loses no request and closes no connection (L1, L2, L5, L12, L14; T1 and T2; K-2 and K-3 for HTTP/1.1).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, Outcome, Running, Tally, Wire, is_full, sized},
    support::{Server, Signal, TempDir},
};

const MS: Duration = Duration::from_millis(1);
pub(crate) const CLIENTS: usize = 16;

/// Restarts under a load until it has been done so often; every worker is replaced each time, and the clients' answers come from
/// several generations.
pub(crate) fn restart_under(server: &Server, load: Load, restarts: usize) -> Tally {
    let running = load.clients(CLIENTS).time(180_000 * MS).start();
    for _ in 0..restarts {
        answers(server, &running);
        let before: BTreeSet<_> = server.worker_pids().into_iter().collect();
        server.signal(Signal::SIGHUP);
        server.wait_until("every worker is replaced and gone", |server| {
            let now: BTreeSet<_> = server.worker_pids().into_iter().collect();
            now.len() == before.len() && now.is_disjoint(&before)
        });
    }
    answers(server, &running);
    if is_full() && restarts >= 10 {
        // No mode may pass because it asked little.
        for tenth in 1..=10 {
            server.wait_until("100,000 requests", |_| running.done() >= tenth * 10_000);
        }
    }
    running.stop()
}

/// Some requests are answered between two restarts: a run that restarted a server nobody asked must not pass.
pub(crate) fn answers(server: &Server, running: &Running) {
    let done = running.done();
    server.wait_until("some requests are answered", |_| {
        running.done() > done + 200
    });
}

pub(crate) fn must_have_lost_nothing(tally: &Tally, restarts: usize) {
    tally.must_be_perfect();
    tally.must(
        "every generation answered",
        tally.generations().len() == restarts + 1,
    );
}

pub(crate) fn cluster() -> Server {
    Server::run("playground").workers(4).start()
}

#[test]
fn l01_keep_alive_clients_stay_on_their_first_connection() {
    let (server, restarts) = (cluster(), sized(10, 3));
    let think = Mode::KeepAlive { think: 5 * MS };
    let tally = restart_under(&server, Load::new(server.addr()).mode(think), restarts);
    must_have_lost_nothing(&tally, restarts);
    tally.must(
        "each client needed one connection",
        tally.connections() == CLIENTS,
    );
}

#[test]
fn l12_busy_keep_alive_clients_stay_on_their_first_connection() {
    let (server, restarts) = (cluster(), sized(10, 3));
    let busy = Mode::KeepAlive {
        think: Duration::ZERO,
    };
    let tally = restart_under(&server, Load::new(server.addr()).mode(busy), restarts);
    must_have_lost_nothing(&tally, restarts);
    tally.must(
        "each client needed one connection",
        tally.connections() == CLIENTS,
    );
}

#[test]
fn l03_new_connections_are_all_answered() {
    let (server, restarts) = (cluster(), sized(10, 3));
    let tally = restart_under(&server, Load::new(server.addr()), restarts);
    must_have_lost_nothing(&tally, restarts);
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let (server, restarts) = (cluster(), sized(10, 3));
    let tally = restart_under(
        &server,
        Load::new(server.addr()).mode(Mode::Pipelined { depth: 8 }),
        restarts,
    );
    must_have_lost_nothing(&tally, restarts);
    // All eight of the first batch count as first ones.
    tally.must(
        "each client needed one connection",
        tally.connections() == CLIENTS * 8,
    );
}

#[test]
fn slow_uploads_arrive_whole() {
    let (server, restarts) = (cluster(), sized(10, 3));
    let upload = Load::new(server.addr())
        .mode(Mode::KeepAlive { think: MS })
        .echo(64 * 1024, 4, MS);
    let tally = restart_under(&server, upload, restarts);
    must_have_lost_nothing(&tally, restarts);
    tally.must(
        "each client needed one connection",
        tally.connections() == CLIENTS,
    );
}

#[test]
fn unix_sockets_move_as_well() {
    let directory = TempDir::new();
    let address = format!("unix:{}", directory.path("s.sock"));
    let server = Server::run("playground")
        .workers(4)
        .env("ADDR", &address)
        .start();
    let think = Mode::KeepAlive { think: 2 * MS };
    let restarts = sized(10, 3);
    let tally = restart_under(&server, Load::new(address.as_str()).mode(think), restarts);
    must_have_lost_nothing(&tally, restarts);
    tally.must(
        "each client needed one connection",
        tally.connections() == CLIENTS,
    );
}

// The other half of the proof that the connections of the tests above do move.
#[test]
fn without_handback_a_restart_closes_idle_connections_after_one_more_answer() {
    let server = Server::run("playground")
        .workers(2)
        .env("HANDBACK", "off")
        .env("LINGER_MS", 60_000)
        .start();
    let mut wires: Vec<_> = (0..4).map(|_| Wire::to(server.addr()).unwrap()).collect();
    for wire in &mut wires {
        assert!(!wire.get("/").unwrap().closes);
    }
    server.signal(Signal::SIGHUP);
    server.wait_for_line(" restarted");
    for wire in &mut wires {
        server.wait_until("an answer of the old worker, or its close", |_| {
            let last = wire.get("/").unwrap();
            assert_eq!(last.number("x-generation"), 1);
            last.closes
        });
        assert_eq!(wire.get("/").unwrap_err(), Outcome::Reset);
    }
}

#[test]
fn without_handback_and_linger_a_restart_closes_idle_connections_at_once() {
    let server = Server::run("playground")
        .workers(2)
        .env("HANDBACK", "off")
        .env("LINGER_MS", 0)
        .start();
    let mut wires: Vec<_> = (0..4).map(|_| Wire::to(server.addr()).unwrap()).collect();
    for wire in &mut wires {
        assert!(!wire.get("/").unwrap().closes);
    }
    server.signal(Signal::SIGHUP);
    for wire in &mut wires {
        assert_eq!(wire.response().unwrap_err(), Outcome::Reset);
    }
}

// The clients of these tests do notice what they are there to notice.
#[test]
fn without_handback_and_linger_a_restart_loses_requests() {
    let server = Server::run("playground")
        .workers(4)
        .env("HANDBACK", "off")
        .env("LINGER_MS", 0)
        .start();
    // What is lost is a race between a close and the next request: on a fast machine it takes some tries.
    let lost = (1..=sized(40, 20)).find(|_| {
        let think = Mode::KeepAlive { think: 5 * MS };
        let tally = restart_under(&server, Load::new(server.addr()).mode(think), 2);
        tally.must("new connections are needed", tally.connections() > CLIENTS);
        eprintln!("{tally}");
        tally.failed() > 0
    });
    assert!(lost.is_some(), "nothing was lost: this client sees no loss");
}

/// Restarts again and again until the server closes the connection; how long that took from its opening, and how many restarts.
fn closed_while_restarting(server: &Server, sent: &[u8]) -> (Duration, usize) {
    let mut wire = Wire::to(server.addr()).unwrap();
    let begun = Instant::now();
    wire.send(sent).unwrap();
    let before = server.output().matches(" restarted").count();
    let closed = std::thread::spawn(move || {
        assert_eq!(wire.response().unwrap_err(), Outcome::Reset);
        begun.elapsed()
    });
    while !closed.is_finished() {
        let restarts = server.output().matches(" restarted").count();
        server.signal(Signal::SIGHUP);
        server.wait_until("a restart", |server| {
            server.output().matches(" restarted").count() > restarts
        });
    }
    let restarts = server.output().matches(" restarted").count() - before;
    (closed.join().unwrap(), restarts)
}

#[test]
fn a_client_that_sends_nothing_or_half_a_head_gets_no_time_by_moving() {
    let server = Server::run("playground")
        .workers(2)
        .env("FIRST_BYTE_MS", 2_000)
        .env("HEADER_MS", 2_000)
        .start();
    for sent in ["", "GET / HT"] {
        let (took, restarts) = closed_while_restarting(&server, sent.as_bytes());
        eprintln!("{sent:?}: closed after {took:.1?} and {restarts} restarts");
        assert!(restarts >= 3, "{restarts}");
        // Time in which a busy machine does not let a worker run is not held against the client.
        let in_time = (2_000 * MS..8_000 * MS).contains(&took);
        assert!(in_time, "{sent:?}: {took:?}");
    }
}

#[test]
fn a_request_in_flight_finishes_on_its_worker_and_the_connection_moves() {
    let server = cluster();
    let slow = Load::new(server.addr())
        .mode(Mode::KeepAlive {
            think: Duration::ZERO,
        })
        .get("/slow?ms=120");
    let running = slow.clients(8).start();
    for _ in 0..2 {
        server.wait_until("some are in flight", |_| running.done() > 8);
        let before: BTreeSet<_> = server.worker_pids().into_iter().collect();
        server.signal(Signal::SIGHUP);
        server.wait_until("every worker is replaced", |server| {
            server.worker_pids().iter().all(|pid| !before.contains(pid))
                && server.worker_pids().len() == 4
        });
    }
    let tally = running.stop();
    tally.must_be_perfect();
    tally.must(
        "nobody waited for more than its own request",
        tally.slowest() < 2000 * MS,
    );
    tally.must("nobody was reset", tally.count(Outcome::Reset) == 0);
    tally.must(
        "each client needed one connection",
        tally.connections() == 8,
    );
}

#[test]
fn the_number_of_workers_follows_the_signals_and_connections_move_away_from_those_that_leave() {
    // Without a terminal TTIN and TTOU are orders.
    let server = Server::run("playground")
        .workers(2)
        .through("setsid")
        .start();
    let running = Load::new(server.addr())
        .mode(Mode::KeepAlive { think: 2 * MS })
        .clients(CLIENTS)
        .start();
    for more in [3, 4] {
        // One at a time: two of the same signal may arrive as one.
        server.signal(Signal::SIGTTIN);
        server.wait_until("one more", |server| server.worker_pids().len() == more);
    }
    for left in [3, 2, 1] {
        server.signal(Signal::SIGTTOU);
        server.wait_until("one fewer", |server| server.worker_pids().len() == left);
        answers(&server, &running);
    }
    server.signal(Signal::SIGTTOU);
    answers(&server, &running);
    assert_eq!(server.worker_pids().len(), 1, "never below one");
    let tally = running.stop();
    tally.must_be_perfect();
    tally.must(
        "each client needed one connection",
        tally.connections() == CLIENTS,
    );
}

// K-2.
// The first line of what this crate is for. In full size: a minute, a restart every 1.5 s, every way to ask at once.
#[test]
fn a_minute_of_restarts_loses_nothing_however_one_asks() {
    let directory = TempDir::new();
    let unix = format!("unix:{}", directory.path("s.sock"));
    let think = Mode::KeepAlive { think: 5 * MS };
    let ways: [(&str, &str, Mode, bool); 5] = [
        ("keep-alive", "127.0.0.1:0", think, false),
        ("new connections", "127.0.0.1:0", Mode::Fresh, false),
        (
            "pipelined",
            "127.0.0.1:0",
            Mode::Pipelined { depth: 8 },
            false,
        ),
        ("uploads", "127.0.0.1:0", think, true),
        ("unix", &unix, think, false),
    ];
    std::thread::scope(|scope| {
        for (way, address, mode, uploads) in ways {
            scope.spawn(move || {
                let server = Server::run("playground")
                    .workers(4)
                    .env("ADDR", address)
                    .start();
                let target = if address.starts_with("unix:") {
                    address
                } else {
                    server.addr()
                };
                let mut load = Load::new(target)
                    .clients(CLIENTS)
                    .mode(mode)
                    .time(180_000 * MS);
                if uploads {
                    load = load.echo(64 * 1024, 2, MS);
                }
                let running = load.start();
                let restarts = sized(40, 2);
                for _ in 0..restarts {
                    let next = Instant::now() + sized(1_500, 300) * MS;
                    let before: BTreeSet<_> = server.worker_pids().into_iter().collect();
                    answers(&server, &running);
                    server.signal(Signal::SIGHUP);
                    server.wait_until("every worker is replaced, and the next second", |server| {
                        let now: BTreeSet<_> = server.worker_pids().into_iter().collect();
                        now.len() == 4 && now.is_disjoint(&before) && Instant::now() >= next
                    });
                }
                answers(&server, &running);
                let tally = running.stop();
                eprintln!("{way}, {restarts} restarts: {tally}");
                must_have_lost_nothing(&tally, restarts);
                match mode {
                    Mode::KeepAlive { .. } => {
                        tally.must("first connections", tally.connections() == CLIENTS)
                    }
                    Mode::Pipelined { depth } => {
                        tally.must("first connections", tally.connections() == CLIENTS * depth)
                    }
                    _ => {}
                }
            });
        }
    });
}
