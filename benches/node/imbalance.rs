//! Latency at 70 % load while one of four workers is blocked most of the time.
//!
//! The load is what the slowest server answers with 64 connections at a time, with the blocked worker and with the client on the same
//! cores: the median of three tries. With other programs on the same cores this table says little: look at p50 first, which is about a
//! millisecond where a server is not overloaded. Requests come at 70 % of it, to all servers alike, evenly, whatever becomes of those before.

use std::{thread::sleep, time::Duration};

use crate::{
    Result,
    client::{self, Pace, Report},
    distribution::{POLICIES, WORKERS, ms},
    options::Options,
    server::{Recipe, Server, Whose},
    table::{Series, Table},
};

pub(crate) const KEY: &str = "imbalance";

const SHARE: f64 = 0.7;
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
/// By how much p99 of least connections is to be lower than that of Node's round robin.
const TIMES_LOWER: f64 = 10.0;

/// What was measured of one policy, round by round.
#[derive(Clone, Default)]
struct Rounds {
    quantiles: [Series; QUANTILES.len()],
    /// Percent of the requests that the blocked worker got.
    to_blocked: Series,
    most: Duration,
}

pub(crate) fn measure(options: &Options) -> Result<()> {
    let mut slowest = f64::INFINITY;
    for (whose, policy, name) in POLICIES {
        eprintln!("imbalance: what {name} can answer");
        slowest = slowest.min(capacity(whose, policy, options)?);
    }
    let rate = SHARE * slowest;
    let rounds = options.sized(3, 1);
    let time = options.sized(3.0, 1.5);
    println!(
        "Latency with worker 1 of {WORKERS} blocked 200 of every 210 ms: {rate:.0} connections a second, which is {:.0} % of what the slowest of \
         these answers with 64 at a time; {rounds} rounds of {time} s each in turn, medians, and the most of all\n",
        SHARE * 100.0
    );
    let mut all = vec![Rounds::default(); POLICIES.len()];
    for round in 1..=rounds {
        for ((whose, policy, name), rounds) in POLICIES.into_iter().zip(&mut all) {
            eprintln!("imbalance: {name}, round {round}");
            let server = blocked(whose, policy)?;
            let count = (rate * time) as usize;
            let report = client::run(server.address, count, Pace::PerSecond(rate))?;
            rounds.take(&report.without_failures()?);
        }
    }
    print(&all);
    Ok(())
}

impl Rounds {
    fn take(&mut self, report: &Report) {
        for (series, share) in self.quantiles.iter_mut().zip(QUANTILES) {
            series.push(report.quantile(share).as_secs_f64());
        }
        let theirs = report.by_worker.get(&1).copied().unwrap_or_default();
        let percent = 100.0 * theirs as f64 / report.answered() as f64;
        self.to_blocked.push(percent);
        self.most = self.most.max(report.quantile(1.0));
    }

    fn p99(&self) -> f64 {
        self.quantiles[1].median()
    }
}

fn print(all: &[Rounds]) {
    let mut table = Table::new(["policy", "to worker 1", "p50", "p99", "p99.9", "most"]);
    for ((.., name), rounds) in POLICIES.into_iter().zip(all) {
        let [p50, p99, p999] =
            [0, 1, 2].map(|at| ms(Duration::from_secs_f64(rounds.quantiles[at].median())));
        let theirs = format!("{:.1} %", rounds.to_blocked.median());
        table.row([name.into(), theirs, p50, p99, p999, ms(rounds.most)]);
    }
    println!("{table}");
    let p99 = |wanted| {
        let at = POLICIES
            .iter()
            .position(|&(whose, policy, _)| (whose, policy) == wanted);
        at.map_or(f64::NAN, |at| all[at].p99())
    };
    let times = p99((Whose::Node, "rr")) / p99((Whose::Ours, "least"));
    let met = if times >= TIMES_LOWER {
        "met"
    } else {
        "**missed**"
    };
    println!(
        "p99 of `LeastConnections` is {times:.1} times lower than that of Node's `SCHED_RR` (target ≥ {TIMES_LOWER}: {met})\n"
    );
}

fn blocked(whose: Whose, policy: &'static str) -> Result<Server> {
    let mut server = Recipe::new(whose, policy, WORKERS).start()?;
    server.order("tell 1 block 200 10")?;
    sleep(Duration::from_millis(300));
    Ok(server)
}

fn capacity(whose: Whose, policy: &'static str, options: &Options) -> Result<f64> {
    let server = blocked(whose, policy)?;
    let mut tries = Series::default();
    for _ in 0..3 {
        let count = options.sized(2000, 1000);
        let report = client::run(server.address, count, Pace::AtOnce(64))?;
        tries.push(report.without_failures()?.a_second());
    }
    Ok(tries.median())
}
