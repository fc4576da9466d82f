//! What it costs the primary to hand a connection over.

use crate::exchange::{Traffic, Wire};
use crate::options::Options;
use crate::program::{Programs, Recipe};
use crate::recipes::{bare, crowd, node_round_robin};
use crate::report::Report;
use crate::table::Target;
use crate::workloads::{Workload, workload};
use crate::{Result, rounds, syscalls};

pub(crate) const KEY: &str = "hand-over";

pub(crate) fn measure(programs: &Programs, options: &Options, report: &mut Report) -> Result<()> {
    let workload = hand_over().of_what_is_there(programs, options);
    rounds::measure(&workload, programs, options, report)?;
    if !syscalls::is_there() {
        return Ok(());
    }
    // strace does not know the datagrams of a primary of another kind.
    let ours = [at_once(), one_at_a_time()];
    for recipe in ours.iter().filter(|recipe| programs.has(&recipe.program)) {
        let (calls, connections) = syscalls::count(recipe, Wire::NewConnection, programs)?;
        let datagrams = calls.get("sendmsg").copied().unwrap_or_default().max(1);
        report.say(format_args!(
            "{}: {:.1} connections a datagram, by strace, which slows the server down and so enlarges batches.",
            recipe.name,
            connections as f64 / datagrams as f64
        ));
    }
    Ok(())
}

fn hand_over() -> Workload {
    let (many, one, crowded) = (at_once(), one_at_a_time(), crowd("64 workers", 64));
    let alone = |name, recipe| Recipe {
        name,
        connections: Some(1),
        ..recipe
    };
    let (bare, node) = (bare(), node_round_robin());
    let bare_one = alone(
        "bare hand-over, 2 workers, one connection at a time",
        bare.clone(),
    );
    let node_one = alone(
        "Node, round robin, 2 workers, one connection at a time",
        node.clone(),
    );
    workload(
        KEY,
        "Hand-over",
        "CPU time of the primary alone, for a new connection: accept, choose, send, close. What it finds at a time it hands over in batches: \
         how often it was put on a core for each connection says how many those are. The bare one accepts, sends 64 at most and closes: it is \
         what these system calls and being woken cost on the machine.",
        Traffic::hello(Wire::NewConnection),
    )
    .of_the_primary()
    .limit(&many, Target::AtMost(4.0))
    .limit(&one, Target::AtMost(8.0))
    .ratio(&many, &bare, None)
    .ratio(&one, &bare_one, None)
    .servers([many, one, crowded, bare, bare_one, node, node_one])
}

fn at_once() -> Recipe {
    crowd("2 workers", 2)
}

fn one_at_a_time() -> Recipe {
    Recipe {
        connections: Some(1),
        ..crowd("2 workers, one connection at a time", 2)
    }
}
