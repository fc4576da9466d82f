//! A hundred thousand connections that were answered once and are open: what they add to the cost of a new connection and of a
//! request, what memory they take, and that the primary holds none of them.

use rustix::process::{Resource, getrlimit};

use crate::exchange::{Traffic, Wire};
use crate::idle::Idle;
use crate::load::Load;
use crate::options::Options;
use crate::program::{Programs, Recipe};
use crate::recipes::crowd;
use crate::report::Report;
use crate::server::Server;
use crate::table::{Series, Table, Target};
use crate::workloads::{Workload, workload};
use crate::{Result, procfs, rounds};

/// Not part of everything: it takes minutes.
pub(crate) const KEY: &str = "open";

pub(crate) fn measure(programs: &Programs, options: &Options, report: &mut Report) -> Result<()> {
    let count = most();
    for workload in [new_connection(count), keep_alive(count)] {
        let workload = workload.of_what_is_there(programs, options);
        rounds::measure(&workload, programs, options, report)?;
    }
    memory(count, programs, options, report)
}

/// As many as wished, or as the workers' descriptors are enough for.
fn most() -> usize {
    let each = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let each = usize::try_from(each).unwrap_or(usize::MAX);
    CONNECTIONS.min(each.saturating_sub(SPARE).saturating_mul(WORKERS))
}

fn new_connection(count: usize) -> Workload {
    let wire = Traffic::hello(Wire::NewConnection);
    beside(count, "A new connection beside open ones", wire).column("open")
}

fn keep_alive(count: usize) -> Workload {
    let wire = Traffic::hello(Wire::KeepAlive);
    beside(count, "A request beside open connections", wire).column("open, keep-alive")
}

fn beside(count: usize, title: &'static str, traffic: Traffic) -> Workload {
    let few = server();
    let many = Recipe {
        name: "8 workers, open connections too",
        idle: count,
        ..server()
    };
    let note = format!(
        "With {WORKERS} workers, and beside {count} connections that were answered once and are idle."
    );
    workload(KEY, title, &note, traffic)
        .ratio(&many, &few, Some(Target::AtMost(1.1)))
        .servers([few, many])
}

fn server() -> Recipe {
    crowd("8 workers", WORKERS)
}

fn memory(count: usize, programs: &Programs, options: &Options, report: &mut Report) -> Result<()> {
    let (mut each, mut primary) = (Series::default(), Series::default());
    let (mut before, mut after) = (0, 0);
    for round in 0..options.rounds {
        eprintln!("{KEY}, memory {}/{}", round + 1, options.rounds);
        let server = Server::start(&server(), programs)?;
        let traffic = Traffic::hello(Wire::NewConnection);
        let mut load = Load::new(server.address(), traffic, options.connections)?;
        load.run(options.measurement)?.without_failures()?;
        let processes = server.processes();
        let first = Held::read(&processes)?;
        let idle = Idle::open(server.address(), count)?;
        let second = Held::read(&processes)?;
        each.push((second.workers_kib - first.workers_kib) * 1024.0 / count as f64);
        primary.push(second.primary_kib - first.primary_kib);
        (before, after) = (first.descriptors, second.descriptors);
        drop(idle);
        server.stop()?;
    }
    report.say(format_args!(
        "\n## Memory of an open connection\n\nWhat {count} connections, answered once and idle, add to the proportional set size of \
         {WORKERS} workers; not the kernel's own. The primary holds {before} descriptors without them and {after} with them.\n"
    ));
    let mut table = Table::new(["", "median", "min to max"]);
    for (what, series) in [
        ("workers, bytes a connection", each),
        ("primary, KiB in all", primary),
    ] {
        table.row([
            what.to_owned(),
            format!("{:.0}", series.median()),
            format!("{:.0} to {:.0}", series.min(), series.max()),
        ]);
    }
    report.say(&table);
    Ok(())
}

/// What the processes of a server hold.
struct Held {
    workers_kib: f64,
    primary_kib: f64,
    /// Of the primary.
    descriptors: usize,
}

impl Held {
    fn read(processes: &[i32]) -> Result<Self> {
        let (primary, workers) = processes.split_first().ok_or("no process")?;
        let mut workers_kib = 0.0;
        for worker in workers {
            workers_kib += procfs::proportional_kib(*worker)? as f64;
        }
        Ok(Self {
            workers_kib,
            primary_kib: procfs::proportional_kib(*primary)? as f64,
            descriptors: procfs::descriptors(*primary)?,
        })
    }
}

const CONNECTIONS: usize = 100_000;
const WORKERS: usize = 8;
/// Descriptors of a worker that are for other things: its own, and the connections of the client that measures.
const SPARE: usize = 1000;
