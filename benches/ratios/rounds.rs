//! The rounds of one workload, and the two tables that come of them.

use std::time::Duration;

use crate::Result;
use crate::apart::Apart;
use crate::load::Load;
use crate::options::Options;
use crate::procfs::{self, CpuTimes};
use crate::program::{Programs, Recipe};
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::table::{Series, Table};
use crate::workloads::{Of, Workload};

/// Measures all servers of a workload in every round, and prints what was found.
pub(crate) fn measure(
    workload: &Workload,
    programs: &Programs,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let mut cost = vec![Series::default(); workload.servers.len()];
    let mut rate = vec![Series::default(); workload.servers.len()];
    let mut switches = vec![Series::default(); workload.servers.len()];
    let mut others = Series::default();
    let apart = workload.apart.then(Apart::new).transpose()?;
    for number in 0..options.rounds {
        let round = round(number, workload, apart.as_ref(), programs, options)
            .map_err(|error| format!("{}, {error}", workload.title))?;
        for (which, sample) in round.samples.iter().enumerate() {
            eprintln!(
                "{} round {}/{}: {:<40} {:>7.2} µs {:>8.0}/s",
                workload.key,
                number + 1,
                options.rounds,
                workload.servers[which].name,
                sample.cost_us(),
                sample.rate()
            );
            cost[which].push(sample.cost_us());
            rate[which].push(sample.rate());
            switches[which].push(sample.switches_each());
        }
        others.push(round.others);
    }
    report.say(format_args!(
        "\n## {}\n\n{}\n",
        workload.title, workload.note
    ));
    print_figures(workload, &cost, &rate, &switches, report);
    if !workload.comparisons.is_empty() {
        print_ratios(workload, &cost, report);
    }
    report.say(format_args!(
        "Other programs used {} % of the machine meanwhile.",
        others.spread()
    ));
    if !workload.skipped.is_empty() {
        report.say(format_args!(
            "Skipped, program not there: {}.",
            workload.skipped.join("; ")
        ));
    }
    Ok(())
}

fn print_figures(
    workload: &Workload,
    cost: &[Series],
    rate: &[Series],
    switches: &[Series],
    report: &mut Report,
) {
    let mut head = vec![
        "server",
        "CPU µs a request",
        "min to max",
        "switches a request",
        "requests a second",
    ];
    if !workload.limits.is_empty() {
        head.extend(["target", ""]);
    }
    let mut figures = Table::new(head);
    for (which, recipe) in workload.servers.iter().enumerate() {
        if workload.of == Of::Server {
            report.figure(Figure {
                workload: workload.column,
                server: recipe.name,
                cost_us: cost[which].median(),
            });
        }
        let mut row = vec![
            recipe.name.to_owned(),
            format!("{:.2}", cost[which].median()),
            format!("{:.2} to {:.2}", cost[which].min(), cost[which].max()),
            format!("{:.2}", switches[which].median()),
            format!("{:.0}", rate[which].median()),
        ];
        let limit = workload
            .limits
            .iter()
            .find(|(name, _)| *name == recipe.name);
        if let Some((_, limit)) = limit {
            row.extend([
                limit.to_string(),
                limit.verdict(cost[which].median()).to_owned(),
            ]);
        } else if !workload.limits.is_empty() {
            row.extend([String::new(), String::new()]);
        }
        figures.row(row);
    }
    report.say(&figures);
}

fn print_ratios(workload: &Workload, cost: &[Series], report: &mut Report) {
    let mut ratios = Table::new([
        "CPU a request",
        "ratio",
        "95 % interval",
        "min to max",
        "target",
        "",
    ]);
    for comparison in &workload.comparisons {
        let place = |name| {
            workload
                .servers
                .iter()
                .position(|recipe| recipe.name == name)
        };
        if let (Some(of), Some(against)) = (place(comparison.of), place(comparison.against)) {
            ratios.ratio(comparison, &cost[of].per_round(&cost[against]));
        }
    }
    report.say(&ratios);
}

struct Round {
    /// In the order of the servers.
    samples: Vec<Sample>,
    /// Percent of all cores that neither the servers nor the client used, and nobody had left idle.
    others: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    answered: u64,
    /// By the processes of the server that count, and by all.
    spent: Duration,
    server: Duration,
    /// How often a thread of those was put on a core.
    switches: u64,
    wall: Duration,
    /// By the client.
    client: Duration,
    /// By everybody.
    machine: Duration,
}

