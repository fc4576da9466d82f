//! What Node's cluster does and what this crate does instead, measured with the same outside client in one run.
//!
//! ```sh
//! cargo bench --bench node                         # everything, about four minutes; needs `node`
//! cargo bench --bench node -- --only K-2,K-8
//! cargo bench --bench node -- --only distribution,imbalance
//! ```
//!
//! - `rows`: the table of weaknesses; what is measured: `endings`, `restarts`, `crowds`, `mail`
//! - `distribution`, `imbalance`: who gets how many connections, and how long they take, for each policy
//! - `server`: starts, orders and ends a server; it is `cluster.js` in Node, or (`ours`) this binary, started again
//! - `client`: latencies at a given concurrency or rate. Otherwise the client is that of the tests (`tests/it/client`)
//!
//! A worker is blocked by a sleep on its only thread: it does not take the machine from the others.

#![allow(
    clippy::print_stdout,
    clippy::exit,
    reason = "this is a program of its own"
)]

#[allow(dead_code, reason = "another bench uses more of it")]
#[path = "../ratios/procfs.rs"]
mod procfs;
#[path = "../ratios/response.rs"]
mod response;
#[allow(dead_code, reason = "another bench uses more of it")]
#[path = "../ratios/table.rs"]
mod table;
#[allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "the tests' own: they use more of it, and may panic"
)]
#[path = "../../tests/it/client/mod.rs"]
mod tests_client;

mod client;
mod crowds;
mod distribution;
mod endings;
mod imbalance;
mod mail;
mod options;
mod ours;
mod restarts;
mod rows;
mod server;

use std::{
    error::Error,
    process::{Command, ExitCode},
};

use crate::{options::Options, table::Table};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let is_server = std::env::args()
        .nth(1)
        .is_some_and(|first| first == ours::ARGUMENT);
    let done = if is_server { ours::run() } else { bench() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let Some(options) = Options::parse()? else {
        println!("{}", options::USAGE);
        return Ok(());
    };
    let node = Command::new("node").arg("--version").output();
    let Ok(node) = node else {
        return Err("there is no `node` on PATH: install Node 18 or newer".into());
    };
    let mut facts = Table::new(["machine", ""]);
    facts.row(["CPU".to_owned(), procfs::cpu_model()]);
    let cores = std::thread::available_parallelism()?;
    facts.row(["cores".to_owned(), cores.to_string()]);
    facts.row(["kernel".to_owned(), procfs::kernel()]);
    facts.row([
        "node".to_owned(),
        String::from_utf8_lossy(&node.stdout).trim().to_owned(),
    ]);
    facts.row([
        "client".to_owned(),
        "on the same cores, over loopback".to_owned(),
    ]);
    println!("{facts}");
    rows::measure(&options)?;
    if options.wants(distribution::KEY) {
        distribution::measure(&options)?;
    }
    if options.wants(imbalance::KEY) {
        imbalance::measure(&options)?;
    }
    Ok(())
}
