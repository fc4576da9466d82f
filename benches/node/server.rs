//! A server under test, told by lines what to do, and ended with all its processes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Result, ours, procfs};

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Node,
    Ours,
}

/// How to start one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) whose: Whose,
    /// As `cluster.js` and `ours` call it.
    pub(crate) policy: &'static str,
    pub(crate) workers: u64,
    /// Further variables.
    pub(crate) env: &'static [(&'static str, &'static str)],
}

/// Runs until it is dropped.
pub(crate) struct Server {
    pub(crate) recipe: Recipe,
    pub(crate) address: SocketAddr,
    child: Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// How many of these were said before the last order.
    before: usize,
    errors: Arc<Mutex<String>>,
    /// All processes of it that were ever seen, with when they were started.
    processes: BTreeMap<i32, u64>,
}

impl Recipe {
    pub(crate) fn new(whose: Whose, policy: &'static str, workers: u64) -> Self {
        Self {
            whose,
            policy,
            workers,
            env: &[],
        }
    }

    pub(crate) fn env(self, env: &'static [(&'static str, &'static str)]) -> Self {
        Self { env, ..self }
    }

    fn command(&self) -> Result<Command> {
        let mut command = match self.whose {
            Whose::Node => {
                let mut command = Command::new("node");
                command.arg(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/benches/node/cluster.js"
                ));
                command
            }
            Whose::Ours => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg(ours::ARGUMENT);
                command
            }
        };
        for name in [
            "AXUM_CLUSTER_WORKERS",
            "AXUM_CLUSTER_SCHEDULING",
            "NODE_OPTIONS",
            "NODE_CLUSTER_SCHED_POLICY",
            "EARLY",
            "MAX_CONNECTIONS",
        ] {
            command.env_remove(name);
        }
        command
            .env("POLICY", self.policy)
            .env("WORKERS", self.workers.to_string())
            .envs(self.env.iter().copied());
        Ok(command)
    }

    /// Starts it and waits until all its workers listen.
    pub(crate) fn start(&self) -> Result<Server> {
        let mut child = self
            .command()?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (sender, lines) = channel();
        let errors = Arc::new(Mutex::new(String::new()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        thread::spawn(move || {
            let lines = stdout
                .into_iter()
                .flat_map(|pipe| BufReader::new(pipe).lines());
            lines
                .map_while(std::io::Result::ok)
                .all(|line| sender.send(line).is_ok())
        });
        let all = errors.clone();
        thread::spawn(move || {
            let lines = stderr
                .into_iter()
                .flat_map(|pipe| BufReader::new(pipe).lines());
            for line in lines.map_while(std::io::Result::ok) {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                *all += &format!("  {line}\n");
            }
        });
        let mut server = Server {
            recipe: *self,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            orders: child.stdin.take(),
            child,
            lines,
            seen: Vec::new(),
            before: 0,
            errors,
            processes: BTreeMap::new(),
        };
        server.note(server.primary());
        for id in 1..=self.workers {
            let address = server.wait_for(&format!("listening {id} "), BOOT)?;
            server.address = address.parse()?;
        }
        Ok(server)
    }
}

impl Server {
    pub(crate) fn primary(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The process of a worker.
    pub(crate) fn worker(&self, id: u64) -> Result<i32> {
        let prefix = format!("worker {id} pid ");
        let pid = self
            .seen
            .iter()
            .find_map(|line| line.strip_prefix(&prefix)?.parse().ok());
        pid.ok_or_else(|| format!("there is no worker {id}").into())
    }

    /// Its processes that live.
    pub(crate) fn living(&self) -> Vec<i32> {
        let lives =
            |(&pid, &started): (&i32, &u64)| (procfs::started(pid) == Some(started)).then_some(pid);
        self.processes.iter().filter_map(lives).collect()
    }

    pub(crate) fn order(&mut self, order: &str) -> Result<()> {
        self.hear();
        self.before = self.seen.len();
        let mut orders = self.orders.as_ref().ok_or("it is ending")?;
        Ok(writeln!(orders, "{order}")?)
    }

    /// Waits for a line said since the last order; returns what follows the beginning.
    pub(crate) fn wait_for(&mut self, beginning: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            self.hear();
            if let Some(rest) = self.said(beginning) {
                return Ok(rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.take(line),
                Err(_) => {
                    let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
                    let said = self.seen.join("\n  ");
                    return Err(format!(
                        "{:?} did not say `{beginning}`; it said:\n  {said}\n{errors}",
                        self.recipe
                    )
                    .into());
                }
            }
        }
    }

    /// What follows this beginning of a line that was said since the last order.
    pub(crate) fn said(&mut self, beginning: &str) -> Option<String> {
        self.hear();
        let since = self.seen.get(self.before..)?;
        since
            .iter()
            .find_map(|line| Some(line.strip_prefix(beginning)?.to_owned()))
    }

    fn hear(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
    }

    fn take(&mut self, line: String) {
        if line.starts_with("worker ")
            && let Some((_, pid)) = line.rsplit_once(' ')
        {
            pid.parse().into_iter().for_each(|pid| self.note(pid));
        }
        self.seen.push(line);
    }

    fn note(&mut self, pid: i32) {
        if let Some(started) = procfs::started(pid) {
            self.processes.insert(pid, started);
        }
    }

    /// Whether the primary runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }
}

/// A signal to a process of a server.
pub(crate) fn signal(pid: i32, signal: Signal) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid).ok_or("pid 0")?, signal)?)
}

pub(crate) fn descriptors(pid: i32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.hear();
        for pid in self.living() {
            // One that has just ended takes no signal.
            let _ = signal(pid, Signal::CONT);
        }
        self.orders = None;
        let begun = Instant::now();
        while begun.elapsed() < END && !self.living().is_empty() {
            self.hear();
            let _ = self.child.try_wait();
            thread::sleep(Duration::from_millis(5));
        }
        for pid in self.living() {
            let _ = signal(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

const BOOT: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_millis(1_500);
