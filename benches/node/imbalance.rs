//! Latency at 70 % load while one of four workers is blocked most of the time.
//!
//! The load is what a server answers with 64 connections at a time while no worker is blocked, the client being on the same cores: the
//! median of three tries. Requests come at 70 % of it, evenly, whatever becomes of those before; first at the rate of the slowest server
//! for all, then at each server's own.

use std::{thread::sleep, time::Duration};

use crate::{
    Result,
    client::{self, Pace, Report},
    distribution::{POLICIES, WORKERS, ms},
    options::Options,
    server::{Recipe, Whose},
    table::{Series, Table},
};

pub(crate) const KEY: &str = "imbalance";

const SHARE: f64 = 0.7;
const TIMES_LOWER: f64 = 10.0;

pub(crate) fn measure(options: &Options) -> Result<()> {
    let mut capacities = Vec::new();
    for (whose, policy, name) in POLICIES {
        eprintln!("imbalance: what {name} can answer");
        capacities.push(capacity(whose, policy, options)?);
    }
    let slowest = capacities.iter().copied().fold(f64::INFINITY, f64::min);
    println!("Latency with worker 1 of {WORKERS} blocked 200 of every 210 ms\n");
    same_rate(SHARE * slowest, options)?;
    Ok(())
}

fn same_rate(rate: f64, options: &Options) -> Result<()> {
    println!(
        "All at {rate:.0} connections a second, {:.0} % of what the slowest answers with 64 at a time and no worker blocked:\n",
        SHARE * 100.0
    );
    let p99 = table(&[rate; POLICIES.len()], options)?;
    let of = |wanted| {
        POLICIES
            .iter()
            .position(|&(whose, policy, _)| (whose, policy) == wanted)
    };
    if let (Some(node), Some(ours)) = (of((Whose::Node, "rr")), of((Whose::Ours, "least"))) {
        let times = p99[node].as_secs_f64() / p99[ours].as_secs_f64();
        let met = if times >= TIMES_LOWER {
            "met"
        } else {
            "**missed**"
        };
        println!(
            "p99 of `LeastConnections` is {times:.1} times lower than that of Node's `SCHED_RR` (target ≥ {TIMES_LOWER}: {met})\n"
        );
    }
    Ok(())
}

/// Prints a table, and returns each p99.
fn table(rates: &[f64], options: &Options) -> Result<Vec<Duration>> {
    let mut table = Table::new([
        "policy",
        "a second",
        "to worker 1",
        "p50",
        "p99",
        "p99.9",
        "most",
    ]);
    let mut p99s = Vec::new();
    for ((whose, policy, name), &rate) in POLICIES.into_iter().zip(rates) {
        eprintln!("imbalance: {name} at {rate:.0} a second");
        let report = imbalanced(whose, policy, rate, options)?;
        let theirs = report.by_worker.get(&1).copied().unwrap_or_default();
        let theirs = format!("{:.1} %", 100.0 * theirs as f64 / report.answered() as f64);
        let [p50, p99, p999, most] =
            [0.5, 0.99, 0.999, 1.0].map(|share| ms(report.quantile(share)));
        p99s.push(report.quantile(0.99));
        table.row([
            name.into(),
            format!("{rate:.0}"),
            theirs,
            p50,
            p99,
            p999,
            most,
        ]);
    }
    println!("{table}");
    Ok(p99s)
}

fn capacity(whose: Whose, policy: &'static str, options: &Options) -> Result<f64> {
    let server = Recipe::new(whose, policy, WORKERS).start()?;
    let mut tries = Series::default();
    for _ in 0..3 {
        let count = options.sized(4000, 1000);
        tries.push(
            client::run(server.address, count, Pace::AtOnce(64))?
                .without_failures()?
                .a_second(),
        );
    }
    Ok(tries.median())
}

fn imbalanced(whose: Whose, policy: &'static str, rate: f64, options: &Options) -> Result<Report> {
    let mut server = Recipe::new(whose, policy, WORKERS).start()?;
    server.order("tell 1 block 200 10")?;
    sleep(Duration::from_millis(300));
    let time = options.sized(6.0, 2.0);
    client::run(
        server.address,
        (rate * time) as usize,
        Pace::PerSecond(rate),
    )?
    .without_failures()
}
