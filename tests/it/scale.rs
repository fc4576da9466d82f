//! Restarts with many connections, at saturation, and again and again: how long they take, who waits, and what is left behind.
//!
//! Bounds of time hold for optimised builds in full size: `FULL=1 cargo test --release --test it scale`.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, Tally, Wire, is_full, sized},
    restart::{CLIENTS, must_have_lost_nothing},
    support::{Server, Signal},
};

const MS: Duration = Duration::from_millis(1);

/// What a test binary says of time is only of use when it is what users run.
fn must_take_at_most(what: &str, took: Duration, limit: Duration) {
    eprintln!("{what}: {took:.1?} (at most {limit:?} in full size)");
    if is_full() && !cfg!(debug_assertions) {
        assert!(took <= limit, "{what} took {took:?}");
    }
}

/// Restarts, and returns how long it took until all new workers listen, by the primary's own account, and until the old are gone.
fn restart(server: &Server) -> [Duration; 2] {
    let before = server.worker_pids();
    let restarts = server.output().matches(" restarted ").count();
    let begun = Instant::now();
    server.signal(Signal::SIGHUP);
    server.wait_until("every worker is replaced and gone", |server| {
        let now = server.worker_pids();
        now.len() == before.len()
            && now.iter().all(|pid| !before.contains(pid))
            && server.output().matches(" restarted ").count() > restarts
    });
    let all = begun.elapsed();
    let output = server.output();
    let line = output.lines().rfind(|line| line.contains(" restarted "));
    let took = line.and_then(|line| line.split("took=").nth(1)).unwrap();
    [as_time(took.trim()), all]
}

/// `12.5ms` or `1.2s`.
fn as_time(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic() || c == 'µ').unwrap());
    let second = match unit {
        "s" => 1.0,
        "ms" => 1e3,
        _ => 1e6,
    };
    Duration::from_secs_f64(number.parse::<f64>().unwrap() / second)
}

#[test]
fn busy_clients_hardly_wait_while_many_idle_connections_move() {
    let more = move_many_idle_connections();
    must_take_at_most("longest wait of a busy client beyond that", more, 50 * MS);
}

/// Returns how much longer a busy client waited than without a restart.
fn move_many_idle_connections() -> Duration {
    let server = Server::run("playground").workers(4).start();
    let mut idle: Vec<_> = (0..sized(3_000, 300))
        .map(|_| Wire::to(server.addr()).unwrap())
        .collect();
    for wire in &mut idle {
        wire.set_deadline(Instant::now() + 60_000 * MS);
        assert_eq!(wire.get("/").unwrap().status, 200);
    }
    let busy = || {
        Load::new(server.addr())
            .clients(CLIENTS)
            .mode(Mode::KeepAlive { think: 5 * MS })
    };
    let without = busy().time(sized(3_000, 500) * MS).run();
    without.must_be_perfect();
    let running = busy().start();
    let restarts = sized(5, 2);
    let mut longest = [Duration::ZERO; 2];
    for _ in 0..restarts {
        let done = running.done();
        server.wait_until("answers", |_| running.done() > done + 200);
        let took = restart(&server);
        longest = [longest[0].max(took[0]), longest[1].max(took[1])];
    }
    let with = running.stop();
    must_have_lost_nothing_on_first_connections(&with, restarts, CLIENTS);
    let generation = restarts as u64 + 1;
    for wire in &mut idle {
        let answer = wire.get("/").unwrap();
        assert_eq!(
            (answer.status, answer.number("x-generation")),
            (200, generation)
        );
    }
    eprintln!(
        "longest wait of a busy client without a restart {:.1?}",
        without.slowest()
    );
    eprintln!("and with {:.1?}", with.slowest());
    must_take_at_most("restart", longest[0], 300 * MS);
    let given_back =
        |line: &str| -> Option<usize> { line.split("given_back=").nth(1)?.parse().ok() };
    let moved: usize = server.output().lines().filter_map(given_back).sum();
    let held = idle.len() + CLIENTS;
    let times = moved as f64 / (held * restarts) as f64;
    eprintln!("each of {held} connections moved {times:.2} times a restart");
    assert!(times <= 1.2, "{times}");
    eprintln!(
        "{} connections; the last old worker was gone after {:.1?}",
        idle.len(),
        longest[1]
    );
    with.slowest().saturating_sub(without.slowest())
}

