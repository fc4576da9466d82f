//! A server under test: a process or a tree of them, started, found ready, and stopped.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::installed::{PEERS, Place};
use crate::output::Output;
use crate::{Result, peers, probe, procfs};

/// What is there to be started.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The folder with the built examples.
    pub(crate) examples: PathBuf,
    /// What runs in place of `hello`.
    pub(crate) hello: Option<PathBuf>,
    /// Another build of `hello`, measured beside it.
    pub(crate) other: Option<PathBuf>,
    /// Is there a `node` on PATH?
    pub(crate) node: bool,
    /// The program in `benches/actix`, if it could be built.
    pub(crate) actix: Option<PathBuf>,
    /// Where others were installed that are not on PATH.
    pub(crate) installed: Option<PathBuf>,
    /// For their files, removed at the end.
    pub(crate) scratch: PathBuf,
}

impl Programs {
    pub(crate) fn has(&self, program: &Program) -> bool {
        match program {
            Program::Example { name: OTHER, .. } => self.other.is_some(),
            Program::Example { name, .. } => self.example(name).exists(),
            Program::Peer(_) | Program::Cluster(_) => true,
            Program::Actix => self.actix.is_some(),
            Program::Installed(name) => self.version(name).is_some(),
            Program::Node { .. } => self.node,
        }
    }

    /// Of a server of the bench `peers`; `None`: it is not there.
    pub(crate) fn version(&self, name: &str) -> Option<String> {
        let peer = PEERS.iter().find(|peer| peer.name.starts_with(name))?;
        peer.version(&self.place(0))
    }

    fn place(&self, port: u16) -> Place {
        Place {
            sources: concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers").into(),
            installed: self.installed.clone(),
            scratch: self.scratch.clone(),
            hello: self.example("hello"),
            port,
        }
    }

    fn example(&self, name: &str) -> PathBuf {
        match &self.hello {
            Some(program) if name == "hello" => program.clone(),
            _ if name == OTHER => self.other.clone().unwrap_or_default(),
            _ => self.examples.join(name),
        }
    }
}

/// What stands for another build of `hello`.
pub(crate) const OTHER: &str = "hello, the other build";

/// How to start a server, and what it looks like once it stands.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    /// How many processes it has.
    pub(crate) processes: usize,
    /// Connections that are open and idle, beside those of the workload.
    pub(crate) idle: usize,
    pub(crate) program: Program,
}

