//! What waits to be sent over a channel: never waits itself, bounded in bytes, many small messages to a datagram.
//!
//! Three lanes. Orders go first and have no bound (there are few). Messages go as soon as the writer comes around, which on a busy
//! runtime batches them by itself. Notices wait up to [`LINGER`] so that a notice a request costs a fraction of a system call.
//! The bound counts what is queued and what the other side has received but not yet consumed, so neither side's memory can grow,
//! and the reader of a channel never has to stop reading: an order is never stuck behind messages.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, StatusCode};
use tokio::{sync::Notify, time::Instant};

use crate::{
    error::{Error, Result},
    frame::{Frame, MAX_DATAGRAM, encode_notice},
    message::Message,
};

/// Bytes of messages and notices that may be on their way in one direction.
pub(crate) const CAPACITY: usize = 4 * 1024 * 1024;

/// The longest a notice waits for company.
pub(crate) const LINGER: Duration = Duration::from_millis(10);

/// Notices are sent at once when this many bytes of them wait.
const NOTICES_FULL: usize = 32 * 1024;

#[derive(Debug, Default)]
struct Queue {
    orders: Vec<u8>,
    messages: VecDeque<Vec<u8>>,
    notices: Vec<u8>,
    /// When the notices must go; none wait without it.
    due: Option<Instant>,
    /// Bytes of payload queued or not yet consumed by the other side.
    unconsumed: usize,
    /// A datagram has been taken and not yet been sent.
    sending: bool,
    closed: bool,
    dropped: u64,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.messages.is_empty() && self.notices.is_empty()
    }

    fn reserve(&mut self, size: usize) -> Result<()> {
        if self.closed {
            return Err(Error::Gone);
        }
        if self.unconsumed + size > CAPACITY {
            return Err(Error::Full);
        }
        self.unconsumed += size;
        Ok(())
    }

    /// The next datagram that should go now: orders, notices that have waited long enough, messages.
    fn take(&mut self) -> Option<Vec<u8>> {
        if !self.orders.is_empty() {
            return Some(std::mem::take(&mut self.orders));
        }
        if self.notices.len() >= NOTICES_FULL || self.due.is_some_and(|due| due <= Instant::now()) {
            self.due = None;
            let notices = std::mem::take(&mut self.notices);
            let frame = Frame::Notices(&notices);
            let mut datagram = Vec::with_capacity(frame.size());
            frame.encode(&mut datagram);
            return Some(datagram);
        }
        self.messages.pop_front()
    }
}

