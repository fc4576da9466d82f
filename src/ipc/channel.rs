//! The channel: a SEQPACKET socket on which orders and messages travel, both ways.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::io::{Interest, unix::AsyncFd};

pub(crate) use super::datagram::{Received, pair};
use super::{
    datagram,
    outbox::{CAPACITY, Outbox},
};
use crate::{
    frame::{Frame, MAX_DATAGRAM},
    reactor,
};

/// Consumption is told to the sender when this much has come together; far less than the sender's bound.
const TELL: usize = 256 * 1024;

/// One end of a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Takes a non-blocking SEQPACKET socket into the current runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        reactor::watch(socket, Interest::READABLE | Interest::WRITABLE)
            .map(|socket| Self { socket })
    }

    /// Receives the next datagram into `buffer`; `None` at the end.
    ///
    /// A peer that closed with something of ours unread shows as ECONNRESET *before* its last words, which the next receive brings:
    /// so that error is passed over, once.
    pub(crate) async fn receive(&self, buffer: &mut Buffer) -> io::Result<Option<Received>> {
        let mut reset = false;
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |fd| {
                    datagram::receive(fd, &mut buffer.0)
                })
                .await;
            match received {
                Ok(Received { len: 0, .. }) => return Ok(None),
                Ok(received) => return Ok(Some(received)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !reset => {
                    reset = true
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                datagram::send(socket, bytes, fds)
            })
            .await
    }

    /// Sends what comes into the outbox until it is closed or the other side is gone.
    pub(crate) async fn write(&self, outbox: &Outbox) {
        while let Some(datagram) = outbox.next().await {
            if self.send(&datagram, &[]).await.is_err() {
                outbox.close();
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Room for the largest datagram.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; MAX_DATAGRAM].into())
    }

    pub(crate) fn get(&self, len: usize) -> &[u8] {
        &self.0[..len]
    }
}

/// Tells the sender what has been consumed of its messages, in lots.
#[derive(Debug)]
pub(crate) struct Consumption {
    outbox: Arc<Outbox>,
    /// Received and not yet told as consumed: what the sender counts as under way, at the least.
    outstanding: AtomicUsize,
    untold: AtomicUsize,
}

impl Consumption {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            outbox,
            outstanding: AtomicUsize::new(0),
            untold: AtomicUsize::new(0),
        }
    }

    /// What has come and was not told as consumed, and of that what is consumed.
    pub(crate) fn read(&self) -> (usize, usize) {
        (self.outstanding.load(Relaxed), self.untold.load(Relaxed))
    }

    /// Goes on where the program before this one stopped.
    pub(crate) fn resumed(outbox: Arc<Outbox>, (outstanding, untold): (usize, usize)) -> Self {
        Self {
            outbox,
            outstanding: outstanding.into(),
            untold: untold.into(),
        }
    }

    /// `bytes` of messages or notices, as framed, have come; false when that is more than a sender may have under way.
    pub(crate) fn received(&self, bytes: usize) -> bool {
        self.outstanding.fetch_add(bytes, Relaxed) + bytes <= CAPACITY
    }

    /// `bytes` of messages or notices, as framed, will take no more memory.
    pub(crate) fn add(&self, bytes: usize) {
        if self.untold.fetch_add(bytes, Relaxed) + bytes >= TELL {
            let told = self.untold.swap(0, Relaxed);
            let less = |outstanding: usize| Some(outstanding.saturating_sub(told));
            let _ = self.outstanding.fetch_update(Relaxed, Relaxed, less);
            self.outbox
                .order(&Frame::Consumed(u32::try_from(told).unwrap_or(u32::MAX)));
        }
    }
}

/// Sends one datagram on a channel that no runtime knows yet.
pub(crate) fn send_now(channel: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    datagram::send(channel, bytes, &[])
}
