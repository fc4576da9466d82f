//! The rounds of one workload, and the two tables that come of them.

use std::time::Duration;

use crate::Result;
use crate::load::Load;
use crate::options::Options;
use crate::procfs::{self, CpuTimes};
use crate::program::{Programs, Recipe};
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::table::{Series, Table};
use crate::workloads::Workload;

/// Measures all servers of a workload in every round, and prints what was found.
pub(crate) fn measure(
    workload: &Workload,
    programs: &Programs,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let mut cost = vec![Series::default(); workload.servers.len()];
    let mut rate = vec![Series::default(); workload.servers.len()];
    let mut others = Series::default();
    for number in 0..options.rounds {
        let round = round(number, workload, programs, options)
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
        }
        others.push(round.others);
    }
    print(workload, &cost, &rate, &others, report);
    Ok(())
}

fn print(
    workload: &Workload,
    cost: &[Series],
    rate: &[Series],
    others: &Series,
    report: &mut Report,
) {
    report.say(format_args!(
        "\n## {}\n\n{}\n",
        workload.title, workload.note
    ));
    let mut figures = Table::new([
        "server",
        "CPU µs a request",
        "min to max",
        "requests a second",
    ]);
    for (which, recipe) in workload.servers.iter().enumerate() {
        report.figure(Figure {
            workload: workload.key,
            server: recipe.name,
            cost_us: cost[which].median(),
        });
        figures.row([
            recipe.name.to_owned(),
            format!("{:.2}", cost[which].median()),
            format!("{:.2} to {:.2}", cost[which].min(), cost[which].max()),
            format!("{:.0}", rate[which].median()),
        ]);
    }
    report.say(&figures);

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
    spent: Duration,
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

    fn rate(&self) -> f64 {
        self.answered as f64 / self.wall.as_secs_f64()
    }
}

fn round(
    number: usize,
    workload: &Workload,
    programs: &Programs,
    options: &Options,
) -> Result<Round> {
    let count = workload.servers.len();
    let mut contenders = Vec::with_capacity(count);
    for recipe in &workload.servers {
        contenders.push(
            Contender::start(recipe, workload, programs, options)
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
                .turn(options.measurement / turns as u32)
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
        sum(|sample| sample.machine) - sum(|sample| sample.spent) - sum(|sample| sample.client);
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
    sample: Sample,
}

impl Contender {
    fn start(
        recipe: &Recipe,
        workload: &Workload,
        programs: &Programs,
        options: &Options,
    ) -> Result<Self> {
        let server = Server::start(recipe, programs)?;
        let mut load = Load::new(
            server.address(),
            workload.traffic.clone().beside_idle(recipe.idle),
            options.connections,
        )?;
        load.run(WARM_UP)?.without_failures()?;
        let processes = server.processes();
        Ok(Self {
            name: recipe.name,
            server,
            load,
            processes,
            sample: Sample::default(),
        })
    }

    fn turn(&mut self, length: Duration) -> Result<()> {
        std::thread::sleep(SETTLE);
        let before = CpuTimes::read(&self.processes)?;
        let (machine, client) = (procfs::machine_busy()?, procfs::own_thread()?);
        let tally = self.load.run(length)?.without_failures()?;
        self.sample.client += procfs::own_thread()? - client;
        self.sample.machine += procfs::machine_busy()?.saturating_sub(machine);
        std::thread::sleep(SETTLE);
        self.sample.spent += CpuTimes::read(&self.processes)?.since(&before);
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