/// The sending half of a channel's memory. Shared by everybody who sends and the one task that writes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Something waits, or will be due at another time than the writer knows.
    news: Notify,
    /// Nothing waits any more, or nothing will ever be sent.
    idle: Notify,
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an order. Lost without a word when the other side is gone: then its process is being dealt with already.
    pub(crate) fn order(&self, frame: &Frame<'_>) {
        let mut queue = self.queue();
        if !queue.closed {
            frame.encode(&mut queue.orders);
            drop(queue);
            self.news.notify_one();
        }
    }

    pub(crate) fn message(&self, message: &Message) -> Result<()> {
        let frame = Frame::Message(message.bytes());
        let mut queue = self.queue();
        queue.reserve(frame.size())?;
        match queue.messages.back_mut() {
            Some(datagram) if datagram.len() + frame.size() <= MAX_DATAGRAM => {
                frame.encode(datagram)
            }
            _ => {
                let mut datagram = Vec::with_capacity(frame.size().max(256));
                frame.encode(&mut datagram);
                queue.messages.push_back(datagram);
                drop(queue);
                self.news.notify_one();
            }
        }
        Ok(())
    }

    /// Queues a notice, or drops and counts it when the primary does not keep up: a request never waits for a hook.
    pub(crate) fn notice(
        &self,
        method: &Method,
        route: Option<&str>,
        status: StatusCode,
        elapsed: Duration,
    ) {
        let mut queue = self.queue();
        let before = queue.notices.len();
        encode_notice(method, route, status, elapsed, &mut queue.notices);
        let size = queue.notices.len() - before;
        if queue.reserve(size).is_err() {
            queue.notices.truncate(before);
            queue.dropped += 1;
            return;
        }
        if before == 0 {
            queue.due = Some(Instant::now() + LINGER);
        }
        let tell = before == 0 || (before < NOTICES_FULL && queue.notices.len() >= NOTICES_FULL);
        drop(queue);
        if tell {
            self.news.notify_one();
        }
    }

    /// The other side has consumed `bytes` of what was sent. False when it claims more than it was sent.
    pub(crate) fn consumed(&self, bytes: usize) -> bool {
        let mut queue = self.queue();
        let honest = bytes <= queue.unconsumed;
        queue.unconsumed = queue.unconsumed.saturating_sub(bytes);
        honest
    }

    /// Nothing can be sent any more: the other side is gone, or this one is leaving and has been flushed.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        let dropped = queue.dropped;
        *queue = Queue {
            closed: true,
            dropped,
            ..Queue::default()
        };
        drop(queue);
        self.news.notify_one();
        self.idle.notify_waiters();
    }

    /// Goes on where the program before this one stopped: so much of what was sent is not consumed.
    pub(crate) fn resumed(unconsumed: usize) -> Self {
        let outbox = Self::default();
        outbox.queue().unconsumed = unconsumed;
        outbox
    }

    /// Bytes sent and not yet consumed by the other side; `None` while anything waits to be sent.
    pub(crate) fn settled(&self) -> Option<usize> {
        let queue = self.queue();
        (queue.closed || (queue.is_empty() && !queue.sending)).then_some(queue.unconsumed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// The next datagram to send, as soon as one is due; `None` once closed. For the one writer.
    ///
    /// Cancel safe: a datagram is taken only when it is returned.
    pub(crate) async fn next(&self) -> Option<Vec<u8>> {
        loop {
            let due = {
                let mut queue = self.queue();
                queue.sending = false;
                if queue.closed {
                    return None;
                }
                if let Some(datagram) = queue.take() {
                    queue.sending = true;
                    return Some(datagram);
                }
                if queue.is_empty() {
                    self.idle.notify_waiters();
                }
                queue.due
            };
            match due {
                None => self.news.notified().await,
                Some(due) => tokio::select! {
                    () = self.news.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// Completes when everything queued so far has been sent, or nothing will be; notices linger first, 10 ms at most.
    pub(crate) async fn flushed(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let queue = self.queue();
                if queue.closed || (queue.is_empty() && !queue.sending) {
                    return;
                }
            }
            idle.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::frames;

    fn message(size: usize) -> Message {
        Message::from_bytes(vec![b'x'; size]).unwrap()
    }

    #[tokio::test]
    async fn small_messages_share_a_datagram_and_orders_go_first() {
        let outbox = Outbox::default();
        for _ in 0..100 {
            outbox.message(&message(24)).unwrap();
        }
        outbox.order(&Frame::Leaving);
        let order = outbox.next().await.unwrap();
        assert_eq!(frames(&order).next(), Some(Ok(Frame::Leaving)));
        let datagram = outbox.next().await.unwrap();
        assert_eq!(frames(&datagram).count(), 100);
    }

    #[tokio::test]
    async fn the_bound_counts_what_is_not_consumed() {
        let outbox = Outbox::default();
        let mut sent = 0;
        let full = loop {
            match outbox.message(&message(60_000)) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::Full));
        assert_eq!(sent, CAPACITY / 60_005);
        while tokio::time::timeout(Duration::from_millis(1), outbox.next())
            .await
            .is_ok()
        {}
        assert!(
            matches!(outbox.message(&message(60_000)), Err(Error::Full)),
            "sent is not yet consumed"
        );
        assert!(outbox.consumed(60_005));
        outbox.message(&message(60_000)).unwrap();
        assert!(
            !outbox.consumed(usize::MAX),
            "a peer that claims too much is found out"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn notices_wait_for_company_and_no_longer() {
        let outbox = Outbox::default();
        for _ in 0..3 {
            outbox.notice(&Method::GET, Some("/"), StatusCode::OK, Duration::ZERO);
        }
        let begun = tokio::time::Instant::now();
        let datagram = outbox.next().await.unwrap();
        assert!(
            begun.elapsed() >= LINGER && begun.elapsed() < LINGER * 3,
            "{:?}",
            begun.elapsed()
        );
        let Some(Ok(Frame::Notices(payload))) = frames(&datagram).next() else {
            panic!("notices")
        };
        assert_eq!(crate::frame::notices(payload).count(), 3);
    }

    #[tokio::test]
    async fn closing_ends_senders_writer_and_flush() {
        let outbox = Outbox::default();
        outbox.message(&message(1)).unwrap();
        outbox.close();
        assert!(matches!(outbox.message(&message(1)), Err(Error::Gone)));
        assert_eq!(outbox.next().await, None);
        outbox.flushed().await;
    }
}
