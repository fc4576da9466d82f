//! Shared scheduling: workers accept themselves (N-7; Node's `SCHED_NONE`).

use std::time::Duration;

use crate::{
    client::{Load, Mode, Outcome, Wire, sized},
    restart::{must_have_lost_nothing, restart_under},
    support::{Server, Signal},
};

/// What a thread that sleeps is in, by its number.
const CLOCK_NANOSLEEP: u32 = if cfg!(target_arch = "x86_64") {
    230
} else {
    115
};

fn cluster(workers: u32) -> Server {
    Server::run("playground")
        .workers(workers)
        .env("AXUM_CLUSTER_SCHEDULING", "shared")
        .start()
}

#[test]
fn one_after_the_other_connections_go_around() {
    let server = cluster(4);
    let pause = Duration::from_millis(2);
    let tally = Load::new(server.addr()).pause(pause).count(400).run();
    tally.must_be_perfect();
    tally.must(
        "each worker has about 100",
        tally.by_worker().len() == 4 && tally.by_worker().values().all(|n| (60..=140).contains(n)),
    );
}

#[test]
fn sixty_four_at_a_time_starve_no_worker() {
    let server = cluster(4);
    let tally = Load::new(server.addr()).clients(64).count(4000).run();
    tally.must_be_perfect();
    tally.must(
        "no worker has less than half its share",
        tally.by_worker().len() == 4 && tally.by_worker().values().all(|&n| n >= 500),
    );
}

#[test]
fn n07_new_connections_are_all_answered_through_restarts() {
    let (server, restarts) = (cluster(4), sized(10, 3));
    let tally = restart_under(&server, Load::new(server.addr()), restarts);
    must_have_lost_nothing(&tally, restarts);
}

#[test]
fn n07_keep_alive_clients_stay_on_their_first_connection() {
    let (server, restarts) = (cluster(2), sized(10, 3));
    let think = Mode::KeepAlive {
        think: Duration::from_millis(5),
    };
    let tally = restart_under(&server, Load::new(server.addr()).mode(think), restarts);
    must_have_lost_nothing(&tally, restarts);
    tally.must(
        "each client needed one connection",
        tally.connections() == crate::restart::CLIENTS,
    );
}

// An exclusive wake-up dies with its worker: the connection that it was for waits for nobody.
#[test]
fn killed_workers_take_with_them_what_they_had_and_no_more() {
    let server = cluster(4);
    let running = Load::new(server.addr()).clients(16).start();
    let kills = sized(20, 5_u64);
    for _ in 0..kills {
        crate::restart::answers(&server, &running);
        let victim = server.worker_pids()[0];
        server.signal_to(victim, Signal::SIGKILL);
        server.wait_until("it is replaced", |server| {
            let pids = server.worker_pids();
            pids.len() == 4 && !pids.contains(&victim)
        });
    }
    let tally = running.stop();
    // A client has one connection at a time.
    tally.must(
        "few are lost, none waits for ever",
        tally.count(Outcome::Timeout) == 0 && tally.failed() <= kills * 16,
    );
}

// K-10.
// L3 of the others' lists: a queue of accepted connections in a worker that does not get on is nobody's but its own there.
#[test]
fn a_stuck_worker_keeps_nobody() {
    let server = cluster(2);
    let mut stuck = Wire::to(server.addr()).unwrap();
    stuck
        .send(b"GET /block?ms=2000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    server.wait_until("a worker blocks its thread", |server| {
        let call = |pid| std::fs::read_to_string(format!("/proc/{pid}/syscall"));
        let sleeps = format!("{CLOCK_NANOSLEEP} ");
        let sleeps = |&pid: &u32| call(pid).is_ok_and(|call| call.starts_with(&sleeps));
        server.worker_pids().iter().any(sleeps)
    });
    let tally = Load::new(server.addr()).clients(4).count(400).run();
    tally.must_be_perfect();
    tally.must(
        "nobody waited for it",
        tally.slowest() < Duration::from_millis(1000),
    );
}

// T1 of the upgrade, with workers that accept while the primary is executed anew.
#[test]
fn upgrades_under_load_lose_nothing() {
    let server = cluster(2);
    let running = Load::new(server.addr()).clients(4).start();
    for n in 1..=sized(10, 2) {
        crate::restart::answers(&server, &running);
        server.signal(Signal::SIGUSR2);
        server.wait_for_take_over(n);
    }
    crate::restart::answers(&server, &running);
    running.stop().must_be_perfect();
}

// K-13.
#[test]
fn a_program_chooses_itself() {
    let server = Server::run("playground")
        .workers(3)
        .env("SCHEDULE", "newest")
        .start();
    let tally = Load::new(server.addr()).count(30).run();
    tally.must_be_perfect();
    tally.must("one has all", tally.by_worker().values().eq(&[30]));
}

#[test]
fn a_choice_that_panics_is_the_rotations() {
    let server = Server::run("playground")
        .workers(3)
        .env("SCHEDULE", "panic")
        .start();
    let tally = Load::new(server.addr()).count(30).run();
    tally.must_be_perfect();
    tally.must("each has 10", tally.by_worker().values().eq(&[10; 3]));
    assert!(server.output().contains("the schedule panicked"));
}
