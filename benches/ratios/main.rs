//! What a request costs here, beside its peers, as ratios in one run.
//!
//! ```sh
//! cargo bench --bench ratios -- --all                           # everything, about a quarter of an hour
//! cargo bench --bench ratios -- --only new-connection --rounds 9
//! ```
//!
//! Every server is a program of its own on a port of its own, started anew for each round. In a round they take turns of a
//! tenth of a second, one at a time, the others idle, in an order shuffled anew each time. Cost is the CPU time of all
//! threads of all processes of the server (`/proc/PID/task/*/schedstat`, nanoseconds), divided by requests answered with 200
//! and the right body. A ratio is made within a round, and the median of those is shown: what the machine does to both sides
//! cancels out. One request that fails ends the run with an error.
//!
//! Before a ratio near 1 is believed, look at its spread and at what other programs used of the machine meanwhile.
//!
//! - `options`: the command line
//! - `workloads`: which servers (`recipes`), which traffic (`exchange`), which ratios, which targets
//! - `rounds`: the measurement; `apart`: cores for the client and cores for the servers
//! - `program`, `server`: starts and stops a server, knows its processes; `output`: what it prints
//! - `peers`: the servers that are this very binary, started again: `axum::serve`, this crate with the same `app`, and
//!   (`canned`) a bare epoll loop, or (`bare`) two behind a process that hands them connections; `installed`: those of the bench `peers`; actix-web is a package of its own, `benches/actix`
//! - `load`: the client; `response`: what counts as an answer; `probe`: when does a server answer?
//! - `idle`: who holds idle connections
//! - `hand_over`: what a connection costs the primary; `open`: a hundred thousand of them
//! - `syscalls`: the budget of system calls
//! - `boot`, `memory`: the two measurements that are not about requests
//! - `procfs`, `table`, `report`, `chart`: reading numbers, printing and drawing them

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

mod apart;
mod app;
mod bare;
mod boot;
mod canned;
mod chart;
mod exchange;
mod hand_over;
mod idle;
#[allow(dead_code, reason = "the other bench's own: it uses more of it")]
#[path = "../peers/servers.rs"]
mod installed;
mod load;
mod memory;
mod open;
mod options;
mod output;
mod peers;
mod probe;
mod procfs;
mod program;
mod recipes;
mod report;
mod response;
mod rounds;
mod server;
mod syscalls;
mod table;
mod workloads;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::options::Options;
use crate::program::Programs;
use crate::report::Report;
use crate::table::Table;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match arguments.first() {
        Some(first) if first == peers::ARGUMENT => peers::run(&arguments[1..]),
        _ => bench(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ratios: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &[OsString]) -> Result<()> {
    let Some(options) = Options::parse(arguments)? else {
        println!("{}", options::USAGE);
        return Ok(());
    };
    let programs = Programs {
        hello: options.server.clone(),
        other: options.other.clone(),
        examples: examples(options.server.is_none())?,
        node: node_version().is_some(),
        actix: actix(),
        installed: options.installed.clone(),
        scratch: scratch()?,
    };
    let done = measure(&programs, &options);
    fs::remove_dir_all(&programs.scratch)?;
    done
}

fn measure(programs: &Programs, options: &Options) -> Result<()> {
    let hello = recipes::hello(2).program;
    if !programs.has(&hello) {
        return Err(format!("there is no program for {hello:?}").into());
    }
    raise_limit()?;
    let mut report = Report::default();
    say_machine(options, programs, &mut report);
    for workload in workloads::all(programs, options) {
        if options.wants(workload.key) {
            rounds::measure(&workload, programs, options, &mut report)?;
        }
    }
    if options.wants(hand_over::KEY) {
        hand_over::measure(programs, options, &mut report)?;
    }
    if options.names(open::KEY) {
        open::measure(programs, options, &mut report)?;
    }
    if options.wants(syscalls::KEY) {
        syscalls::measure(programs, &mut report)?;
    }
    if options.wants(memory::KEY) {
        memory::measure(programs, &mut report)?;
    }
    if options.wants(boot::KEY) {
        boot::measure(programs, options, &mut report)?;
    }
    report.say_overview();
    match &options.publish {
        Some(folder) => report.publish(folder),
        None => Ok(()),
    }
}

/// As many descriptors as allowed: for idle connections, here and in the servers, which inherit it.
fn raise_limit() -> Result<()> {
    let to = |most| {
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        setrlimit(Resource::Nofile, limit)
    };
    let allowed = getrlimit(Resource::Nofile).maximum;
    // More than the hard limit is root's to have.
    Ok(to(Some(1 << 20)).or_else(|_| to(allowed))?)
}

/// A folder for files of servers that want some.
fn scratch() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("ratios-{}", std::process::id()));
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// Builds the peer that needs libraries of its own; without a network it is left out.
fn actix() -> Option<PathBuf> {
    let executable = std::env::current_exe().ok()?;
    let target = executable.ancestors().nth(3)?.join("actix");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--locked", "--target-dir"])
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/actix"))
        .status();
    built
        .is_ok_and(|status| status.success())
        .then(|| target.join("release/actix-peer"))
}

/// The folder with the examples. They are built if so wished, optimised as this binary is: with its profile, whose folder is called
/// `release` too.
fn examples(build: bool) -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let profile = executable
        .parent()
        .and_then(Path::parent)
        .ok_or("this binary is not in a target folder")?;
    let target = profile
        .parent()
        .ok_or("this binary is not in a target folder")?;
    let folder = target.join("release").join("examples");
    if !build {
        return Ok(folder);
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--profile", "bench", "--target-dir"])
        .arg(target)
        .current_dir(manifest);
    for example in EXAMPLES {
        if manifest
            .join("examples")
            .join(example)
            .with_extension("rs")
            .exists()
        {
            cargo.args(["--example", example]);
        }
    }
    if !cargo.status()?.success() {
        return Err("the examples could not be built".into());
    }
    Ok(folder)
}

const EXAMPLES: [&str; 3] = ["hello", "request_count", "playground"];

fn say_machine(options: &Options, programs: &Programs, report: &mut Report) {
    let mut facts = Table::new(["machine", ""]);
    facts.row(["CPU".to_owned(), procfs::cpu_model()]);
    facts.row([
        "cores".to_owned(),
        std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string()),
    ]);
    facts.row(["kernel".to_owned(), procfs::kernel()]);
    facts.row([
        "rustc".to_owned(),
        version_of("rustc").unwrap_or_else(|| "?".to_owned()),
    ]);
    facts.row([
        "node".to_owned(),
        node_version().unwrap_or_else(|| "not on PATH: skipped".to_owned()),
    ]);
    for name in ["nginx", "granian", "gunicorn"] {
        let version = programs.version(name);
        facts.row([
            name.to_owned(),
            version.unwrap_or_else(|| "not there: skipped".to_owned()),
        ]);
    }
    facts.row(["settings".to_owned(), options.to_string()]);
    report.say(format_args!("# Ratios\n\n{facts}"));
}

fn node_version() -> Option<String> {
    version_of("node")
}

fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