#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// An example of this crate.
    Example {
        name: &'static str,
        workers: usize,
        /// The policy, unless it is the default.
        scheduling: Option<&'static str>,
    },
    /// This binary again; see `peers`.
    Peer(&'static str),
    /// This crate in this binary, started again.
    Cluster(&'static str),
    /// `benches/actix`.
    Actix,
    /// One of those of the bench `peers`.
    Installed(&'static str),
    /// `node_cluster.js`.
    Node {
        workers: usize,
        policy: &'static str,
        /// A variable that is set.
        switch: &'static str,
    },
}

/// A running server. Dropping it ends all its processes.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddrV4,
    output: Arc<Output>,
    stopped: bool,
    /// From just before the program was started to its first answer.
    pub(crate) boot: Duration,
}

impl Server {
    /// Starts a server and waits until all its processes are there and it answers.
    pub(crate) fn start(recipe: &Recipe, programs: &Programs) -> Result<Self> {
        Self::start_as(recipe, programs, Guard::EndsWithThisProcess)
    }

    /// The same without a detour, for measuring how long a start takes.
    pub(crate) fn start_at_once(recipe: &Recipe, programs: &Programs) -> Result<Self> {
        Self::start_as(recipe, programs, Guard::None)
    }

    fn start_as(recipe: &Recipe, programs: &Programs, guard: Guard) -> Result<Self> {
        // `hello` cannot say which port it got, so it is given one, which somebody else may take first.
        let first = Instant::now();
        loop {
            match Self::try_start(recipe, programs, guard) {
                Err(_) if !recipe.program.prints_address() && first.elapsed() < RETRIES => {}
                done => return done,
            }
        }
    }

    fn try_start(recipe: &Recipe, programs: &Programs, guard: Guard) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut command = command(&recipe.program, programs, address, guard)?;
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = Arc::new(Output::default());
        output.follow(child.stdout.take());
        output.follow(child.stderr.take());
        let mut server = Self {
            child,
            address,
            output,
            stopped: false,
            boot: Duration::ZERO,
        };

        let found = server.wait_ready(recipe, started);
        found
            .map_err(|error| format!("{error}; it printed:\n{}", server.output.text()).into())
            .map(|()| server)
    }

    fn wait_ready(&mut self, recipe: &Recipe, started: Instant) -> Result<()> {
        let child = &mut self.child;
        let mut alive = || match child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the server ended: {status}").into()),
        };
        if recipe.program.prints_address() {
            self.address = loop {
                alive()?;
                if let Some(address) = self.output.address(Duration::from_millis(20)) {
                    break address;
                }
                if started.elapsed() > BOOT_TIMEOUT {
                    return Err("the server did not say where it listens".into());
                }
            };
        }
        let answered = if recipe.program.speaks_http1() {
            probe::until_answered(self.address, BOOT_TIMEOUT, alive)?
        } else {
            Instant::now()
        };
        self.boot = answered - started;
        while self.processes().len() != recipe.processes {
            if started.elapsed() > BOOT_TIMEOUT {
                return Err(format!(
                    "{} processes instead of {}",
                    self.processes().len(),
                    recipe.processes
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The pids of all its processes, the first one first.
    pub(crate) fn processes(&self) -> Vec<i32> {
        procfs::tree(self.child.id().cast_signed())
    }

    /// How long each of its workers took, by its own account.
    pub(crate) fn fork_to_listening_us(&self) -> Vec<f64> {
        self.output.fork_to_listening_us()
    }

    /// Asks the server to stop, and kills what does not.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        let processes: Vec<_> = self
            .processes()
            .into_iter()
            .map(|pid| (pid, procfs::started(pid)))
            .collect();
        signal(self.child.id().cast_signed(), Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut left = Vec::new();
        loop {
            left.clone_from(&processes);
            left.retain(|(pid, started)| started.is_some() && procfs::started(*pid) == *started);
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for (pid, _) in &left {
            signal(*pid, Signal::KILL)?;
        }
        self.child.wait()?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{} processes did not stop and were killed", left.len()).into())
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("ratios: {error}");
        }
    }
}

/// What ends a server when this process dies before it could stop it.
#[derive(Clone, Copy, Debug)]
enum Guard {
    /// A signal from the kernel, arranged by `peers`, which then becomes the program.
    EndsWithThisProcess,
    /// Nothing.
    None,
}

impl Program {
    /// Node has either or, without TLS.
    fn speaks_http1(&self) -> bool {
        !matches!(
            self,
            Self::Node {
                switch: "HTTP2",
                ..
            }
        )
    }

    fn prints_address(&self) -> bool {
        !matches!(
            self,
            Self::Example {
                name: "hello" | OTHER,
                ..
            } | Self::Installed(_)
        )
    }
}

fn command(
    program: &Program,
    programs: &Programs,
    address: SocketAddrV4,
    guard: Guard,
) -> Result<Command> {
    let myself = std::env::current_exe()?;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/benches/ratios/node_cluster.js"
    );
    let argv: Vec<PathBuf> = match program {
        Program::Example { name, .. } => vec![programs.example(name)],
        Program::Peer(name) | Program::Cluster(name) => {
            vec![myself.clone(), peers::ARGUMENT.into(), name.into()]
        }
        Program::Actix => vec![programs.actix.clone().ok_or("actix-web was not built")?],
        Program::Node { .. } => vec!["node".into(), script.into()],
        Program::Installed(name) => return installed(name, programs, address),
    };
    let mut command = match guard {
        Guard::EndsWithThisProcess => {
            let mut command = Command::new(myself);
            command.args([peers::ARGUMENT, peers::BECOME]).args(&argv);
            command
        }
        Guard::None => {
            let mut command = Command::new(&argv[0]);
            command.args(&argv[1..]);
            command
        }
    };
    for name in [
        "RUST_LOG",
        "AXUM_CLUSTER_WORKER",
        "AXUM_CLUSTER_SCHEDULING",
        "NODE_OPTIONS",
        "NODE_CLUSTER_SCHED_POLICY",
    ] {
        command.env_remove(name);
    }
    match program {
        Program::Example {
            workers,
            scheduling,
            ..
        } => {
            let scheduling = scheduling.iter();
            command
                .envs(scheduling.map(|policy| ("AXUM_CLUSTER_SCHEDULING", policy)))
                .env("ADDR", address.to_string())
                .env("AXUM_CLUSTER_WORKERS", workers.to_string());
        }
        Program::Peer(_) | Program::Cluster(_) | Program::Actix | Program::Installed(_) => {}
        Program::Node {
            workers,
            policy,
            switch,
        } => {
            command
                .env("WORKERS", workers.to_string())
                .env("POLICY", policy);
            if !switch.is_empty() {
                command.env(switch, "1");
            }
        }
    }
    Ok(command)
}

/// A server of the bench `peers`, with the settings that it has there.
fn installed(name: &str, programs: &Programs, address: SocketAddrV4) -> Result<Command> {
    let peer = PEERS.iter().find(|peer| peer.name.starts_with(name));
    let peer = peer.ok_or("no such peer")?;
    let inner = peer.command(&programs.place(address.port()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([peers::ARGUMENT, peers::BECOME])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    if let Some(directory) = inner.get_current_dir() {
        command.current_dir(directory);
    }
    Ok(command)
}

/// Sends a signal to a process that this program started; one that has gone already is no error.
pub(crate) fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill_process(Pid::from_raw(pid).ok_or("pid 0")?, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

const BOOT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES: Duration = Duration::from_secs(1);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