fn must_have_lost_nothing_on_first_connections(tally: &Tally, restarts: usize, clients: usize) {
    must_have_lost_nothing(tally, restarts);
    tally.must(
        "each client needed one connection",
        tally.connections() == clients,
    );
}

#[test]
fn restarts_at_saturation_lose_nothing() {
    const CLIENTS: usize = 64;
    let server = Server::run("playground").workers(2).start();
    let busy = Mode::KeepAlive {
        think: Duration::ZERO,
    };
    let running = Load::new(server.addr()).clients(CLIENTS).mode(busy).start();
    let restarts = sized(20, 4);
    for _ in 0..restarts {
        let next = Instant::now() + sized(1_000, 200) * MS;
        let done = running.done();
        server.wait_until("answers, and the next second", |_| {
            running.done() > done + 500 && Instant::now() >= next
        });
        restart(&server);
    }
    let tally = running.stop();
    eprintln!("{tally}");
    must_have_lost_nothing_on_first_connections(&tally, restarts, CLIENTS);
}

#[test]
fn four_workers_of_a_trivial_app_are_replaced_in_no_time() {
    let server = Server::run("hello").workers(4).start();
    let idle: Vec<_> = (0..sized(10, 3)).map(|_| restart(&server)).collect();
    let running = Load::new(server.addr())
        .clients(CLIENTS)
        .mode(Mode::KeepAlive {
            think: Duration::ZERO,
        })
        .start();
    server.wait_until("answers", |_| running.done() > 500);
    let busy: Vec<_> = (0..sized(10, 3)).map(|_| restart(&server)).collect();
    let tally = running.stop();
    tally.must_be_perfect();
    tally.must("16 connections", tally.connections() == CLIENTS);
    must_take_at_most("restart of 4 idle workers", median(&idle), 60 * MS);
    must_take_at_most("at saturation", median(&busy), 200 * MS);
}

/// Of the times until all listen: what else the machine does falls on one or another.
fn median(took: &[[Duration; 2]]) -> Duration {
    let mut times: Vec<_> = took.iter().map(|took| took[0]).collect();
    times.sort_unstable();
    eprintln!("{times:.1?}");
    times[times.len() / 2]
}

/// What a process has of what could leak.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    zombies: usize,
}

impl Holdings {
    fn of(server: &Server) -> Self {
        let children = server.children();
        Self {
            descriptors: server.fds(),
            threads: fs::read_dir(format!("/proc/{}/task", server.pid()))
                .unwrap()
                .count(),
            zombies: children.iter().filter(|child| child.is_zombie()).count(),
        }
    }
}

/// Resident memory that is nobody else's, in KiB.
fn private(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[test]
fn restarts_leave_nothing_behind_in_the_primary() {
    let server = Server::run("playground").workers(2).start();
    let running = Load::new(server.addr())
        .clients(4)
        .mode(Mode::KeepAlive { think: 5 * MS })
        .start();
    // The first ones fill what is kept for later ones.
    for _ in 0..5 {
        restart(&server);
    }
    let held = Holdings::of(&server);
    let memory = private(server.pid());
    for _ in 0..sized(50, 10) {
        restart(&server);
    }
    let tally = running.stop();
    tally.must_be_perfect();
    eprintln!(
        "{held:?}, {memory} KiB before; {:?}, {} KiB after",
        Holdings::of(&server),
        private(server.pid())
    );
    server.wait_until("no more descriptors, threads or zombies", |server| {
        let now = Holdings::of(server);
        now.descriptors <= held.descriptors
            && now.threads <= held.threads
            && now.zombies <= held.zombies
    });
    let more = private(server.pid()).saturating_sub(memory);
    assert!(more <= 1024, "{more} KiB more");
}
