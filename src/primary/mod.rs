//! The primary: owns the listening sockets, starts and watches workers, hands connections to them.

mod acceptor;
mod choice;
mod dispatch;
mod driver;
mod fork;
mod gate;
mod handle;
mod hooks;
mod image;
mod life;
mod link;
mod memory;
mod process;
mod succession;
mod wishes;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use driver::{SECOND_STOP, Setup, run};
pub use fork::ForkOptions;
pub(crate) use fork::Forks;
pub use handle::WorkerHandle;
pub(crate) use hooks::{Event, Events, Hooks, open};
pub(crate) use image::{Image, Origin, is_test_binary, program_path};
pub(crate) use succession::Estate;
pub(crate) use wishes::Wish;
pub use wishes::WorkerProcess;

use crate::{
    address::Address,
    error::{Error, Result},
    event::Restarted,
    id::WorkerId,
    message::Message,
    scoreboard::Numbers,
};

/// The running primary: what may be asked of the cluster.
///
/// Cheap to clone. Given by [`on_ready`](crate::ClusteredServer::on_ready), [`start`](crate::ClusteredServer::start) and
/// [`cluster::primary()`](crate::cluster::primary). Commands act when called.
#[derive(Clone)]
pub struct Primary {
    shared: Arc<Shared>,
}

/// What handles and the loop share.
#[derive(Debug)]
pub(crate) struct Shared {
    commands: mpsc::UnboundedSender<Command>,
    local_addrs: Vec<Address>,
    table: Mutex<Table>,
    hook_panics: AtomicU64,
    upgrades: AtomicU64,
    ready: AtomicBool,
    ended: watch::Sender<bool>,
    /// What forks are told; `None` where the cluster looks after its workers itself.
    forks: Option<Forks>,
}

/// Workers that live, and the sum of what those counted that do not.
#[derive(Debug, Default)]
struct Table {
    living: BTreeMap<WorkerId, WorkerHandle>,
    dead: Numbers,
}

/// What a handle asks of the loop.
#[derive(Debug)]
pub(crate) enum Command {
    Shutdown,
    Worker(WorkerId, Wish),
    Fork(Box<fork::Order>),
    Restart(oneshot::Sender<Result<Restarted>>),
    Scale(u32, oneshot::Sender<Result<()>>),
    Upgrade(Option<PathBuf>, oneshot::Sender<Result<()>>),
}

impl Shared {
    pub(crate) fn new(
        commands: mpsc::UnboundedSender<Command>,
        local_addrs: Vec<Address>,
        forks: Option<Forks>,
    ) -> Arc<Self> {
        Arc::new(Self {
            commands,
            local_addrs,
            table: Mutex::default(),
            hook_panics: AtomicU64::new(0),
            upgrades: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            forks,
        })
    }

    pub(crate) fn forks(&self) -> Option<&Forks> {
        self.forks.as_ref()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn commands(&self) -> mpsc::UnboundedSender<Command> {
        self.commands.clone()
    }

    pub(crate) fn born(&self, worker: WorkerHandle) {
        self.table().living.insert(worker.id(), worker);
    }

    /// Moves a dead worker's numbers into the sum, in one step: a total read at any time counts them once.
    pub(crate) fn died(&self, worker: &WorkerHandle) {
        let mut table = self.table();
        if table.living.remove(&worker.id()).is_some() {
            table.dead += worker.row().read();
        }
    }

    /// What workers counted that have ended.
    pub(crate) fn dead(&self) -> Numbers {
        self.table().dead
    }

    /// Counts on where the program before this one stopped.
    pub(crate) fn resume(&self, dead: Numbers, hook_panics: u64, upgrades: u64) {
        self.table().dead = dead;
        self.hook_panics.store(hook_panics, Relaxed);
        self.upgrades.store(upgrades, Relaxed);
    }

    pub(crate) fn hook_panics(&self) -> u64 {
        self.hook_panics.load(Relaxed)
    }

    pub(crate) fn upgrades(&self) -> u64 {
        self.upgrades.load(Relaxed)
    }

    fn numbers(&self) -> Numbers {
        let table = self.table();
        let mut sum = table.dead;
        table
            .living
            .values()
            .for_each(|worker| sum += worker.row().read());
        sum
    }

    /// As many workers listen as are wanted and the cluster is not going to end, or this has ceased to be so.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// Says in the log where clients are served.
    pub(crate) fn tell_addresses(&self, workers: usize) {
        let addresses: Vec<_> = self.local_addrs.iter().map(ToString::to_string).collect();
        tracing::info!(workers, "listening on {}", addresses.join(", "));
    }

    /// Every worker that lives, but this one.
    pub(crate) fn others(&self, but: WorkerId, each: impl FnMut(&WorkerHandle)) {
        let living: Vec<_> = self.table().living.values().cloned().collect();
        living
            .iter()
            .filter(|worker| worker.id() != but)
            .for_each(each);
    }

    /// The cluster has ended.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }
}

impl Primary {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The workers that live, by id.
    pub fn workers(&self) -> Vec<WorkerHandle> {
        self.shared.table().living.values().cloned().collect()
    }

    /// One worker, while it lives (Node's `cluster.workers[id]`).
    pub fn worker(&self, id: WorkerId) -> Option<WorkerHandle> {
        self.shared.table().living.get(&id).cloned()
    }

    /// Requests that have reached a worker's service since the start, of all workers, dead ones included.
    ///
    /// Read from shared memory: exact at any time, without a message. After a worker was killed: answers that clients got ≤ this
    /// count ≤ requests that they sent.
    pub fn requests(&self) -> u64 {
        self.shared.numbers().requests
    }

