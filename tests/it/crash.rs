//! Crashes: what dies with a worker, or with the primary, and what does not (T5 to T8).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    client::{Deaths, Load, Mode, Outcome, Wire, sized},
    support::{Server, Signal, poll_for},
};

const MS: Duration = Duration::from_millis(1);

/// Workers that have ever come to listen.
fn listened(server: &Server) -> usize {
    server.lines("fork to listening").len()
}

fn ended(server: &Server) -> usize {
    server.lines("exit worker=").len()
}

// K-1.
#[test]
fn a_stopped_worker_holds_up_nobody_and_leaves_nothing_when_killed() {
    let server = Server::run("playground").workers(4).start();
    Load::new(server.addr()).count(8).run().must_be_perfect();
    let before = server.fds();
    let stopped = server.worker_pids()[0];
    server.signal_to(stopped, Signal::SIGSTOP);
    let tally = Load::new(server.addr()).clients(4).count(200).run();
    eprintln!("{tally}");
    tally.must_be_perfect();
    tally.must(
        "no answer comes later than 300 ms",
        tally.slowest() <= 300 * MS,
    );
    tally.must("three workers answered", tally.by_worker().len() == 3);

    server.signal_to(stopped, Signal::SIGKILL);
    server.wait_until("a replacement", |server| listened(server) == 5);
    let tally = Load::new(server.addr()).clients(4).count(200).run();
    tally.must_be_perfect();
    tally.must("four workers answered", tally.by_worker().len() == 4);
    assert!(
        poll_for(Duration::from_secs(2), || server.fds() <= before),
        "{} descriptors, {before} before",
        server.fds()
    );
}

// R-8, K-8: nothing is accepted for workers that take nothing, beyond the small windows that they have.
#[test]
fn with_every_worker_stuck_clients_wait_in_the_backlog() {
    let server = Server::run("playground").workers(2).start();
    Load::new(server.addr()).count(8).run().must_be_perfect();
    let (before, workers) = (server.fds(), server.worker_pids());
    workers
        .iter()
        .for_each(|&pid| server.signal_to(pid, Signal::SIGSTOP));
    // Stopped meanwhile, the primary finds all at once: then its windows hold the most.
    server.signal(Signal::SIGSTOP);
    let mut wires: Vec<_> = (0..900).map(|_| Wire::to(server.addr()).unwrap()).collect();
    server.signal(Signal::SIGCONT);
    wires
        .iter_mut()
        .for_each(|wire| wire.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap());
    // Long enough for everything that it would accept.
    sleep(300 * MS);
    let held = server.fds().saturating_sub(before);
    eprintln!("the primary holds {held} of 900 connections");
    assert!(held <= 450, "{held} connections are held");
    workers
        .iter()
        .for_each(|&pid| server.signal_to(pid, Signal::SIGCONT));
    for mut wire in wires {
        assert_eq!(wire.response().unwrap().status, 200);
    }
}

#[test]
fn a_stopped_worker_takes_connections_again_when_it_goes_on() {
    let server = Server::run("playground").workers(2).start();
    let stopped = server.worker_pids()[0];
    for _ in 0..sized(20, 4) {
        let running = Load::new(server.addr()).clients(8).start();
        server.signal_to(stopped, Signal::SIGSTOP);
        sleep(250 * MS);
        server.signal_to(stopped, Signal::SIGCONT);
        sleep(100 * MS);
        let tally = running.stop();
        tally.must_be_perfect();
    }
    // Its next heartbeat at the latest.
    server.wait_until("both workers to answer", |server| {
        Load::new(server.addr()).count(4).run().by_worker().len() == 2
    });
}

// Nobody dies, so nobody may fail: not by a stop in the middle of a hand-over, not by two at once, not by the primary's own.
#[test]
fn a_storm_of_stops_and_continues_loses_nothing() {
    let server = Server::run("playground").workers(4).start();
    let fresh = Load::new(server.addr()).clients(8).start();
    let kept = Load::new(server.addr())
        .clients(8)
        .mode(Mode::KeepAlive { think: 5 * MS })
        .start();
    let workers = server.worker_pids();
    let mut dice: usize = 7;
    let begun = Instant::now();
    while begun.elapsed() < sized(20_000, 3000) * MS {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (who, what) = ((dice >> 33) % 5, (dice >> 40) % 2);
        let pid = workers.get(who).copied().unwrap_or(server.pid());
        server.signal_to(
            pid,
            if what == 0 {
                Signal::SIGSTOP
            } else {
                Signal::SIGCONT
            },
        );
        sleep(Duration::from_millis((dice >> 50) as u64 % 40));
    }
    server.signal_all(Signal::SIGCONT);
    sleep(300 * MS);
    let tally = fresh.stop().and(kept.stop());
    eprintln!("{tally}");
    assert_eq!(server.worker_pids(), workers, "{}", server.output());
    tally.must_be_perfect();
}

//
#[test]
fn l04_all_workers_killed_at_once_refuse_nobody() {
    let server = Server::run("playground").workers(4).start();
    let running = Load::new(server.addr()).clients(8).start();
    let mut moments = Vec::new();
    for round in 1..=sized(20, 4) {
        sleep(300 * MS);
        let workers = server.worker_pids();
        assert_eq!(workers.len(), 4);
        workers
            .iter()
            .for_each(|&pid| server.signal_to(pid, Signal::SIGKILL));
        moments.push(running.clock());
        server.wait_until("four replacements", |server| {
            listened(server) == 4 + 4 * round
        });
    }
    let tally = running.stop();
    server.wait_until("every death to be told", |server| {
        ended(server) == 4 * moments.len()
    });
    let back: Vec<_> = moments
        .iter()
        .map(|&moment| tally.back_after(moment).unwrap_or(Duration::MAX))
        .collect();
    eprintln!("service back after {back:.1?}");
    Deaths::in_output(&server.output()).must_explain(&tally);
    tally.must(
        "service is back within 500 ms",
        back.iter().all(|&back| back <= 500 * MS),
    );
}

