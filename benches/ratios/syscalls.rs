//! System calls a request and a connection, counted with `strace -f -c` on all processes of a server: the budget.
//!
//! What a new connection costs beyond one process' accept, read, write, shutdown and close: in the primary a close of its own
//! descriptor, and a share of `sendmsg`; in the worker a share of `recvmsg`, of its lifted limit (`prlimit` twice a datagram, so that no
//! descriptor is lost in a full table) and of a look whether there is more. A share, because a wake-up deals with several. Not in the
//! budget: `epoll_ctl` in a worker, since a connection enters the reactor only once it has to wait; `shutdown` before `close` stays,
//! because as long as the primary has not closed its own descriptor a close alone would not tell the client of the end.
//!
//! strace slows the server down, and so makes the batches larger: shares of a datagram are a little too small here.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::exchange::{Traffic, Wire};
use crate::load::Load;
use crate::program::{Programs, Recipe};
use crate::report::Report;
use crate::server::{self, Server};
use crate::table::Table;
use crate::{Result, workloads};

pub(crate) const KEY: &str = "syscalls";

pub(crate) fn measure(programs: &Programs, report: &mut Report) -> Result<()> {
    report.say("\n## System calls\n\nCounted with `strace -f -c`, which slows servers down and so enlarges batches.\n");
    if !is_there() {
        report.say("Skipped: there is no strace on PATH.");
        return Ok(());
    }
    let mut table = Table::new(["server", "traffic", "all", "each"]);
    for (wire, name) in [
        (Wire::KeepAlive, "request"),
        (Wire::NewConnection, "connection"),
    ] {
        for recipe in workloads::counted() {
            if !programs.has(&recipe.program) {
                continue;
            }
            let (calls, requests) = count(&recipe, wire, programs)
                .map_err(|error| format!("{}: {error}", recipe.name))?;
            let each = |count: u64| count as f64 / requests as f64;
            let mut most: Vec<_> = calls.iter().filter(|(_, n)| each(**n) >= LEAST).collect();
            most.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            let most: Vec<_> = most
                .iter()
                .map(|(call, n)| format!("{call} {:.2}", each(**n)))
                .collect();
            table.row([
                recipe.name.to_owned(),
                name.to_owned(),
                format!("{:.2}", each(calls.values().sum())),
                most.join(", "),
            ]);
        }
    }
    report.say(&table);
    Ok(())
}

pub(crate) fn is_there() -> bool {
    Command::new("strace")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Calls by name, and the requests that were answered meanwhile.
pub(crate) fn count(
    recipe: &Recipe,
    wire: Wire,
    programs: &Programs,
) -> Result<(BTreeMap<String, u64>, u64)> {
    let server = Server::start(recipe, programs)?;
    let connections = recipe.connections.unwrap_or(CONNECTIONS);
    let mut load = Load::new(server.address(), Traffic::hello(wire), connections)?;
    load.run(TIME / 4)?.without_failures()?;
    let processes = server.processes();
    let report = std::env::temp_dir().join(format!("ratios-{}.strace", std::process::id()));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-q", "-o"]).arg(&report);
    for pid in &processes {
        strace.args(["-p", &pid.to_string()]);
    }
    let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let begun = Instant::now();
    while !processes.iter().all(|&pid| is_traced(pid)) {
        if begun.elapsed() > ATTACH || strace.try_wait()?.is_some() {
            let _ = strace.kill();
            strace.wait()?;
            return Err("strace could not attach".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let tally = load.run(TIME);
    server::signal(strace.id().cast_signed(), Signal::INT)?;
    strace.wait()?;
    let text = fs::read_to_string(&report)?;
    fs::remove_file(&report)?;
    let answered = tally?.without_failures()?.answered;
    drop(load);
    server.stop()?;
    Ok((parse(&text), answered))
}

fn is_traced(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .any(|line| {
            line.strip_prefix("TracerPid:")
                .is_some_and(|tracer| tracer.trim() != "0")
        })
}

/// The lines of `strace -c`: share, seconds, microseconds a call, calls, perhaps errors, name.
fn parse(report: &str) -> BTreeMap<String, u64> {
    report
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let name = fields.last().filter(|name| **name != "total")?;
            let calls = fields.get(3)?.parse().ok()?;
            Some(((*name).to_owned(), calls))
        })
        .collect()
}

const CONNECTIONS: usize = 64;
const TIME: Duration = Duration::from_secs(1);
const ATTACH: Duration = Duration::from_secs(5);
/// What is rarer is not listed.
const LEAST: f64 = 0.01;