    /// Connections that workers have taken since the start, of all workers, dead ones included.
    pub fn connections(&self) -> u64 {
        self.shared.numbers().taken
    }

    /// The addresses listened on, in the order of `bind` and `also`, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        &self.shared.local_addrs
    }

    /// Whether the cluster is at full strength: as many workers listen as are wanted, and it is not going to end. False as soon as TERM
    /// or [`shutdown`](Self::shutdown) has been taken in, also while the end is only [announced](crate::ClusteredServer::drain_delay).
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Relaxed)
    }

    /// Sends a message to every worker that lives. Never waits.
    ///
    /// # Errors
    ///
    /// [`Json`](crate::Error::Json) and [`TooLarge`](crate::Error::TooLarge) as in [`Message::encode`]; then nobody was sent
    /// anything. Otherwise how many workers it was queued for: one whose queue is full, or that is just ending, does not count.
    pub fn broadcast(&self, value: &impl Serialize) -> Result<usize> {
        let message = Message::encode(value)?;
        Ok(self
            .workers()
            .iter()
            .filter(|worker| worker.send_bytes(message.bytes().clone()).is_ok())
            .count())
    }

    /// Ends the cluster gracefully, as TERM does: says so for the [drain delay](crate::ClusteredServer::drain_delay), then accepts no
    /// more and lets what is in flight finish within the drain deadline.
    ///
    /// Acts at once. The ticket completes when every worker has exited (Node's callback comes at the first); it may be dropped.
    pub fn shutdown(&self) -> Ticket {
        // A loop that has ended has been shut down.
        let _ = self.shared.commands.send(Command::Shutdown);
        let mut ended = self.shared.ended.subscribe();
        Ticket {
            done: Box::pin(async move { drop(ended.wait_for(|ended| *ended).await) }),
        }
    }

    /// Replaces every worker, one at a time, as HUP does: a new one listens before an old one is told to leave, so there are never
    /// fewer workers than before, and live connections move to the new ones. The new workers run the program as it is on disk now.
    ///
    /// Acts at once; requests during a restart are merged into one more. The ticket may be dropped.
    ///
    /// # Errors
    ///
    /// Of the ticket: [`RestartAbandoned`](Error::RestartAbandoned) when a new worker does not come up (the old ones stay, nothing is
    /// lost), [`Gone`](Error::Gone) when the cluster ends first.
    pub fn restart(&self) -> Ticket<Result<Restarted>> {
        self.command(Command::Restart)
    }

    /// Has this many workers from now on (at least 1). New ones take their share of new connections; those that leave give
    /// theirs back.
    ///
    /// Acts at once. The ticket completes when so many listen; it may be dropped.
    ///
    /// # Errors
    ///
    /// Of the ticket: [`Gone`](Error::Gone) when the cluster ends first.
    pub fn scale(&self, workers: u32) -> Ticket<Result<()>> {
        self.command(|done| Command::Scale(workers, done))
    }

    /// Restarts as [`restart`](Self::restart) does, then executes the new program in the place of this one, as USR2 does: the same
    /// process goes on with another program, with the same pid, sockets, workers and counters. `program`: where it stands from now on;
    /// `None`: where this one stands or stood.
    ///
    /// A restart that finds another program at the path does the same by itself. Nothing has changed if the new workers do not come up.
    /// Before the execution [`on_upgrade`](crate::ClusteredServer::on_upgrade) is called, behind all other hooks. Signals that arrive
    /// meanwhile count, in this program or in the next. Threads that the program has started end with it, without a word.
    ///
    /// Acts at once. The ticket may be dropped. It completes only if this program remains: with `Ok` where the workers run another
    /// program than the primary (see [`program`](crate::ClusteredServer::program)) and all of them have been replaced.
    ///
    /// # Errors
    ///
    /// Of the ticket: [`Upgrade`](Error::Upgrade) when it was given up, [`Gone`](Error::Gone) when the cluster ends first.
    pub fn upgrade(&self, program: Option<PathBuf>) -> Ticket<Result<()>> {
        let program = program.map(|path| std::path::absolute(&path).unwrap_or(path));
        self.command(|done| Command::Upgrade(program, done))
    }

    /// How often a program has followed another in this process; 0 in the first one.
    pub fn upgrades(&self) -> u64 {
        self.shared.upgrades()
    }

    fn command<T: Send + 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Ticket<Result<T>> {
        if self.shared.forks().is_some() {
            return Ticket {
                done: Box::pin(std::future::ready(Err(Error::Unsupervised))),
            };
        }
        let (done, outcome) = oneshot::channel();
        // A loop that has ended drops the sender, and the ticket says so.
        let _ = self.shared.commands.send(command(done));
        Ticket {
            done: Box::pin(async move { outcome.await.unwrap_or(Err(Error::Gone)) }),
        }
    }

    /// How many times a hook has panicked.
    pub fn hook_panics(&self) -> u64 {
        self.shared.hook_panics()
    }

    pub(crate) fn hook_panicked(&self) {
        self.shared.hook_panics.fetch_add(1, Relaxed);
    }
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Primary")
            .field("local_addrs", &self.local_addrs())
            .field("workers", &self.workers())
            .finish_non_exhaustive()
    }
}

/// Completes when a command that was given has been carried out. May be awaited or dropped.
#[must_use = "the command has been given; await the ticket to know when it is done, or drop it with `let _ =`"]
pub struct Ticket<T = ()> {
    done: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> Future for Ticket<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.done.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}
