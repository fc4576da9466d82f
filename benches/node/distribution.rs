//! Who gets how many connections, and how long they take, while one of four workers is blocked half of the time.

use std::{thread::sleep, time::Duration};

use crate::{
    Result,
    client::{self, Pace},
    options::Options,
    server::{Recipe, Whose},
    table::Table,
};

pub(crate) const KEY: &str = "distribution";

/// Every policy there is, with its name in tables.
pub(crate) const POLICIES: [(Whose, &str, &str); 7] = [
    (Whose::Node, "rr", "Node `SCHED_RR`"),
    (Whose::Node, "none", "Node `SCHED_NONE`"),
    (Whose::Ours, "rr", "`RoundRobin`"),
    (Whose::Ours, "least", "`LeastConnections`"),
    (Whose::Ours, "hash", "`IpHash`"),
    (Whose::Ours, "none", "`Shared`"),
    (Whose::Ours, "two", "custom: the emptier of two at random"),
];

pub(crate) const WORKERS: u64 = 4;

pub(crate) fn measure(options: &Options) -> Result<()> {
    let connections = options.sized(4000, 800);
    println!(
        "Distribution: {connections} connections of 250 client addresses over {WORKERS} workers, worker 1 blocked 5 of every 10 ms\n"
    );
    let mut table = Table::new([
        "policy",
        "at a time",
        "worker 1",
        "2",
        "3",
        "4",
        "p50",
        "p99",
        "most",
    ]);
    for (whose, policy, name) in POLICIES {
        for at_once in [1, 64] {
            eprintln!("distribution: {name}, {at_once} at a time");
            let mut server = Recipe::new(whose, policy, WORKERS).start()?;
            server.order("tell 1 block 5 5")?;
            sleep(Duration::from_millis(100));
            let report = client::run(server.address, connections, Pace::AtOnce(at_once))?
                .without_failures()?;
            let share = |id| {
                report
                    .by_worker
                    .get(&id)
                    .copied()
                    .unwrap_or_default()
                    .to_string()
            };
            let [one, two, three, four] = [1, 2, 3, 4].map(share);
            let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| ms(report.quantile(share)));
            table.row([
                name.into(),
                at_once.to_string(),
                one,
                two,
                three,
                four,
                p50,
                p99,
                most,
            ]);
        }
    }
    println!("{table}");
    Ok(())
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
