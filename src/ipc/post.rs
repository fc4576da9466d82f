//! What programs do with an outbox: the same for a worker and for the primary's handle of one.

use std::{cell::Cell, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use serde::Serialize;

use super::{outbox::Outbox, requests::Reply, sending::Sending};
use crate::{
    error::{Error, Result},
    frame::{INLINE, Kind},
    message::Message,
};

thread_local! {
    /// Where JSON is written before it is copied into a datagram, so that a small message allocates nothing.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Outbox {
    pub(crate) fn send(&self, value: &impl Serialize) -> Result<()> {
        // Taken out: what is serialised may send something itself.
        let mut json = SCRATCH.take();
        json.clear();
        serde_json::to_writer(&mut json, value).map_err(Error::Json)?;
        if json.len() > INLINE {
            return self.send_bytes(json);
        }
        let sent = self.small(&json);
        SCRATCH.set(json);
        sent
    }

    pub(crate) fn send_bytes(&self, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        if bytes.len() <= INLINE {
            return self.small(&bytes);
        }
        self.post(Kind::Message, &Message::from_bytes(bytes)?, Vec::new())
    }

    pub(crate) fn send_with(&self, value: &impl Serialize, fds: Vec<OwnedFd>) -> Result<()> {
        self.post(Kind::Message, &Message::encode(value)?, fds)
    }

    pub(crate) fn broadcast(&self, value: &impl Serialize) -> Result<()> {
        self.post(Kind::Broadcast, &Message::encode(value)?, Vec::new())
    }

    pub(crate) fn send_wait(self: &Arc<Self>, value: &impl Serialize) -> Sending {
        self.send_with_wait(value, Vec::new())
    }

    pub(crate) fn send_with_wait(
        self: &Arc<Self>,
        value: &impl Serialize,
        fds: Vec<OwnedFd>,
    ) -> Sending {
        match Message::encode(value) {
            Ok(message) => self.post_or_wait(Kind::Message, &message, fds),
            Err(error) => Sending::done(Err(error)),
        }
    }

    pub(crate) fn request(self: &Arc<Self>, value: &impl Serialize) -> Reply {
        self.ask_as(Kind::Request, value)
    }

    /// Asks the crate's own part over there.
    pub(crate) fn ask(self: &Arc<Self>, value: &impl Serialize) -> Reply {
        self.ask_as(Kind::Ask, value)
    }

    fn ask_as(self: &Arc<Self>, kind: fn(u64) -> Kind, value: &impl Serialize) -> Reply {
        let (number, answered) = self.requests().begin();
        let sending = match Message::encode(value) {
            Ok(message) => self.post_or_wait(kind(number), &message, Vec::new()),
            Err(error) => Sending::done(Err(error)),
        };
        Reply::new(self.clone(), number, sending, answered)
    }
}
