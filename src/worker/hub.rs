//! Messages from the primary, kept until they have been read: every subscriber sees every message, the first also the backlog.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    error::Error,
    frame::{Frame, Kind, frames},
    ipc::{
        channel::Consumption,
        letter::Letter,
        outbox::{Datagram, Outbox},
        requests::NearAsker,
    },
    message::Message,
};

/// What has arrived, and how far each subscriber has read.
#[derive(Debug)]
pub(crate) struct Hub {
    log: Mutex<Log>,
    news: Notify,
    consumption: Arc<Consumption>,
}

#[derive(Debug, Default)]
struct Log {
    messages: VecDeque<(Message, usize)>,
    /// The number of the first message in `messages`.
    first: u64,
    /// The number each subscriber reads next.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    ended: bool,
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// Forgets what everybody has read; returns its bytes. Before the first subscriber everything is kept.
    fn trim(&mut self) -> usize {
        if self.next_reader == 0 {
            return 0;
        }
        let read = self
            .readers
            .values()
            .min()
            .copied()
            .unwrap_or_else(|| self.end());
        let mut bytes = 0;
        while self.first < read {
            let Some((_, size)) = self.messages.pop_front() else {
                break;
            };
            self.first += 1;
            bytes += size;
        }
        bytes
    }
}

impl Hub {
    pub(crate) fn new(consumption: Consumption) -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::default(),
            news: Notify::new(),
            consumption: Arc::new(consumption),
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trim(&self, mut log: MutexGuard<'_, Log>) {
        let bytes = log.trim();
        drop(log);
        if bytes > 0 {
            self.consumption.add(bytes);
        }
    }

    pub(crate) fn consumption(&self) -> &Arc<Consumption> {
        &self.consumption
    }

    /// A message of this weight has arrived.
    pub(crate) fn push(&self, message: Message, size: usize) {
        let mut log = self.log();
        log.messages.push_back((message, size));
        self.trim(log);
        self.news.notify_waiters();
    }

    /// The messages of a datagram that never left the process.
    fn push_all(&self, source: &Arc<Outbox>, datagram: Datagram) {
        let (bytes, mut fds) = (Bytes::from(datagram.bytes), datagram.fds.into_iter());
        for frame in frames(&bytes).flatten() {
            source.consumed(frame.weight());
            let message = match frame {
                Frame::Message(message) => Ok(Message::received(bytes.slice_ref(message))),
                Frame::Letter(envelope) => {
                    let near = |number| NearAsker {
                        outbox: source.clone(),
                        number,
                    };
                    Letter::received(&envelope, &bytes, &mut fds)
                        .map_err(Error::from)
                        .and_then(|letter| {
                            let asker = match letter.kind {
                                Kind::Request(number) => Some(Box::new(near(number)) as _),
                                _ => None,
                            };
                            letter.open(asker)
                        })
                }
                // Nobody is there who would answer or consume.
                _ => continue,
            };
            match message {
                Ok(message) => self.push(message, frame.weight()),
                Err(error) => tracing::error!(%error, "a message is lost"),
            }
        }
    }

    /// No message will come any more.
    pub(crate) fn end(&self) {
        self.log().ended = true;
        self.news.notify_waiters();
    }

    /// The receiving end of an outbox in the same process, for tests of handlers.
    pub(crate) fn looped(outbox: &Arc<Outbox>) -> Messages {
        let hub = Self::new(Consumption::new(Arc::default()));
        let mut messages = hub.subscribe();
        messages.source = Some(outbox.clone());
        messages
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Messages {
        let mut log = self.log();
        let reader = log.next_reader;
        let next = if reader == 0 { log.first } else { log.end() };
        log.next_reader += 1;
        log.readers.insert(reader, next);
        drop(log);
        Messages {
            hub: self.clone(),
            reader,
            source: None,
        }
    }
}

/// A subscription to the messages that come from the other side.
///
/// Made by [`Worker::messages`](crate::Worker::messages). Every subscription sees every message from its beginning on; the first one
/// of a process also what arrived before. Unread bytes of the slowest subscription count against the sender's 4 MiB.
pub struct Messages {
    hub: Arc<Hub>,
    reader: u64,
    /// Where messages come from when no other process sends them.
    source: Option<Arc<Outbox>>,
}

impl Messages {
    /// The next message; `None` when the other side is gone and everything has been read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a message is taken only when it is returned.
    pub async fn recv(&mut self) -> Option<Message> {
        let hub = self.hub.clone();
        loop {
            // Looked at first without a place among those who wait, which costs more than the message.
            if let Some(next) = self.next() {
                return next;
            }
            let news = hub.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(next) = self.next() {
                return next;
            }
            match &self.source {
                None => news.await,
                Some(source) => match source.next(Vec::new()).await {
                    Some(datagram) => hub.push_all(source, datagram),
                    None => hub.end(),
                },
            }
        }
    }
}

impl Messages {
    /// The next message if it is there, or the end.
    fn next(&self) -> Option<Option<Message>> {
        let mut log = self.hub.log();
        let Log {
            messages,
            first,
            readers,
            ended,
            ..
        } = &mut *log;
        let next = readers.get_mut(&self.reader)?;
        let index = usize::try_from(*next - *first).ok()?;
        let Some((message, _)) = messages.get(index) else {
            return ended.then_some(None);
        };
        let message = message.clone();
        *next += 1;
        self.hub.trim(log);
        Some(Some(message))
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        let mut log = self.hub.log();
        log.readers.remove(&self.reader);
        self.hub.trim(log);
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Arc<Hub> {
        Hub::new(Consumption::new(Arc::new(Outbox::default())))
    }

    fn push(hub: &Hub, text: &'static str) {
        hub.push(Message::from_bytes(text).unwrap(), text.len());
    }

    async fn text(messages: &mut Messages) -> String {
        messages.recv().await.unwrap().json().unwrap()
    }

    // I-25.
    // K-14: what comes early is kept for the first who asks.
    #[tokio::test]
    async fn the_first_subscriber_sees_the_backlog_and_every_one_sees_every_message() {
        let hub = hub();
        push(&hub, "\"early\"");
        let mut first = hub.subscribe();
        let mut second = hub.subscribe();
        push(&hub, "\"late\"");
        assert_eq!(
            (text(&mut first).await, text(&mut first).await),
            ("early".into(), "late".into())
        );
        assert_eq!(text(&mut second).await, "late");
        hub.end();
        assert!(first.recv().await.is_none());
    }

    #[tokio::test]
    async fn what_everybody_has_read_is_forgotten() {
        let hub = hub();
        let mut reader = hub.subscribe();
        let slow = hub.subscribe();
        for _ in 0..10 {
            push(&hub, "1");
            reader.recv().await.unwrap();
        }
        assert_eq!(
            hub.log().messages.len(),
            10,
            "the slow one has not read them"
        );
        drop(slow);
        assert_eq!(hub.log().messages.len(), 0);
        drop(reader);
        push(&hub, "1");
        assert_eq!(hub.log().messages.len(), 0, "nobody listens any more");
    }
}
