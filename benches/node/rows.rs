//! The table: what is measured, beside Node, and what is aimed at.

use crate::{
    Result, crowds, endings, mail, options::Options, restarts, server::Whose, table::Table,
};

/// What was measured at one server.
pub(crate) struct Figure {
    text: String,
    /// What the target is about, the less the better.
    bad: f64,
}

impl Figure {
    pub(crate) fn new(bad: impl Into<f64>, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            bad: bad.into(),
        }
    }
}

/// What is aimed at.
enum Target {
    AtMost(f64),
    BelowNode,
    /// Shown, that it is known.
    Nothing,
}
use Target::{AtMost, BelowNode, Nothing};

pub(crate) struct Row {
    pub(crate) id: &'static str,
    what: &'static str,
    measure: fn(Whose, &Options) -> Result<Figure>,
    target: Target,
    aim: &'static str,
}

const fn row(
    id: &'static str,
    what: &'static str,
    measure: fn(Whose, &Options) -> Result<Figure>,
    target: Target,
    aim: &'static str,
) -> Row {
    Row {
        id,
        what,
        measure,
        target,
        aim,
    }
}

pub(crate) const ROWS: [Row; 18] = [
    row(
        "K-1",
        "stopped worker killed with connections on their way to it",
        endings::stopped_and_killed,
        AtMost(0.0),
        "nobody hangs, nothing leaks, all events",
    ),
    row(
        "K-2",
        "replaced under load, round robin, connection a request",
        |w, o| restarts::replaced(w, o, "rr", false),
        AtMost(0.0),
        "0 failed",
    ),
    row(
        "K-2",
        "the same, keep-alive",
        |w, o| restarts::replaced(w, o, "rr", true),
        AtMost(0.0),
        "0 failed",
    ),
    row(
        "K-2",
        "the same, shared, connection a request",
        |w, o| restarts::replaced(w, o, "none", false),
        AtMost(0.0),
        "0 failed",
    ),
    row(
        "K-2",
        "the same, shared, keep-alive",
        |w, o| restarts::replaced(w, o, "none", true),
        AtMost(0.0),
        "0 failed",
    ),
    row(
        "K-3",
        "worker with a busy keep-alive client told to leave",
        restarts::drained,
        AtMost(1.0),
        "≤ 1 request more",
    ),
    row(
        "K-4",
        "all told to leave; alive when it is said that all have left",
        endings::all_told,
        AtMost(0.0),
        "none",
    ),
    row(
        "K-5",
        "told to leave twice, with a request in flight",
        endings::told_twice,
        AtMost(0.0),
        "exit code 0, nothing cut",
    ),
    row(
        "K-6",
        "message to a worker that has died",
        endings::sent_to_the_dead,
        AtMost(0.0),
        "an error, no crash",
    ),
    row(
        "K-8",
        "all workers stopped, 3,000 clients: held by the primary",
        crowds::stuck,
        AtMost(512.0),
        "bounded, ≤ 512; all answered in the end",
    ),
    row(
        "K-9",
        "all workers at their limit, one client waits: CPU",
        crowds::full,
        AtMost(1.0),
        "no spinning: ≤ 1 % of a core",
    ),
    row(
        "K-10",
        "1 of 4 workers blocked 200 of 210 ms, one client (here: least connections)",
        |w, o| crowds::blocked(w, o, "least"),
        AtMost(10.0),
        "p99 ≤ 10 ms, even otherwise",
    ),
    row(
        "K-10",
        "the same, shared",
        |w, o| crowds::blocked(w, o, "none"),
        AtMost(10.0),
        "p99 ≤ 10 ms",
    ),
    row(
        "K-12",
        "1 of 3 workers killed, its 100 of 300 clients connect anew (here: least connections)",
        crowds::refilled,
        AtMost(10.0),
        "new worker has ≥ 90",
    ),
    row(
        "K-14",
        "10 messages sent at the fork, subscribed to 200 ms later",
        mail::early,
        AtMost(0.0),
        "10 arrive",
    ),
    row(
        "K-15",
        "3 messages of 1 MiB, then the worker disconnects",
        |w, o| mail::last_words(w, o, "disconnect"),
        AtMost(0.0),
        "3 arrive",
    ),
    row(
        "K-15",
        "the same, then the process exits without a word",
        |w, o| mail::last_words(w, o, "exit"),
        Nothing,
        "none: nothing of the program runs",
    ),
    row(
        "K-17",
        "a message a request: the primary's CPU",
        mail::notices,
        BelowNode,
        "all arrive, for less",
    ),
];

pub(crate) fn measure(options: &Options) -> Result<()> {
    let wanted: Vec<_> = ROWS.iter().filter(|row| options.wants(row.id)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(["row", "what", "Node", "axum-cluster", "target", "met"]);
    for row in wanted {
        eprintln!("{}: {}", row.id, row.what);
        let node = (row.measure)(Whose::Node, options)?;
        let ours = (row.measure)(Whose::Ours, options)?;
        let met = match row.target {
            AtMost(limit) => Some(ours.bad <= limit),
            BelowNode => Some(ours.bad < node.bad),
            Nothing => None,
        };
        eprintln!("  Node: {}\n  axum-cluster: {}", node.text, ours.text);
        let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
        table.row([
            row.id.into(),
            row.what.into(),
            node.text,
            ours.text,
            row.aim.into(),
            met.into(),
        ]);
    }
    println!(
        "{table}\nK-11, K-16: `cargo bench --bench ratios`, `--bench messages`. K-13: the policies below.\n"
    );
    Ok(())
}
