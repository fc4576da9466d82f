//! A worker as seen from the primary.

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{Command, fork::Pipes, life::Life};

use crate::{
    error::Result,
    event::Exit,
    id::{Generation, Slot, WorkerId},
    ipc::{Reply, Sending, outbox::Outbox},
    scoreboard::Row,
};

/// A worker process as seen from the primary (in the worker itself it is a [`Worker`](crate::Worker)).
///
/// Cheap to clone; goes on to answer after the worker has ended. Given to every hook.
#[derive(Clone)]
pub struct WorkerHandle {
    shared: Arc<Shared>,
}

struct Shared {
    id: WorkerId,
    slot: Slot,
    generation: Generation,
    pid: u32,
    outbox: Arc<Outbox>,
    row: Arc<Row>,
    commands: mpsc::UnboundedSender<Command>,
    life: watch::Sender<Life>,
    pipes: Mutex<Pipes>,
    retired: AtomicBool,
    dead: AtomicBool,
}

impl WorkerHandle {
    pub(crate) fn new(
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        pid: u32,
        outbox: Arc<Outbox>,
        row: Arc<Row>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        let shared = Shared {
            id,
            slot,
            generation,
            pid,
            outbox,
            row,
            commands,
            life: watch::Sender::default(),
            pipes: Mutex::default(),
            retired: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Its number: unique, never reused.
    pub fn id(&self) -> WorkerId {
        self.shared.id
    }

    /// Its place, `0..workers`: a replacement has the same.
    pub fn slot(&self) -> Slot {
        self.shared.slot
    }

    /// The generation it was started in.
    pub fn generation(&self) -> Generation {
        self.shared.generation
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// Sends it a message, which it receives from [`Worker::messages`](crate::Worker::messages). Never waits.
    ///
    /// Messages arrive in the order in which they were sent. What is sent to a worker that is just ending may be lost.
    ///
    /// # Errors
    ///
    /// [`Full`](crate::Error::Full) when 4 MiB wait for it, [`Gone`](crate::Error::Gone) when its channel is closed,
    /// [`Json`](crate::Error::Json) and [`TooLarge`](crate::Error::TooLarge) as in [`Message::encode`](crate::Message::encode). Nothing was sent then.
    pub fn send(&self, value: &impl Serialize) -> Result<()> {
        self.shared.outbox.send(value)
    }

    /// Sends it bytes as they are; as [`send`](Self::send) otherwise.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), without `Json`.
    pub fn send_bytes(&self, bytes: impl Into<bytes::Bytes>) -> Result<()> {
        self.shared.outbox.send_bytes(bytes)
    }

    /// As [`send`](Self::send), and waits where that is `Full`. Messages sent while one waits come after it, or are `Full` themselves.
    ///
    /// # Errors
    ///
    /// Of the ticket: as [`send`](Self::send), without `Full`.
    pub fn send_wait(&self, value: &impl Serialize) -> Sending {
        self.shared.outbox.send_wait(value)
    }

    /// Sends it a message with descriptors, which it gets from [`Message::take_fds`](crate::Message::take_fds) and its kin (Node's
    /// `worker.send(message, sendHandle)`). Never waits.
    ///
    /// At most 15 at once. They are this call's to close: a copy of each travels, in order with all messages, and is closed wherever
    /// it ends if nobody takes it.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`TooManyFds`](crate::Error::TooManyFds). The descriptors are closed then too; keep a clone
    /// (`try_clone`) of what must not be lost.
    pub fn send_with(
        &self,
        value: &impl Serialize,
        fds: impl IntoIterator<Item = impl Into<OwnedFd>>,
    ) -> Result<()> {
        let fds = fds.into_iter().map(Into::into).collect();
        self.shared.outbox.send_with(value, fds)
    }

    /// As [`send_with`](Self::send_with), and waits where that is `Full`.
    ///
    /// # Errors
    ///
    /// Of the ticket: as [`send_with`](Self::send_with), without `Full`.
    pub fn send_with_wait(
        &self,
        value: &impl Serialize,
        fds: impl IntoIterator<Item = impl Into<OwnedFd>>,
    ) -> Sending {
        let fds = fds.into_iter().map(Into::into).collect();
        self.shared.outbox.send_with_wait(value, fds)
    }

    /// Sends it a message that it answers: what its [`messages`](crate::Worker::messages) bring has a
    /// [`reply`](crate::Message::reply).
    ///
    /// Sent by the call, or, while the queue is full, as soon as there is room. In a worker that does not listen to messages yet, the
    /// request waits until it does; a time limit is the caller's (`tokio::time::timeout`).
    ///
    /// ```no_run
    /// # async fn ask(primary: axum_cluster::Primary) -> axum_cluster::Result<()> {
    /// for worker in primary.workers() {
    ///     let answer = worker.request(&"how many?").await?;
    ///     println!("worker {}: {}", worker.id(), answer.json::<u32>()?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Of the future: [`NoReply`](crate::Error::NoReply) when every subscriber of the worker dropped the request unanswered,
    /// [`Gone`](crate::Error::Gone) when the worker ended first, [`Json`](crate::Error::Json) and
    /// [`TooLarge`](crate::Error::TooLarge) as in [`Message::encode`](crate::Message::encode).
    pub fn request(&self, value: &impl Serialize) -> Reply {
        self.shared.outbox.request(value)
    }

    /// Requests that have reached this worker's service, read from its scoreboard page without a message.
    pub fn requests(&self) -> u64 {
        self.shared.row.read().requests
    }

    /// Whether its channel is open (Node's `worker.isConnected()`): true from the fork on, false from its `disconnect` on.
    pub fn is_connected(&self) -> bool {
        !self.shared.outbox.is_closed()
    }

    /// Whether its process has ended (Node's `worker.isDead()`).
    pub fn is_dead(&self) -> bool {
        self.shared.dead.load(Relaxed)
    }

    /// Whether its end was asked for (Node's `worker.exitedAfterDisconnect`): `None` while it is connected and alive.
    pub fn exited_after_disconnect(&self) -> Option<bool> {
        (self.is_dead() || !self.is_connected()).then(|| self.is_retired())
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.shared.retired.load(Relaxed)
    }

    pub(crate) fn retire(&self) {
        self.shared.retired.store(true, Relaxed);
    }

    pub(crate) fn died(&self) {
        self.shared.dead.store(true, Relaxed);
    }

    pub(super) fn commands(&self) -> &mpsc::UnboundedSender<Command> {
        &self.shared.commands
    }

    pub(super) fn pipes(&self) -> MutexGuard<'_, Pipes> {
        let pipes = self.shared.pipes.lock();
        pipes.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn life(&self) -> &watch::Sender<Life> {
        &self.shared.life
    }

    pub(super) fn resume(&self, listening: bool, disconnected: bool) {
        let life = Life::resumed(listening, disconnected);
        self.shared.life.send_replace(life);
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.shared.life.borrow().exit().cloned()
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.shared.outbox
    }

    pub(crate) fn row(&self) -> &Arc<Row> {
        &self.shared.row
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("id", &self.id())
            .field("slot", &self.slot())
            .field("generation", &self.generation())
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
