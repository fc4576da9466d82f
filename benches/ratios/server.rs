//! A server under test: a process or a tree of them, started, found ready, and stopped.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::output::Output;
use crate::program::{Guard, Programs, Recipe, command};
use crate::{Result, probe, procfs};

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

/// Sends a signal to a process that this program started; one that has gone already is no error.
pub(crate) fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill_process(Pid::from_raw(pid).ok_or("pid 0")?, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sixty-four processes of Node take some of them.
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: Duration = Duration::from_secs(1);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
