//! Workers that have served enough are replaced, one at a time, and nothing is lost (L13, L14).

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, Running, Tally, Wire, sized},
    support::Server,
};

const MS: Duration = Duration::from_millis(1);
const RECYCLED: &str = "worker is recycled: ";

/// The number that follows `name` in a line of the log.
fn number(line: &str, name: &str) -> u64 {
    let rest = line
        .split(name)
        .nth(1)
        .unwrap_or_else(|| panic!("no {name} in {line}"));
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.unwrap().parse().unwrap()
}

fn recycled(server: &Server) -> Vec<String> {
    let output = server.output();
    let lines = output.lines().filter(|line| line.contains(RECYCLED));
    lines.map(str::to_owned).collect()
}

fn wait_for_recycled(server: &Server, workers: usize) {
    server.wait_until("so many workers are recycled", |server| {
        recycled(server).len() >= workers
    });
}

/// Every kind of client at once.
fn load(server: &Server) -> Vec<Running> {
    let load = || Load::new(server.addr());
    let keep = |think| Mode::KeepAlive { think };
    vec![
        load().clients(KEPT).mode(keep(4 * MS)).start(),
        load().clients(4).start(),
        load()
            .clients(KEPT)
            .mode(keep(4 * MS))
            .echo(20_000, 2, MS)
            .start(),
    ]
}

const KEPT: usize = 8;

fn must_have_lost_nothing(running: Vec<Running>) -> Tally {
    let tallies: Vec<_> = running.into_iter().map(Running::stop).collect();
    for (n, tally) in tallies.iter().enumerate() {
        tally.must_be_perfect();
        tally.must(
            "each client stays on its first connection",
            n == 1 || tally.connections() == KEPT,
        );
    }
    tallies.into_iter().reduce(Tally::and).unwrap()
}

/// Reads the log from its beginning: never fewer than `workers` are up once they were, and who is recycled is gone before the next one
/// is named.
fn one_at_a_time(server: &Server, workers: usize) {
    let (mut up, mut were_up, mut going) = (0, false, None);
    for line in server.output().lines() {
        if line.contains("worker listening") {
            up += 1;
            were_up |= up == workers;
        } else if line.contains("worker ended") {
            up -= 1;
            going.take_if(|id| *id == number(line, "worker="));
        } else if line.contains("worker died") {
            panic!("{line}");
        } else if line.contains(RECYCLED) {
            let before = going.replace(number(line, "worker="));
            assert_eq!(before, None, "two at once\n{}", server.output());
        }
        assert!(!were_up || up >= workers, "at {line}\n{}", server.output());
        assert!(up <= workers + 1, "at {line}\n{}", server.output());
    }
}

#[test]
fn l13_a_recycled_worker_loses_nothing() {
    let (workers, limit) = (3, 800);
    let server = Server::run("playground")
        .workers(workers)
        .env("MAX_REQUESTS", limit)
        .start();
    let running = load(&server);
    wait_for_recycled(&server, sized(30, 7));
    let tally = must_have_lost_nothing(running);
    for line in recycled(&server) {
        let (served, share) = (number(&line, "has served "), number(&line, "share is "));
        assert!((limit..=limit * 11 / 10).contains(&share), "{line}");
        // A look is 50 ms late at the most, on a machine that is busy a little more; and the next one waits for the last one's end.
        assert!((share..=limit * 5).contains(&served), "{line}");
    }
    one_at_a_time(&server, workers as usize);
    let served: Vec<_> = recycled(&server)
        .iter()
        .map(|line| number(line, "has served "))
        .collect();
    eprintln!("{tally}  recycled after {served:?} requests each");
}

#[test]
fn l14_workers_are_not_recycled_together() {
    let (workers, limit) = (4, 2000);
    let server = Server::run("playground")
        .workers(workers)
        .env("MAX_REQUESTS", limit)
        .start();
    // A new connection a request: the rotation gives each exactly the same.
    let running = Load::new(server.addr()).clients(8).start();
    wait_for_recycled(&server, workers as usize);
    let tally = running.stop();
    tally.must_be_perfect();
    one_at_a_time(&server, workers as usize);
    let mut shares: Vec<_> = recycled(&server)
        .iter()
        .take(workers as usize)
        .map(|line| number(line, "share is "))
        .collect();
    eprintln!("{tally}  shares {shares:?}");
    shares.sort_unstable();
    let apart = shares.windows(2).map(|pair| pair[1] - pair[0]).min();
    assert!(apart >= Some(limit / 100), "{shares:?}");
}

#[test]
fn l14_workers_of_one_age_are_not_recycled_together() {
    let workers = 3;
    let server = Server::run("playground")
        .workers(workers)
        .env("MAX_LIFETIME_MS", 700)
        .start();
    let running = load(&server);
    wait_for_recycled(&server, 7);
    must_have_lost_nothing(running);
    one_at_a_time(&server, workers as usize);
}

#[test]
fn a_worker_that_leaks_is_recycled_alone_and_its_client_stays() {
    let server = Server::run("playground")
        .workers(2)
        .env("MEMORY_LIMIT", 64 << 20)
        .start();
    let running = Load::new(server.addr())
        .clients(2)
        .mode(Mode::KeepAlive { think: 4 * MS })
        .start();
    let mut leaking = Wire::to(server.addr()).unwrap();
    let leaked = leaking.get("/leak?bytes=100000000").unwrap();
    let (worker, begun) = (leaked.number("x-worker"), Instant::now());
    wait_for_recycled(&server, 1);
    let took = begun.elapsed();
    eprintln!(
        "recycled {took:.1?} after the leak: {}",
        recycled(&server)[0]
    );
    assert_eq!(number(&recycled(&server)[0], "worker="), worker);
    assert!(took >= 1500 * MS, "three samples, a second apart: {took:?}");
    server.wait_until("it has ended", |server| {
        !server
            .output()
            .lines()
            .any(|line| line.contains("worker died"))
            && server
                .output()
                .lines()
                .any(|line| line.contains("worker ended"))
    });
    leaking.set_deadline(Instant::now() + 5000 * MS);
    let after = leaking.get("/").unwrap();
    assert_ne!(after.number("x-worker"), worker);
    let tally = running.stop();
    tally.must_be_perfect();
    tally.must("nobody reconnected", tally.connections() == 2);
    assert_eq!(recycled(&server).len(), 1, "{}", server.output());
}

#[test]
fn a_worker_whose_successor_cannot_start_stays_and_is_tried_again() {
    // As somebody who is named it runs a copy of its own, which can be made impossible to start.
    let server = Server::run("playground")
        .workers(2)
        .env("MAX_REQUESTS", 300)
        .user(rustix::process::geteuid().as_raw())
        .start();
    let program = format!("/proc/{}/exe", server.pid());
    let allow = |mode| fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
    allow(0o644);
    let before = server.worker_pids();
    let running = load(&server);
    server.wait_until("it is tried again and again", |server| {
        server
            .output()
            .matches("started again after a while")
            .count()
            >= 3
    });
    assert_eq!(server.worker_pids(), before, "they serve on");
    assert_eq!(recycled(&server).len(), 1, "the other one waits");
    allow(0o755);
    wait_for_recycled(&server, 3);
    must_have_lost_nothing(running);
    one_at_a_time(&server, 2);
}
