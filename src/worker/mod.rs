//! A worker: takes connections from its intake, serves them, and leaves when it is told to or its primary is gone.

mod apps;
mod doors;
mod duties;
mod held;
mod hub;
mod inbox;
mod leaving;
mod ports;
mod run;
mod served;
mod watch;

use std::{
    fmt,
    future::Future,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
};

use serde::Serialize;
use tokio::sync::watch as value;

pub(crate) use apps::{App, AppSource, Apps, Serving, app};
pub(crate) use held::Held;
pub(crate) use hub::Hub;
pub use hub::Messages;
pub(crate) use inbox::take_in;
pub(crate) use leaving::Parting;
pub(crate) use ports::{Open, Port, Ports};
pub(crate) use run::{Joined, timeouts};
pub(crate) use served::Served;

use crate::{
    error::Result,
    id::{Generation, Slot, WorkerId},
    ipc::{Reply, Sending, outbox::Outbox},
    scoreboard::Row,
};

/// The worker process that this is (in the primary, a worker is a [`WorkerHandle`](crate::WorkerHandle)).
///
/// Cheap to clone. In a handler it is an extractor; anywhere it is [`cluster::worker()`](crate::cluster::worker).
///
/// ```
/// use axum_cluster::Worker;
///
/// async fn handler(worker: Worker) -> String {
///     format!("hello from worker {}", worker.id())
/// }
/// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(handler));
/// ```
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    id: WorkerId,
    slot: Slot,
    generation: Generation,
    workers: u32,
    secret: [u8; 64],
    outbox: Arc<Outbox>,
    hub: Arc<Hub>,
    row: Arc<Row>,
    draining: value::Sender<bool>,
    reopened: value::Sender<u64>,
    parting: value::Sender<Parting>,
    /// Its channel is closed.
    parted: value::Sender<bool>,
    serving: AtomicBool,
    /// The primary has a hook that wants a notice a request.
    notices: bool,
    ports: Ports,
    served: Served,
}

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) id: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) workers: u32,
    pub(crate) secret: [u8; 64],
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) row: Arc<Row>,
    pub(crate) notices: bool,
}

