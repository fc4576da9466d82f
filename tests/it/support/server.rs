//! A running server, and the proof at its end that nothing of it is left.

use std::{
    collections::BTreeSet,
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::{
        signal::kill,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    DEADLINE, Signal, get,
    output::Output,
    poll_for,
    procfs::{self, Process},
    try_get,
};

/// The variable that marks every process of one server's tree.
pub(super) const TREE: &str = "AXUM_CLUSTER_TEST_TREE";

/// The longest that a primary leaves a dead worker unreaped.
const REAPED: Duration = Duration::from_secs(2);

/// The longest that a server that has to end may take: the error after 16 deaths comes after about 13 s.
const EXIT: Duration = Duration::from_secs(30);

/// The longest that the children of a primary that was killed may take to end.
const ORPHANS: Duration = Duration::from_secs(20);

/// A real example, running.
///
/// Dropped, it is sent TERM and has to end; then no process of its tree, no socket file and no open port may be left.
pub struct Server {
    name: &'static str,
    child: Mutex<Child>,
    pid: u32,
    addr: String,
    output: Output,
    mark: String,
    seen: Mutex<BTreeSet<u32>>,
}

impl Server {
    pub(super) fn spawn(name: &'static str, command: &mut Command, mark: String) -> Self {
        // What a primary leaves behind becomes a child of this process, and is found.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let mut child = start(command);
        let output = Output::of([
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ]);
        let pid = child.id();
        Self {
            name,
            child: Mutex::new(child),
            pid,
            addr: String::new(),
            output,
            mark,
            seen: Mutex::default(),
        }
    }

    pub(super) fn wait_for_listening(&mut self) {
        let mut addr = None;
        let listens = |server: &Self| {
            let output = server.output();
            addr = output
                .lines()
                .find_map(|line| line.strip_prefix("listening on "))
                .map(str::to_owned);
            addr.is_some()
        };
        self.wait_until("the line `listening on ADDR`", listens);
        let addresses = addr.unwrap_or_default();
        self.addr = addresses.split(", ").next().unwrap_or_default().to_owned();
    }

    pub(super) fn wait_for_answer(&mut self, addr: String) {
        self.addr = addr;
        self.wait_until("an answer", |server| try_get(server.addr(), "/").is_ok());
    }

    /// Where it listens: `127.0.0.1:PORT`, or `unix:/path`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// The primary's.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks on a new connection; panics when there is no answer.
    pub fn get(&self, path: &str) -> super::Response {
        get(&self.addr, path)
    }

    /// The primary's children that live, by pid.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.children()
            .into_iter()
            .filter(|child| !child.is_zombie())
            .map(|child| child.pid)
            .collect()
    }

    /// The primary's children, zombies included.
    pub fn children(&self) -> Vec<Process> {
        let children = procfs::children(self.pid);
        self.seen().extend(children.iter().map(|child| child.pid));
        children
    }

    /// How many descriptors the primary has open.
    pub fn fds(&self) -> usize {
        procfs::descriptors(self.pid)
    }

    /// Signals the primary.
    pub fn signal(&self, signal: Signal) {
        assert!(
            self.is_running(),
            "{} has ended already\n{}",
            self.name,
            self.output()
        );
        self.signal_to(self.pid, signal);
    }

    /// Signals one process of the tree. One that has gone meanwhile takes none.
    pub fn signal_to(&self, pid: u32, signal: Signal) {
        // The process may have ended by itself.
        let _ = kill(as_pid(pid), signal);
    }

    /// Signals every process of the tree, as `pkill` and systemd do.
    pub fn signal_all(&self, signal: Signal) {
        procfs::with_environment(&self.mark)
            .iter()
            .for_each(|process| self.signal_to(process.pid, signal));
    }

    /// Signals the process group, as a terminal does. Only for a server that was started in [one of its own](super::run::Run::own_group).
    pub fn signal_group(&self, signal: Signal) {
        let group = procfs::process(self.pid).map(|process| process.group);
        assert_eq!(group, Some(self.pid), "it has no group of its own");
        nix::sys::signal::killpg(as_pid(self.pid), signal).unwrap();
    }

    /// All that was printed so far, both streams.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// The lines printed so far that begin with this.
    pub fn lines(&self, beginning: &str) -> Vec<String> {
        self.output()
            .lines()
            .filter(|line| line.starts_with(beginning))
            .map(str::to_owned)
            .collect()
    }

    /// How many times this text was printed so far.
    pub fn count(&self, text: &str) -> usize {
        self.output().matches(text).count()
    }

    /// The number behind this beginning of a line, in the nth such line (from 0).
    pub fn number_after(&self, beginning: &str, nth: usize) -> u32 {
        self.wait_until(&format!("line {nth} with {beginning:?}"), |server| {
            server.lines(beginning).len() > nth
        });
        self.lines(beginning)[nth][beginning.len()..]
            .parse()
            .unwrap()
    }

    /// Waits until so many next programs have taken over since the start.
    pub fn wait_for_take_over(&self, times: usize) {
        self.wait_until("the next program took over", |server| {
            server.count(super::TOOK_OVER) >= times
        });
    }

    pub fn is_running(&self) -> bool {
        self.try_wait().is_none()
    }

    /// Waits for a condition; panics when it does not come to hold, with what was printed. Ends early when the server has ended.
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let mut ended = false;
        let held = poll_for(DEADLINE, || {
            // Looked at first: what it printed last may be what is waited for.
            ended = self.try_wait().is_some() && self.output.is_complete();
            condition(self) || ended
        });
        if !held || (ended && !condition(self)) {
            let how = self.try_wait().map_or_else(
                || format!("within {DEADLINE:?}"),
                |status| format!("before it ended with {status}"),
            );
            panic!(
                "{}: not {what} {how}; it printed:\n{}",
                self.name,
                self.output()
            );
        }
    }

    /// Waits until a line with this text was printed.
    pub fn wait_for_line(&self, text: &str) {
        self.wait_until(&format!("a line with {text:?}"), |server| {
            server.output().lines().any(|line| line.contains(text))
        });
    }

    /// Sends TERM and waits for the end.
    pub fn stop(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }

    /// Waits until the primary has ended and everything it printed has been read.
    pub fn wait_exit(&self) -> ExitStatus {
        assert!(
            poll_for(EXIT, || !self.is_running()),
            "{} did not end within {EXIT:?}; it printed:\n{}",
            self.name,
            self.output()
        );
        // Workers of a primary that was killed still hold the other ends.
        poll_for(Duration::from_secs(5), || self.output.is_complete());
        self.try_wait().unwrap()
    }

    fn try_wait(&self) -> Option<ExitStatus> {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_wait()
            .unwrap()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every process that is or was one of the tree and still has an entry in the table, zombies included. Not the primary.
    pub fn left(&self) -> Vec<Process> {
        let mut left = procfs::with_environment(&self.mark);
        let mut pids = std::mem::take(&mut *self.seen());
        pids.extend(self.output.pids());
        // A pid that was used again is another process: it has another name, or does not bear the mark.
        let zombies = pids
            .iter()
            .filter_map(|&pid| procfs::process(pid))
            .filter(|process| process.is_zombie());
        left.extend(zombies.filter(|process| self.has_named(process)));
        left.retain(|process| process.pid != self.pid);
        pids.extend(left.iter().map(|process| process.pid));
        *self.seen() = pids;
        left
    }

    /// Whether a process is called as a worker of this server is, or not named yet: executed through a descriptor, by its number.
    fn has_named(&self, process: &Process) -> bool {
        process
            .name
            .starts_with(&self.name[..self.name.len().min(8)])
            || process.name.parse::<u32>().is_ok()
    }

    /// Sees it to its end; says what was not as it has to be.
    fn finish(&self) -> Result<(), String> {
        if self.is_running() {
            // What a test has stopped could not end.
            self.signal_all(Signal::SIGCONT);
            let zombies = || {
                self.children()
                    .into_iter()
                    .filter(Process::is_zombie)
                    .collect::<Vec<_>>()
            };
            if !poll_for(REAPED, || zombies().is_empty() || !self.is_running()) {
                return Err(format!("the primary does not reap {:?}", zombies()));
            }
            self.signal_to(self.pid, Signal::SIGTERM);
        }
        if !poll_for(DEADLINE, || !self.is_running()) {
            return Err(format!(
                "it did not end within {DEADLINE:?} after TERM; left: {:?}",
                self.left()
            ));
        }
        let killed = self
            .try_wait()
            .is_some_and(|status| status.code().is_none());
        if killed {
            poll_for(ORPHANS, || self.left_of_killed().is_empty());
        }
        let left = self.left();
        if !left.is_empty() {
            return Err(format!(
                "it ended with {:?} and left {left:?}",
                self.try_wait()
            ));
        }
        match self.addr.strip_prefix("unix:") {
            Some(path) if Path::new(path).exists() && !killed => {
                Err(format!("the socket file {path} is left"))
            }
            None if is_open(&self.addr) => Err(format!("{} is still open", self.addr)),
            _ => Ok(()),
        }
    }

    /// What is left of a tree whose primary was killed; what has ended is reaped here, because nobody else is there to do it.
    fn left_of_killed(&self) -> Vec<Process> {
        let mut left = self.left();
        left.retain(|process| {
            // A zombie whose other threads have not ended yet cannot be reaped for a moment.
            let ended = process.is_zombie()
                && waitpid(as_pid(process.pid), Some(WaitPidFlag::WNOHANG))
                    .is_ok_and(|status| status != WaitStatus::StillAlive);
            !ended
        });
        left
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Err(problem) = self.finish() else { return };
        self.signal_all(Signal::SIGKILL);
        poll_for(REAPED, || {
            !self.is_running() && self.left_of_killed().is_empty()
        });
        let report = format!("{}: {problem}; it printed:\n{}", self.name, self.output());
        if std::thread::panicking() {
            eprintln!("{report}");
        } else {
            panic!("{report}");
        }
    }
}

/// Starts a program. A file that was written just now may be busy for a moment: another test that forks at that time has it open still.
fn start(command: &mut Command) -> Child {
    let mut child = None;
    poll_for(DEADLINE, || match command.spawn() {
        Ok(started) => {
            child = Some(started);
            true
        }
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => false,
        Err(error) => panic!("cannot start {command:?}: {error}"),
    });
    child.unwrap()
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap())
}

/// Whether somebody answers there. On one machine a client may by chance get the very port as its own, and meets itself.
fn is_open(addr: &str) -> bool {
    !addr.is_empty()
        && TcpStream::connect(addr)
            .is_ok_and(|stream| stream.local_addr().ok() != stream.peer_addr().ok())
}
