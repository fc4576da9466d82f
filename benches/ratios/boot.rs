//! How long a start takes, and how long the way back after the only worker was killed.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::options::Options;
use crate::program::Programs;
use crate::report::Report;
use crate::server::{Server, signal};
use crate::table::{Series, Table};
use crate::{Result, probe, recipes};

pub(crate) const KEY: &str = "boot";

pub(crate) fn measure(programs: &Programs, options: &Options, report: &mut Report) -> Result<()> {
    let mut recipes = vec![
        recipes::hello(1),
        recipes::playground(),
        recipes::node_one_worker(),
    ];
    recipes.retain(|recipe| programs.has(&recipe.program));
    let mut start = vec![Series::default(); recipes.len()];
    let mut again = vec![Series::default(); recipes.len()];
    let mut fork = vec![Series::default(); recipes.len()];
    for round in 0..options.boots {
        for turn in 0..recipes.len() {
            let which = (round + turn) % recipes.len();
            let server = Server::start_at_once(&recipes[which], programs)?;
            let boot_ms = milliseconds(server.boot);
            std::thread::sleep(SETTLE);

            let processes = server.processes();
            let [_, worker] = *processes else {
                return Err(format!(
                    "{}: {} processes, not a primary and a worker",
                    recipes[which].name,
                    processes.len()
                )
                .into());
            };
            let killed = Instant::now();
            signal(worker, Signal::KILL)?;
            let answered = probe::until_answered(server.address(), PATIENCE, || Ok(()))?;
            let again_ms = milliseconds(answered - killed);
            for us in server.fork_to_listening_us() {
                fork[which].push(us / 1e3);
            }
            server.stop()?;
            eprintln!(
                "boot {}/{}: {:<40} {boot_ms:>7.1} ms, after a kill {again_ms:>7.1} ms",
                round + 1,
                options.boots,
                recipes[which].name
            );
            start[which].push(boot_ms);
            again[which].push(again_ms);
        }
    }

    report.say(format_args!(
        "\n## Boot\n\nMilliseconds, median and min to max of {} starts. The only worker is killed (SIGKILL) {} ms after the first\n\
         answer. A new connection is tried every millisecond until one is answered. Fork to listening is what the program\n\
         itself says; the target is for a trivial app.\n",
        options.boots,
        SETTLE.as_millis()
    ));
    let mut table = Table::new([
        "server",
        "start to first answer",
        "worker killed to next answer",
        "fork to listening",
        "target",
        "",
    ]);
    for (which, recipe) in recipes.iter().enumerate() {
        let own = matches!(recipe.program, crate::program::Program::Example { .. })
            && !fork[which].is_empty();
        let met = if fork[which].median() <= TARGET_MS {
            "met"
        } else {
            "**missed**"
        };
        table.row([
            recipe.name.to_owned(),
            start[which].spread(),
            again[which].spread(),
            if fork[which].is_empty() {
                "not said".to_owned()
            } else {
                fork[which].spread()
            },
            if own {
                format!("≤ {TARGET_MS}")
            } else {
                String::new()
            },
            if own { met.to_owned() } else { String::new() },
        ]);
    }
    report.say(&table);
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const SETTLE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
const TARGET_MS: f64 = 10.0;