#[test]
fn random_kills_cost_what_was_in_flight() {
    let server = Server::run("playground").workers(4).start();
    let descriptors = server.fds();
    let fresh = Load::new(server.addr()).clients(8).start();
    let kept = Load::new(server.addr())
        .clients(4)
        .mode(Mode::KeepAlive { think: 5 * MS })
        .start();
    let slow = Load::new(server.addr())
        .clients(4)
        .mode(Mode::KeepAlive {
            think: Duration::ZERO,
        })
        .get("/slow?ms=20")
        .start();
    let kills = sized(80, 20);
    let mut dice: usize = 42;
    let mut last = Instant::now();
    for _ in 0..kills {
        sleep((250 * MS).saturating_sub(last.elapsed()));
        last = Instant::now();
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let workers = server.worker_pids();
        server.signal_to(workers[(dice >> 33) % workers.len()], Signal::SIGKILL);
    }
    assert!(
        poll_for(Duration::from_secs(1), || listened(&server) == 4 + kills),
        "not all back within 1 s: {}",
        server.output()
    );
    eprintln!("all back {:.1?} after the last kill", last.elapsed());
    let tally = fresh.stop().and(kept.stop()).and(slow.stop());
    server.wait_until("every death to be told", |server| ended(server) == kills);
    Deaths::in_output(&server.output()).must_explain(&tally);
    assert!(
        server.children().iter().all(|child| !child.is_zombie()),
        "{:?}",
        server.children()
    );
    assert!(
        poll_for(Duration::from_secs(2), || server.fds() <= descriptors),
        "{} descriptors, {descriptors} before",
        server.fds()
    );
}

#[test]
fn a_primary_killed_in_the_middle_of_booting_leaves_nobody() {
    for round in 0..sized(50, 10) {
        let server = Server::run("playground")
            .workers(8)
            .env("DRAIN_MS", 500)
            .start_only();
        sleep(MS * (round * 37 % 101));
        server.signal_to(server.pid(), Signal::SIGKILL);
        // One that had become a primary would stay for ever.
        let nobody = || server.left().iter().all(|process| process.is_zombie());
        assert!(
            poll_for(Duration::from_secs(5), nobody),
            "left: {:?}\n{}",
            server.left(),
            server.output()
        );
        assert!(
            server.lines("listening on").len() <= 1,
            "{}",
            server.output()
        );
        // One that is just ending is for a moment neither a process nor a zombie: looked at twice.
        sleep(20 * MS);
        assert!(nobody(), "left: {:?}\n{}", server.left(), server.output());
    }
}

#[test]
fn l17_workers_of_a_killed_primary_finish_what_is_in_flight_and_end() {
    let server = Server::run("playground")
        .workers(4)
        .env("DRAIN_MS", 3000)
        .env("LINGER_MS", 500)
        .start();
    let keep = Mode::KeepAlive {
        think: Duration::ZERO,
    };
    let slow = Load::new(server.addr())
        .clients(16)
        .mode(keep)
        .get("/slow?ms=300")
        .until_refused()
        .start();
    let quick = Load::new(server.addr())
        .clients(4)
        .mode(keep)
        .until_refused()
        .start();
    sleep(700 * MS);
    let workers = server.worker_pids();
    server.signal_to(server.pid(), Signal::SIGKILL);
    let killed = slow.clock();
    let gone = || server.left().iter().all(|process| process.is_zombie());
    assert!(
        poll_for(Duration::from_secs(5), gone),
        "{workers:?} left: {:?}",
        server.left()
    );
    eprintln!("gone {:.1?} after the kill", slow.clock() - killed);
    for tally in [slow.wait(), quick.wait()] {
        eprintln!("{tally}");
        let refused = tally.count(Outcome::Refused);
        // A connection that nobody had accepted dies with the listening socket.
        let never_taken = tally.count(Outcome::Reset) + tally.count(Outcome::WriteError);
        tally.must(
            "what was in flight is finished",
            tally.failed() == refused + never_taken,
        );
        tally.must(
            "no connection that was served is reset",
            tally.count_reused(Outcome::Reset) + tally.count_reused(Outcome::WriteError) == 0,
        );
        tally.must("every client came to the end", refused + never_taken > 0);
    }
}

#[test]
fn a_hung_worker_is_aborted_and_replaced_and_nobody_else_notices() {
    let server = Server::run("playground")
        .workers(4)
        .env("HANG_MS", 2500)
        .start();
    let mut blocked = crate::client::Wire::to(server.addr()).unwrap();
    blocked
        .send(b"GET /block?ms=60000 HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    let begun = Instant::now();
    sleep(50 * MS);
    let running = Load::new(server.addr()).clients(4).start();
    server.wait_until("the end of the one that hangs", |server| ended(server) == 1);
    let took = begun.elapsed();
    server.wait_until("a replacement", |server| listened(server) == 5);
    let tally = running.stop();
    eprintln!("{tally}  aborted after {took:.1?}");
    assert!(
        server.lines("exit worker=")[0].contains("status=signal:6"),
        "{}",
        server.output()
    );
    assert!((1500 * MS..=4500 * MS).contains(&took), "{took:?}");
    assert_eq!(blocked.response().unwrap_err(), Outcome::Reset);
    tally.must_be_perfect();
    // 150 ms, and what a loaded machine makes of them; without it, what the abort takes.
    tally.must(
        "nobody waits longer than the rescue takes",
        tally.slowest() <= 1000 * MS,
    );
}