impl Worker {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            id,
            slot,
            generation,
            workers,
            secret,
            outbox,
            hub,
            row,
            notices,
        } = parts;
        let (draining, reopened) = (value::Sender::new(false), value::Sender::new(0));
        Self {
            shared: Arc::new(Shared {
                id,
                slot,
                generation,
                workers,
                secret,
                outbox,
                hub,
                row,
                draining,
                reopened,
                parting: value::Sender::default(),
                parted: value::Sender::default(),
                serving: AtomicBool::new(false),
                notices,
                ports: Ports::default(),
                served: Served::default(),
            }),
        }
    }

    /// Its number: unique, never reused (Node's `worker.id`).
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

    /// How many workers the cluster was told to have; at least 1. Divides pools and budgets that are meant for all of them.
    pub fn workers(&self) -> u32 {
        self.shared.workers
    }

    /// 64 random bytes, equal in all workers of the cluster and unknown outside: for cookie keys and the like, which a key made in
    /// each worker would not be.
    ///
    /// Made anew each time the cluster is started; what must outlive that comes from the program's own configuration.
    pub fn secret(&self) -> &[u8; 64] {
        &self.shared.secret
    }

    /// Sends a message to the primary's `on_message` (Node's `process.send`). Never waits; encoded in the call.
    ///
    /// Messages arrive in the order in which they were sent, at most once, and are flushed when the worker ends gracefully. A worker
    /// that is killed takes with it what had not left it yet: at most 10 ms' worth, or what was sent since a handler began to block its
    /// thread. A small one goes in the call itself; those that follow within 2 ms go together, so that a message a request does not
    /// wake the primary for each.
    ///
    /// # Errors
    ///
    /// [`Full`](crate::Error::Full) when 4 MiB are on their way already, [`Gone`](crate::Error::Gone) when the primary is gone,
    /// [`Json`](crate::Error::Json) and [`TooLarge`](crate::Error::TooLarge) as in [`Message::encode`](crate::Message::encode). Nothing was sent then.
    pub fn send(&self, value: &impl Serialize) -> Result<()> {
        self.shared.outbox.send(value)
    }

    /// Sends bytes as they are; as [`send`](Self::send) otherwise.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), without `Json`.
    pub fn send_bytes(&self, bytes: impl Into<bytes::Bytes>) -> Result<()> {
        self.shared.outbox.send_bytes(bytes)
    }

    /// As [`send`](Self::send), and waits where that is `Full`. Messages sent while one waits come after it, or are `Full` themselves.
    ///
    /// ```no_run
    /// # async fn export(worker: axum_cluster::Worker, rows: Vec<String>) -> axum_cluster::Result<()> {
    /// for row in rows {
    ///     worker.send_wait(&row).await?; // never faster than the primary reads
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Of the ticket: as [`send`](Self::send), without `Full`.
    pub fn send_wait(&self, value: &impl Serialize) -> Sending {
        self.shared.outbox.send_wait(value)
    }

    /// Sends a message with descriptors, which the primary gets from [`Message::take_fds`](crate::Message::take_fds) and its kin. Never waits.
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

    /// Sends the primary a message that its `on_message` answers with [`reply`](crate::Message::reply).
    ///
    /// Sent by the call, or, while the queue is full, as soon as there is room.
    ///
    /// ```no_run
    /// # async fn count(worker: axum_cluster::Worker) -> axum_cluster::Result<()> {
    /// let answer = worker.request(&"how many?").await?;
    /// println!("{}", answer.json::<u32>()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Of the future: [`NoReply`](crate::Error::NoReply) when the primary dropped the request unanswered (it has no `on_message`, say),
    /// [`Gone`](crate::Error::Gone) when it died first, [`Json`](crate::Error::Json) and [`TooLarge`](crate::Error::TooLarge) as in
    /// [`Message::encode`](crate::Message::encode).
    pub fn request(&self, value: &impl Serialize) -> Reply {
        self.shared.outbox.request(value)
    }

    /// Sends a message to all other workers, which receive it from their [`messages`](Self::messages). Not to this one, and not to the
    /// primary's `on_message`: the primary passes it on unread.
    ///
    /// It arrives in order with everything else that this worker broadcasts. While another worker's queue is full it waits in the
    /// primary and counts against this worker's 4 MiB.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn broadcast(&self, value: &impl Serialize) -> Result<()> {
        self.shared.outbox.broadcast(value)
    }

    /// Subscribes to the messages of the primary.
    pub fn messages(&self) -> Messages {
        self.shared.hub.subscribe()
    }

    /// Completes when this worker has been told to leave. Long-lived handlers (WebSocket, SSE) await it and end their stream.
    ///
    /// Completes at once if that has happened. Good for `select!`, `take_until` and `with_graceful_shutdown`.
    pub fn draining(&self) -> Draining {
        let mut draining = self.shared.draining.subscribe();
        Draining {
            begun: Box::pin(async move { drop(draining.wait_for(|draining| *draining).await) }),
        }
    }

    /// Whether this worker has been told to leave.
    pub fn is_draining(&self) -> bool {
        *self.shared.draining.borrow()
    }

    /// Whether new clients should come: true until the cluster is going to end, however late that is
    /// ([`drain_delay`](crate::ClusteredServer::drain_delay)), or until the primary is gone. For a route that a load balancer asks.
    ///
    /// Stays true in a worker that leaves in a restart: others take its place, and the answer is for all of them.
    pub fn is_ready(&self) -> bool {
        self.shared.row.is_ready() && self.is_connected()
    }

    /// Whether the primary can be talked to (Node's `worker.isConnected()`).
    pub fn is_connected(&self) -> bool {
        !self.shared.outbox.is_closed()
    }

    pub(crate) fn leave(&self) {
        self.shared.draining.send_replace(true);
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.shared.outbox
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    pub(crate) fn row(&self) -> &Arc<Row> {
        &self.shared.row
    }

    pub(crate) fn served(&self) -> &Served {
        &self.shared.served
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.shared.ports
    }

    /// Log files are to be opened anew.
    pub(crate) fn reopen(&self) {
        self.shared.reopened.send_modify(|times| *times += 1);
    }

    /// Calls this whenever log files are to be opened anew, for as long as the worker lives.
    pub(crate) async fn on_reopen(self, mut hook: Box<dyn FnMut() + Send>) {
        let mut reopened = self.shared.reopened.subscribe();
        while reopened.changed().await.is_ok() {
            if catch_unwind(AssertUnwindSafe(&mut hook)).is_err() {
                tracing::error!(worker = %self.id(), "the hook `on_reopen` panicked");
            }
        }
    }

    pub(crate) fn wants_notices(&self) -> bool {
        self.shared.notices
    }

    /// Where each answer is told of, if the primary wants to know.
    pub(crate) fn told(&self) -> Option<Arc<Outbox>> {
        self.wants_notices().then(|| self.outbox().clone())
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.id())
            .field("slot", &self.slot())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// A future that completes when the worker has been told to leave; see [`Worker::draining`].
pub struct Draining {
    begun: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.begun.as_mut().poll(cx)
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining").finish_non_exhaustive()
    }
}
