//! What a keep-alive request costs in instructions, counted by callgrind: a change of one percent shows, on a busy machine too.
//!
//! ```sh
//! cargo bench --bench instructions                       # needs valgrind; about a minute
//! cargo bench --bench instructions -- worker axum        # only these servers, by a part of their names
//! cargo bench --bench instructions -- --keep FOLDER      # and keep the profiles, for callgrind_annotate
//! ```
//!
//! Each server is this binary, started again under valgrind, twice, for few requests and for many. The difference, divided by the
//! requests, is what one costs: start and end cancel out. Counted are instructions outside the kernel, system calls, and calls
//! of the allocator.
//!
//! - `servers`: what is measured, the workers as users run them
//! - `count`: one run under valgrind; `profile`: reads what callgrind wrote
//! - `load`: the client

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

#[path = "../ratios/canned.rs"]
mod canned;
mod count;
mod load;
mod profile;
mod servers;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::count::Cost;
use crate::servers as peers; // as `canned` knows it

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [first, name, ..] if first == servers::ARGUMENT => servers::run(name),
        // As `cargo test --all-targets` starts it: nothing is measured.
        arguments if !arguments.iter().any(|argument| argument == "--bench") => Ok(()),
        arguments => bench(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is compared, and what it should be at most.
struct Comparison {
    what: &'static str,
    of: &'static str,
    against: &'static str,
    target: Option<f64>,
}

const COMPARISONS: [Comparison; 8] = [
    Comparison {
        what: "counted request",
        of: "worker",
        against: "axum-connect-info",
        target: Some(1.00),
    },
    Comparison {
        what: "counted request, bare on the other side",
        of: "worker",
        against: "axum",
        target: Some(1.02),
    },
    Comparison {
        what: "the same, 200 routes",
        of: "worker-routes",
        against: "axum-routes",
        target: Some(1.00),
    },
    Comparison {
        what: "counted request, 16 connections",
        of: "worker-many",
        against: "axum-many",
        target: Some(1.02),
    },
    Comparison {
        what: "against the floor",
        of: "worker",
        against: "epoll",
        target: None,
    },
    Comparison {
        what: "axum::serve against the floor",
        of: "axum",
        against: "epoll",
        target: None,
    },
    Comparison {
        what: "notice a request, with its route",
        of: "worker-notices-many",
        against: "worker-many",
        target: None,
    },
    Comparison {
        what: "message a request",
        of: "worker-messages-many",
        against: "worker-many",
        target: None,
    },
];

fn bench(arguments: &[String]) -> Result<()> {
    let mut only = Vec::new();
    let mut keep = None;
    let mut arguments = arguments.iter().filter(|argument| *argument != "--bench");
    while let Some(argument) = arguments.next() {
        if argument == "--keep" {
            keep = Some(PathBuf::from(
                arguments.next().ok_or("--keep wants a folder")?,
            ));
        } else {
            only.push(argument.as_str());
        }
    }
    count::require_valgrind()?;
    let mut costs = Vec::new();
    for name in servers::NAMES {
        if only.is_empty() || only.iter().any(|text| name.contains(text)) {
            eprintln!("instructions: {name}");
            costs.push((name, count::of_a_request(name, keep.as_deref())?));
        }
    }
    print_costs(&costs);
    print_ratios(&costs);
    Ok(())
}

fn print_costs(costs: &[(&str, Cost)]) {
    println!("# Instructions a request\n");
    println!("| server | instructions | system calls | allocations | reallocations |");
    println!("|---|--:|--:|--:|--:|");
    for (name, cost) in costs {
        let Cost {
            instructions,
            calls,
            allocations,
            reallocations,
        } = cost;
        println!(
            "| {name} | {instructions:.0} | {calls:.2} | {allocations:.2} | {reallocations:.2} |"
        );
    }
}

fn print_ratios(costs: &[(&str, Cost)]) {
    let cost = |wanted: &str| {
        let found = costs.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, cost)| cost.instructions)
    };
    println!("\n| | ratio | target | |\n|---|--:|--:|---|");
    for Comparison {
        what,
        of,
        against,
        target,
    } in COMPARISONS
    {
        if let (Some(cost), Some(other)) = (cost(of), cost(against)) {
            let ratio = cost / other;
            let (target, met) = match target {
                Some(target) if ratio <= target => (format!("≤ {target:.2}"), "met"),
                Some(target) => (format!("≤ {target:.2}"), "**missed**"),
                None => (String::new(), ""),
            };
            println!("| {what}: {of} / {against} | {ratio:.3} | {target} | {met} |");
        }
    }
}