impl Sample {
    fn cost_us(&self) -> f64 {
        self.spent.as_secs_f64() * 1e6 / self.answered as f64
    }

    fn switches_each(&self) -> f64 {
        self.switches as f64 / self.answered as f64
    }

    fn rate(&self) -> f64 {
        self.answered as f64 / self.wall.as_secs_f64()
    }
}

fn round(
    number: usize,
    workload: &Workload,
    apart: Option<&Apart>,
    programs: &Programs,
    options: &Options,
) -> Result<Round> {
    let count = workload.servers.len();
    let mut contenders = Vec::with_capacity(count);
    for recipe in &workload.servers {
        contenders.push(
            Contender::start(recipe, workload, apart, programs, options)
                .map_err(|error| format!("{}: {error}", recipe.name))?,
        );
    }
    let turns = (options.measurement.as_secs_f64() / TURN.as_secs_f64())
        .round()
        .max(1.0) as usize;
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = number as u64 + 1;
    for _ in 0..turns {
        shuffle(&mut order, &mut random);
        for &which in &order {
            let contender = &mut contenders[which];
            contender
                .turn(options.measurement / turns as u32, apart)
                .map_err(|error| format!("{}: {error}", contender.name))?;
        }
    }
    let samples: Vec<Sample> = contenders
        .iter()
        .map(|contender| contender.sample)
        .collect();
    for contender in contenders {
        let name = contender.name;
        contender
            .stop()
            .map_err(|error| format!("{name}: {error}"))?;
    }

    let sum =
        |part: fn(&Sample) -> Duration| samples.iter().map(part).sum::<Duration>().as_secs_f64();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let others =
        sum(|sample| sample.machine) - sum(|sample| sample.server) - sum(|sample| sample.client);
    Ok(Round {
        others: (100.0 * others / cores / sum(|sample| sample.wall)).max(0.0),
        samples,
    })
}

/// Nobody always comes after the same one: what it leaves behind in the caches would count against its successor.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (*random >> 33) as usize % (last + 1));
    }
}

/// A server in a round, with the client that talks to it.
struct Contender {
    name: &'static str,
    server: Server,
    load: Load,
    processes: Vec<i32>,
    of: Of,
    sample: Sample,
}

impl Contender {
    fn start(
        recipe: &Recipe,
        workload: &Workload,
        apart: Option<&Apart>,
        programs: &Programs,
        options: &Options,
    ) -> Result<Self> {
        let start = || Server::start(recipe, programs);
        let server = match apart {
            Some(apart) => apart.servers(start)?,
            None => start()?,
        };
        let mut load = Load::new(
            server.address(),
            workload.traffic.clone().beside_idle(recipe.idle),
            recipe.connections.unwrap_or(options.connections),
        )?;
        load.run(WARM_UP)?.without_failures()?;
        let processes = server.processes();
        Ok(Self {
            name: recipe.name,
            server,
            load,
            processes,
            of: workload.of,
            sample: Sample::default(),
        })
    }

    fn turn(&mut self, length: Duration, apart: Option<&Apart>) -> Result<()> {
        std::thread::sleep(SETTLE);
        let measured = match self.of {
            Of::Server => &*self.processes,
            Of::Primary => &self.processes[..1],
        };
        let (before, all_before) = (CpuTimes::read(measured)?, CpuTimes::read(&self.processes)?);
        let (machine, client) = (procfs::machine_busy()?, procfs::own_thread()?);
        let mut run = || self.load.run(length)?.without_failures();
        let tally = match apart {
            Some(apart) => apart.client(run)?,
            None => run()?,
        };
        self.sample.client += procfs::own_thread()? - client;
        self.sample.machine += procfs::machine_busy()?.saturating_sub(machine);
        std::thread::sleep(SETTLE);
        let all = CpuTimes::read(&self.processes)?.since(&all_before);
        let used = CpuTimes::read(measured)?.since(&before);
        self.sample.server += all.time;
        self.sample.spent += used.time;
        self.sample.switches += used.switches;
        self.sample.answered += tally.answered;
        self.sample.wall += tally.wall;
        Ok(())
    }

    fn stop(self) -> Result<()> {
        if self.server.processes() != self.processes {
            return Err("a process of the server came or went during the measurement".into());
        }
        drop(self.load);
        self.server.stop()
    }
}

const TURN: Duration = Duration::from_millis(100);
const WARM_UP: Duration = Duration::from_millis(300);
/// The server finishes closing what the client is already done with.
const SETTLE: Duration = Duration::from_millis(5);
