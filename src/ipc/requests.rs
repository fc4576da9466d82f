//! Requests that wait for their answers.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{channel::Receipt, letter::Letter, outbox::Outbox, sending::Sending};
use crate::{
    error::{Error, Result},
    frame::{Frame, Kind},
    message::{Asker, Message},
};

/// What comes back: the answer, and what counts it as consumed once it is taken; or word that there is none.
type Answer = Option<(Letter, Option<Receipt>)>;

/// The requests of one side that wait for their answers.
#[derive(Debug, Default)]
pub(super) struct Requests {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    closed: bool,
}

impl Requests {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new request, and what its answer will come from: nothing, when the other side is gone.
    pub(super) fn begin(&self) -> (u64, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let mut table = self.table();
        table.next += 1;
        let number = table.next;
        if !table.closed {
            table.waiting.insert(number, answer);
        }
        (number, answered)
    }

    fn end(&self, number: u64) -> Option<oneshot::Sender<Answer>> {
        self.table().waiting.remove(&number)
    }

    /// An answer to nobody is thrown away: the asker waits no more.
    pub(super) fn answer(&self, number: u64, answer: Answer) {
        if let Some(waiting) = self.end(number) {
            let _ = waiting.send(answer);
        }
    }

    /// Those up to this number that still wait will not be answered.
    pub(super) fn give_up(&self, up_to: u64) {
        let given_up: Vec<_> = {
            let mut table = self.table();
            let numbers = table.waiting.keys().copied();
            let numbers: Vec<_> = numbers.filter(|&number| number <= up_to).collect();
            let waiting = numbers
                .iter()
                .filter_map(|number| table.waiting.remove(number));
            waiting.collect()
        };
        for waiting in given_up {
            let _ = waiting.send(None);
        }
    }

    /// The number of the latest one.
    pub(super) fn latest(&self) -> u64 {
        self.table().next
    }

    /// Numbers go on from there: an answer to the program before this one is no answer to this one.
    pub(super) fn resume(&self, latest: u64) {
        self.table().next = latest;
    }

    pub(super) fn close(&self) {
        let waiting = {
            let mut table = self.table();
            table.closed = true;
            std::mem::take(&mut table.waiting)
        };
        // Each of them learns it by the drop; not under the lock, which their futures may want.
        drop(waiting);
    }
}

/// The answer to a request, as it comes; made by `request`.
///
/// The request was sent by the call, or waits for room since then; this may be awaited anywhere. With a time limit:
/// `tokio::time::timeout(limit, worker.request(&v)).await`.
///
/// # Errors
///
/// [`NoReply`](Error::NoReply) when the receiver dropped the request unanswered, [`Gone`](Error::Gone) when it died or left first, and
/// what encoding can bring.
///
/// # Cancel safety
///
/// Dropped early, the request is sent as a whole or not at all, and an answer that comes late is thrown away.
#[must_use = "the answer comes by awaiting it"]
pub struct Reply {
    outbox: Arc<Outbox>,
    number: u64,
    sending: Sending,
    answered: oneshot::Receiver<Answer>,
}

impl Reply {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        number: u64,
        sending: Sending,
        answered: oneshot::Receiver<Answer>,
    ) -> Self {
        Self {
            outbox,
            number,
            sending,
            answered,
        }
    }
}

impl Future for Reply {
    type Output = Result<Message>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Message>> {
        if let Some(error) = self.sending.take_error() {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.answered).poll(cx)) {
            Err(_) => Err(Error::Gone),
            Ok(None) => Err(Error::NoReply),
            // The receipt goes when it has been read.
            Ok(Some((letter, _receipt))) => letter.open(None),
        })
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        drop(self.outbox.requests().end(self.number));
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// Somebody at the other end of a channel who asked.
pub(crate) struct FarAsker {
    /// What leads there.
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) number: u64,
}

impl FarAsker {
    /// Who waits for an answer to this letter.
    pub(crate) fn of(letter: &Letter, outbox: &Arc<Outbox>) -> Option<Box<dyn Asker>> {
        let Kind::Request(number) = letter.kind else {
            return None;
        };
        Some(Box::new(Self {
            outbox: outbox.clone(),
            number,
        }))
    }
}

impl Asker for FarAsker {
    fn answer(&self, bytes: Bytes) -> Result<()> {
        let message = Message::received(bytes);
        self.outbox
            .post(Kind::Reply(self.number), &message, Vec::new())
    }

    fn give_up(&self) {
        self.outbox.order(&Frame::NoReply(self.number));
    }
}

/// Somebody in this very process who asked, where no other task brings answers.
pub(crate) struct NearAsker {
    /// What the request came from.
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) number: u64,
}

impl Asker for NearAsker {
    fn answer(&self, bytes: Bytes) -> Result<()> {
        let message = Message::received(bytes);
        let letter = Letter::new(Kind::Reply(self.number), &message, Vec::new())?;
        self.outbox.answered(self.number, Some((letter, None)));
        Ok(())
    }

    fn give_up(&self) {
        self.outbox.answered(self.number, None);
    }
}
