//! Listeners that this worker's program asked the primary for: their queues, and what is still open of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use tokio::sync::Notify;

use super::{
    Worker,
    held::{Count, Held},
};
use crate::{
    address::Address,
    error::{Error, Result},
    frame::Frame,
    ipc::{
        Reply,
        intake::{Conn, IntakeReceiver},
    },
    message::Message,
    wanted::{Answer, Place, Wanted},
};

/// Connections that wait to be accepted by the program. What comes beyond goes back, to workers that are not that far behind.
const QUEUE: usize = 64;

/// All such listeners of this process.
#[derive(Default)]
pub(crate) struct Ports {
    /// The way back; none where there is one process only.
    intake: OnceLock<Arc<IntakeReceiver>>,
    state: Mutex<State>,
    held: Count,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<u16, Arc<Queue>>,
    /// Of which free port this worker has the how many-th.
    indices: Vec<(Place, BTreeSet<u32>)>,
    /// The intake has ended.
    ended: bool,
}

#[derive(Debug, Default)]
struct Queue {
    inner: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    conns: VecDeque<(Conn, Open)>,
    /// How many may be open at once, and are: those that wait to be accepted too.
    limit: usize,
    open: usize,
    /// The primary has been told that there is no room.
    full: bool,
    /// Nothing more will come.
    ended: bool,
    /// The listener is closed.
    closed: bool,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.conns.len() < QUEUE && self.open < self.limit
    }

    /// Has the primary pass over this worker here, once. Under the lock, so that no word of new room goes before it.
    fn tell_full(&mut self, worker: &Worker, number: u16) {
        if !std::mem::replace(&mut self.full, true) {
            worker.outbox().order(&Frame::Full(number));
        }
    }

    /// Has the primary hand over again, once, when there is room that is worth the word.
    fn tell_room(&mut self, worker: &Worker, number: u16) {
        if self.full && !self.closed && self.conns.len() <= QUEUE / 2 && self.open < self.limit {
            self.full = false;
            worker.outbox().order(&Frame::Accepting(number));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ports {
    /// From now on the primary can be asked.
    pub(super) fn open(&self, intake: Arc<IntakeReceiver>) {
        // Only the one task that joins the cluster comes here.
        let _ = self.intake.set(intake);
    }

    /// Whether there is another process to ask.
    pub(crate) fn can_ask(&self) -> bool {
        self.intake.get().is_some()
    }

    /// The intake has ended: what is queued is still accepted, and nothing more will come.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        for queue in state.queues.values() {
            lock(&queue.inner).ended = true;
            queue.news.notify_waiters();
        }
    }

    /// Connections of such listeners that are not closed, and of those that this process has for itself.
    pub(crate) fn held(&self) -> &Count {
        &self.held
    }

    /// The lowest number that this worker does not use for this place yet.
    fn take_index(&self, place: &Place) -> u32 {
        let mut state = lock(&self.state);
        let at = state.indices.iter().position(|(other, _)| other == place);
        let at = at.unwrap_or_else(|| {
            state.indices.push((place.clone(), BTreeSet::new()));
            state.indices.len() - 1
        });
        let used = &mut state.indices[at].1;
        let index = (0..).find(|index| !used.contains(index)).unwrap_or(0);
        used.insert(index);
        index
    }

    fn free_index(&self, wanted: &Wanted) {
        let mut state = lock(&self.state);
        for (place, used) in &mut state.indices {
            if *place == wanted.place {
                used.remove(&wanted.index);
            }
        }
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// A connection of such a listener, until it is closed or given back.
pub(crate) struct Open {
    held: Held,
    given_back: bool,
    /// Where it counts against a limit.
    counted: Option<(u16, Arc<Queue>)>,
}

impl Open {
    fn new(worker: Worker) -> Self {
        Self {
            held: Held::new(worker),
            given_back: false,
            counted: None,
        }
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Open")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let worker = self.held.worker();
        let row = worker.row();
        if self.given_back {
            row.gave_back();
        } else {
            row.closed();
        }
        if let Some((number, queue)) = self.counted.take() {
            let mut waiting = lock(&queue.inner);
            waiting.open -= 1;
            waiting.tell_room(worker, number);
        }
    }
}

/// Queues a connection for the listener that it came by, or gives it back.
pub(super) fn route(worker: &Worker, conn: Conn) {
    let mut open = Open::new(worker.clone());
    let number = conn.listener;
    let queue = lock(&worker.ports().state).queues.get(&number).cloned();
    let Some(queue) = queue else {
        // Closed meanwhile.
        return give_back(worker, [(conn, open)]);
    };
    let mut waiting = lock(&queue.inner);
    if waiting.closed {
        drop(waiting);
        return give_back(worker, [(conn, open)]);
    }
    if !waiting.has_room() {
        waiting.tell_full(worker, number);
        drop(waiting);
        return give_back(worker, [(conn, open)]);
    }
    open.counted = Some((number, queue.clone()));
    waiting.open += 1;
    waiting.conns.push_back((conn, open));
    if waiting.open == waiting.limit {
        // Said at once: what is not handed over need not come back.
        waiting.tell_full(worker, number);
    }
    drop(waiting);
    queue.news.notify_one();
}

/// Gives connections that nobody here has looked at back to the primary, which has others take them or closes them.
fn give_back(worker: &Worker, conns: impl IntoIterator<Item = (Conn, Open)>) {
    let conns: Vec<_> = conns.into_iter().collect();
    if conns.is_empty() {
        return;
    }
    let (Some(intake), Ok(runtime)) = (
        worker.ports().intake.get().cloned(),
        tokio::runtime::Handle::try_current(),
    ) else {
        // Without a runtime the process is at its end.
        return;
    };
    runtime.spawn(async move {
        for (conn, mut open) in conns {
            // Where the primary is gone nobody takes it: it closes.
            open.given_back = intake.give_back(conn).await.is_ok();
            drop(open);
        }
    });
}

/// A listener that this worker has got from the primary.
#[derive(Debug)]
pub(crate) struct Port {
    worker: Worker,
    wanted: Wanted,
    number: u16,
    pub(crate) local: Address,
    queue: Arc<Queue>,
}

impl Port {
    /// Asks the primary for it, and for what it sends along; `limit`: how many of its connections may be open at once.
    ///
    /// As a task of its own: what has been asked for is closed again where nobody waits for the answer.
    pub(crate) async fn ask(
        worker: &Worker,
        mut wanted: Wanted,
        limit: usize,
    ) -> Result<(Self, Vec<OwnedFd>)> {
        if wanted.is_any_port() {
            wanted.index = worker.ports().take_index(&wanted.place);
        }
        let waits = Arc::new(());
        let task = Self::ask_through(worker.clone(), wanted, limit, Arc::downgrade(&waits));
        let port = tokio::spawn(task).await.unwrap_or(Err(Error::Gone));
        drop(waits);
        port
    }

    async fn ask_through(
        worker: Worker,
        wanted: Wanted,
        limit: usize,
        waits: Weak<()>,
    ) -> Result<(Self, Vec<OwnedFd>)> {
        let port = match answer(&worker, &wanted).await {
            Ok((Answer::Listening { listener, .. }, _)) if waits.strong_count() == 0 => {
                // Nobody has listened, and nobody is told so.
                worker.outbox().order(&Frame::Unlisten(listener));
                Err(Error::Gone)
            }
            Ok((Answer::Listening { listener, local }, message)) => {
                let port = Self::open(worker, wanted, limit, listener, local);
                return Ok((port, message.take_fds()));
            }
            Ok((Answer::Failed(failure), _)) => failure.into_result(wanted.address()),
            Err(error) => Err(error),
        };
        worker.ports().free_index(&wanted);
        port
    }

    fn open(worker: Worker, wanted: Wanted, limit: usize, number: u16, local: Address) -> Self {
        let queue = Arc::new(Queue::default());
        let mut state = lock(&worker.ports().state);
        let mut waiting = lock(&queue.inner);
        (waiting.ended, waiting.limit) = (state.ended, limit);
        state.queues.insert(number, queue.clone());
        drop(state);
        // Only now is there somebody to take what comes.
        worker.outbox().order(&Frame::Accepting(number));
        if limit == 0 {
            waiting.tell_full(&worker, number);
        }
        drop(waiting);
        Self {
            worker,
            wanted,
            number,
            local,
            queue,
        }
    }

    /// The next connection; `None` when this worker leaves and all have been accepted. Cancel safe.
    pub(crate) async fn accept(&self) -> Option<(Conn, Open)> {
        loop {
            let news = self.queue.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let mut waiting = lock(&self.queue.inner);
                if let Some(next) = waiting.conns.pop_front() {
                    waiting.tell_room(&self.worker, self.number);
                    if !waiting.conns.is_empty() {
                        // Another one who accepts may have missed a word that was meant for two.
                        self.queue.news.notify_one();
                    }
                    return Some(next);
                }
                if waiting.ended {
                    return None;
                }
            }
            news.await;
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let ports = self.worker.ports();
        lock(&ports.state).queues.remove(&self.number);
        ports.free_index(&self.wanted);
        self.worker.outbox().order(&Frame::Unlisten(self.number));
        let mut waiting = lock(&self.queue.inner);
        waiting.closed = true;
        let left = std::mem::take(&mut waiting.conns);
        drop(waiting);
        give_back(&self.worker, left);
    }
}

/// Asks the primary until it answers: one that executes another program in its place answers nothing that it was asked before.
async fn answer(worker: &Worker, wanted: &Wanted) -> Result<(Answer, Message)> {
    loop {
        let asked: Reply = worker.outbox().ask(wanted);
        match asked.await {
            Err(Error::NoReply) => {}
            Err(error) => return Err(error),
            Ok(message) => return Ok((message.json()?, message)),
        }
    }
}
