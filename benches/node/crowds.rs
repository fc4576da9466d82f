//! More clients than workers take, or in the wrong places: K-8, K-9, K-10, K-12.

use std::{collections::BTreeMap, thread, time::Duration};

use rustix::process::Signal;

use crate::{
    Result,
    client::{self, Pace},
    endings::ask,
    options::Options,
    procfs::CpuTimes,
    rows::Figure,
    server::{Recipe, Server, Whose, descriptors, signal},
    tests_client::{Outcome, Wire},
};

const SOON: Duration = Duration::from_secs(5);

pub(crate) fn stuck(whose: Whose, _: &Options) -> Result<Figure> {
    let server = Recipe::new(whose, "rr", 2).start()?;
    let before = descriptors(server.primary())?;
    for id in 1..=2 {
        signal(server.worker(id)?, Signal::STOP)?;
    }
    let address = server.address;
    let clients = thread::spawn(move || {
        client::run(address, CLIENTS, Pace::AtOnce(CLIENTS)).map_err(|error| error.to_string())
    });
    thread::sleep(Duration::from_secs(2));
    let held = descriptors(server.primary())?.saturating_sub(before);
    for id in 1..=2 {
        signal(server.worker(id)?, Signal::CONT)?;
    }
    let report = clients.join().map_err(|_| "the client panicked")??;
    let bad = if report.failed == 0 {
        held as f64
    } else {
        f64::INFINITY
    };
    Ok(Figure::new(
        bad,
        format!(
            "{held}; then {} answered, {} failed",
            report.answered(),
            report.failed
        ),
    ))
}

const CLIENTS: usize = 3000;

pub(crate) fn full(whose: Whose, options: &Options) -> Result<Figure> {
    let server = Recipe::new(whose, "rr", 2)
        .env(&[("MAX_CONNECTIONS", "1")])
        .start()?;
    let failed = |outcome: Outcome| format!("a request failed: {outcome:?}");
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::to(server.address).map_err(failed)?;
        wire.get("/").map_err(failed)?;
        kept.push(wire);
    }
    let waits = ask(&server, "/", Duration::from_secs(10));
    thread::sleep(Duration::from_millis(500));
    let processes = server.living();
    let time = options.sized(Duration::from_secs(3), Duration::from_secs(1));
    let before = CpuTimes::read(&processes)?;
    thread::sleep(time);
    let used = CpuTimes::read(&processes)?.since(&before);
    kept.clear();
    let answered = waits.join().is_ok_and(|answer| answer.is_ok());
    let share = 100.0 * used.time.as_secs_f64() / time.as_secs_f64();
    let end = if answered { "" } else { "; never answered" };
    let bad = if answered { share } else { f64::INFINITY };
    Ok(Figure::new(bad, format!("{share:.1} % of a core{end}")))
}

/// The policy is ours; Node's is its nearest.
pub(crate) fn blocked(whose: Whose, options: &Options, policy: &'static str) -> Result<Figure> {
    let policy = match (whose, policy) {
        (Whose::Node, "least") => "rr",
        _ => policy,
    };
    let mut server = Recipe::new(whose, policy, 4).start()?;
    server.order("tell 1 block 200 10")?;
    thread::sleep(Duration::from_millis(300));
    let connections = options.sized(600, 300);
    let report = client::run(server.address, connections, Pace::AtOnce(1))?.without_failures()?;
    let [p99, most] = [0.99, 1.0].map(|share| report.quantile(share));
    let by_worker = &report.by_worker;
    let theirs = by_worker.get(&1).copied().unwrap_or_default();
    let others: Vec<_> = (2..=4)
        .map(|id| by_worker.get(&id).copied().unwrap_or_default())
        .collect();
    Ok(Figure::new(
        p99.as_secs_f64() * 1e3,
        format!(
            "{theirs} to the blocked one, else {others:?}; p99 {:.1} ms, most {:.0} ms",
            p99.as_secs_f64() * 1e3,
            most.as_secs_f64() * 1e3
        ),
    ))
}

pub(crate) fn refilled(whose: Whose, _: &Options) -> Result<Figure> {
    let policy = if whose == Whose::Node { "rr" } else { "least" };
    let mut server = Recipe::new(whose, policy, 3).start()?;
    let mut clients = connect(&server, 300)?;
    signal(server.worker(1)?, Signal::KILL)?;
    server.order("fork")?;
    server.wait_for("exit 1 ", SOON)?;
    server.wait_for("listening 4 ", SOON)?;
    clients.retain(|(worker, _)| *worker != 1);
    let lost = 300 - clients.len();
    clients.extend(connect(&server, lost)?);
    let mut holds = BTreeMap::<u64, u32>::new();
    clients
        .iter()
        .for_each(|(worker, _)| *holds.entry(*worker).or_default() += 1);
    let new = holds.get(&4).copied().unwrap_or_default();
    let old: Vec<_> = (2..=3)
        .map(|id| holds.get(&id).copied().unwrap_or_default())
        .collect();
    Ok(Figure::new(
        100_u32.saturating_sub(new),
        format!("new worker {new}, others {old:?}"),
    ))
}

/// Connections that stay, with who answered on them.
fn connect(server: &Server, connections: usize) -> Result<Vec<(u64, Wire)>> {
    let connect = |_| {
        let mut wire = Wire::to(server.address)?;
        Ok((wire.get("/")?.number("x-worker"), wire))
    };
    let all: std::result::Result<_, Outcome> = (0..connections).map(connect).collect();
    Ok(all.map_err(|outcome| format!("a request failed: {outcome:?}"))?)
}
