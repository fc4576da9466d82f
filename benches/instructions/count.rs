//! Runs a server under valgrind, asks it for few and for many answers, and takes the difference.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::profile::{Counts, read};
use crate::{Result, load, servers};

const FEW: usize = 800;
const MANY: usize = 4000;
const CONNECTIONS: usize = 16;

/// What a request costs.
pub(crate) struct Cost {
    pub(crate) instructions: f64,
    pub(crate) calls: f64,
    pub(crate) allocations: f64,
    pub(crate) reallocations: f64,
}

pub(crate) fn require_valgrind() -> Result<()> {
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("this bench counts with callgrind: install valgrind".into()),
    }
}

pub(crate) fn of_a_request(name: &str, keep: Option<&Path>) -> Result<Cost> {
    let few = run(name, FEW, None)?;
    let many = run(name, MANY, keep)?;
    let each = |many: u64, few: u64| (many as f64 - few as f64) / (MANY - FEW) as f64;
    Ok(Cost {
        instructions: each(many.instructions, few.instructions),
        calls: each(many.calls, few.calls),
        allocations: each(many.allocations, few.allocations),
        reallocations: each(many.reallocations, few.reallocations),
    })
}

fn run(name: &str, requests: usize, keep: Option<&Path>) -> Result<Counts> {
    let profile = std::env::temp_dir().join(format!(
        "axum-cluster-instructions-{}-{name}",
        std::process::id()
    ));
    let counted = count(name, requests, &profile);
    if let (Some(keep), Ok(_)) = (keep, &counted) {
        std::fs::create_dir_all(keep)?;
        std::fs::copy(&profile, keep.join(name))?;
    }
    // There is none where valgrind failed.
    let _ = std::fs::remove_file(&profile);
    counted
}

fn count(name: &str, requests: usize, profile: &Path) -> Result<Counts> {
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(profile);
    let mut child = Command::new("valgrind")
        .args([
            "--quiet",
            "--tool=callgrind",
            "--compress-strings=no",
            "--collect-systime=nsec",
        ])
        .arg(out)
        .arg(std::env::current_exe()?)
        .args([servers::ARGUMENT, name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take();
    let asked = listens_at(stdout).and_then(|(address, _stdout)| {
        let connections = if name.ends_with("many") {
            CONNECTIONS
        } else {
            1
        };
        load::ask(address, requests, connections)
    });
    end(&mut child)?;
    asked?;
    read(profile)
}

fn listens_at(stdout: Option<ChildStdout>) -> Result<(SocketAddr, BufReader<ChildStdout>)> {
    let mut stdout = BufReader::new(stdout.ok_or("no standard output")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .ok_or("the server did not say where it listens")?
        .parse()?;
    Ok((address, stdout))
}

/// Asks it to end; a program that knows no better ends by the signal, and its profile is written all the same.
fn end(child: &mut Child) -> Result<()> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or("pid 0")?;
    // One that has ended already is waited for below.
    let _ = kill_process(pid, Signal::TERM);
    let status = child.wait()?;
    match status.code() {
        None | Some(0) => Ok(()),
        Some(_) => Err(format!("the server failed: {status}").into()),
    }
}
