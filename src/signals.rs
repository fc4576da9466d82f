//! Which signals a process answers to, and how. The table in the README is the contract.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// TERM or INT: end gracefully; the second one: end now.
    Stop,
    /// QUIT: end now.
    StopNow,
    /// HUP: a rolling restart; a graceful end when the terminal has gone.
    Restart,
    /// USR1: open log files anew.
    Reopen,
    /// USR2: execute the program in place.
    Upgrade,
    /// TTIN: one worker more.
    More,
    /// TTOU: one worker fewer.
    Fewer,
}

/// The primary's signals, caught from here on.
#[derive(Debug)]
pub(crate) struct PrimarySignals {
    term: Signal,
    int: Signal,
    quit: Signal,
    hup: Option<Signal>,
    usr1: Signal,
    usr2: Signal,
    more: Option<Signal>,
    fewer: Option<Signal>,
    had_terminal: bool,
    /// Keeps an inherited "ignore" of SIGCHLD from taking exit statuses away.
    _child: Signal,
}

impl PrimarySignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let had_terminal = has_terminal();
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            // Started under nohup, the program is meant to outlive its terminal.
            hup: if is_ignored(Number::SIGHUP) {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
            // With a terminal these two are the terminal's own: a background process that reads or writes it.
            more: if had_terminal {
                None
            } else {
                Some(signal(raw(Number::SIGTTIN))?)
            },
            fewer: if had_terminal {
                None
            } else {
                Some(signal(raw(Number::SIGTTOU))?)
            },
            had_terminal,
            _child: signal(SignalKind::child())?,
        })
    }

    /// The next order. Cancel safe.
    pub(crate) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.term.recv() => Order::Stop,
            _ = self.int.recv() => Order::Stop,
            _ = self.quit.recv() => Order::StopNow,
            () = recv(self.hup.as_mut()) => if self.had_terminal && !has_terminal() { Order::Stop } else { Order::Restart },
            _ = self.usr1.recv() => Order::Reopen,
            _ = self.usr2.recv() => Order::Upgrade,
            () = recv(self.more.as_mut()) => Order::More,
            () = recv(self.fewer.as_mut()) => Order::Fewer,
        }
    }
}

async fn recv(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// A worker's signals: TERM is told to the primary, the others are the primary's business and do nothing here.
#[derive(Debug)]
pub(crate) struct WorkerSignals {
    term: Signal,
    /// Caught, not ignored: children of the worker start with the default again.
    _ignored: [Signal; 4],
}

impl WorkerSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let caught = Self {
            term: signal(SignalKind::terminate())?,
            _ignored: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
            ],
        };
        held_back().thread_unblock()?;
        // A handler for these would run again and again under `stty tostop`; blocked, the terminal lets a background process write.
        terminal_stops().thread_block()?;
        Ok(caught)
    }

    /// Completes when this worker was sent TERM. Cancel safe.
    pub(crate) async fn term(&mut self) {
        self.term.recv().await;
    }
}

/// Runs `spawn` with the signals blocked that a worker catches: the child inherits the mask, so none of them ends it before its handlers
/// stand.
pub(crate) fn held_back_in_child<T>(spawn: impl FnOnce() -> T) -> io::Result<T> {
    let mut block = held_back();
    block.extend(&terminal_stops());
    let before = block.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    let spawned = spawn();
    before.thread_set_mask()?;
    Ok(spawned)
}

/// Blocks every signal in this thread, and returns what was blocked before. What comes from now on waits, even for another program that
/// is executed here.
pub(crate) fn block_all() -> io::Result<SigSet> {
    Ok(SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?)
}

/// Undoes [`block_all`].
pub(crate) fn restore(blocked: &SigSet) {
    // Fails for no set of signals.
    let _ = blocked.thread_set_mask();
}

/// A set of signals as numbers, for another program.
pub(crate) fn numbers(set: &SigSet) -> Vec<i32> {
    set.iter().map(|signal| signal as i32).collect()
}

pub(crate) fn from_numbers(numbers: &[i32]) -> SigSet {
    let known = |&number: &i32| Number::try_from(number).ok();
    numbers.iter().filter_map(known).collect()
}

fn held_back() -> SigSet {
    [
        Number::SIGTERM,
        Number::SIGINT,
        Number::SIGHUP,
        Number::SIGUSR1,
        Number::SIGUSR2,
    ]
    .into_iter()
    .collect()
}

fn terminal_stops() -> SigSet {
    [Number::SIGTTIN, Number::SIGTTOU].into_iter().collect()
}

fn raw(signal: Number) -> SignalKind {
    SignalKind::from_raw(signal as i32)
}

/// Whether this process has a controlling terminal that is still there.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Whether the process was started with this signal ignored.
fn is_ignored(signal: Number) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok())
        .is_some_and(|mask| mask & (1 << (signal as u32 - 1)) != 0)
}
