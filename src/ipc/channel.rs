//! The channel: a SEQPACKET socket on which orders and messages travel, both ways.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

pub(crate) use super::datagram::{MAX_FDS, Received, pair};
use super::{
    datagram, limits,
    outbox::{CAPACITY, NEARLY_NOTHING, Outbox},
};
use crate::{
    frame::{Frame, MAX_DATAGRAM},
    reactor,
};

/// Consumption is told to the sender when this much has come together; far less than the sender's bound.
const TELL: usize = NEARLY_NOTHING;

/// How often a sender looks again when the kernel takes no more descriptors in transit, which it says of the user's as a whole.
const CROWDED: Duration = Duration::from_millis(5);

/// How often a receiver looks again that has no room for descriptors.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// One end of a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<Arc<OwnedFd>>,
}

impl Channel {
    /// Takes a non-blocking SEQPACKET socket into the current runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        reactor::watch(Arc::new(socket), Interest::READABLE).map(|socket| Self { socket })
    }

    /// Receives the next datagram into `buffer`; `None` at the end.
    ///
    /// A peer that closed with something of ours unread shows as ECONNRESET *before* its last words, which the next receive brings:
    /// so that error is passed over, once.
    pub(crate) async fn receive(&self, buffer: &mut Buffer) -> io::Result<Option<Received>> {
        /// This process has no room for descriptors that come: each would be lost, and with it what it came with.
        static FULL: AtomicBool = AtomicBool::new(false);
        let mut reset = false;
        loop {
            while FULL.load(Relaxed) {
                if limits::has_reserve(&self.socket) {
                    FULL.store(false, Relaxed);
                } else {
                    tokio::time::sleep(FULL_PAUSE).await;
                }
            }
            let received = self
                .socket
                .async_io(Interest::READABLE, |fd| {
                    limits::lifted(|| datagram::receive(fd, &mut buffer.0))
                })
                .await;
            match received {
                Ok(Received { len: 0, .. }) => return Ok(None),
                Ok(received) => {
                    if received.fds.iter().any(limits::is_full) {
                        FULL.store(true, Relaxed);
                    }
                    return Ok(Some(received));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !reset => {
                    reset = true
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends it in both directions: the other side reads what was sent and then the end, whoever else holds the socket.
    pub(crate) fn shut(&self) {
        // Fails where the other side has gone: then it is shut.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match datagram::send(self.socket.get_ref(), bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await,
                sent => return sent,
            }
        }
    }

    /// Completes when there may be room. Watched only meanwhile and on a duplicate: a socket watched for both would wake this process
    /// for each datagram that the other side reads.
    async fn writable(&self) {
        let duplicate = self.socket.get_ref().try_clone();
        let watched = duplicate.and_then(|socket| reactor::watch(socket, Interest::WRITABLE));
        match watched {
            // An error shows again when sending.
            Ok(socket) => drop(socket.writable().await),
            // Out of descriptors.
            Err(_) => tokio::time::sleep(CROWDED).await,
        }
    }

    /// Sends what comes into the outbox until it is closed or the other side is gone.
    pub(crate) async fn write(&self, outbox: &Outbox) {
        outbox.connect(self.socket.get_ref());
        let mut spent = Vec::new();
        while let Some(datagram) = outbox.next(spent).await {
            let fds: Vec<_> = datagram.fds.iter().map(|fd| fd.as_fd()).collect();
            while let Err(error) = self.send(&datagram.bytes, &fds).await {
                if fds.is_empty() || !is_crowded(&error) {
                    outbox.close();
                    break;
                }
                tokio::time::sleep(CROWDED).await;
            }
            spent = datagram.bytes;
        }
    }
}

/// Too many descriptors of this user are in transit between processes.
fn is_crowded(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error())
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

    /// What has come and is not told as consumed.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Relaxed)
    }

    /// The program before this one received so much and did not tell it as consumed. Its memory is gone, so now it is.
    pub(crate) fn resumed(outbox: Arc<Outbox>, outstanding: usize) -> Self {
        let this = Self::new(outbox);
        this.outstanding.store(outstanding, Relaxed);
        this.tell_consumed(outstanding);
        this
    }

    /// So much weight of messages or notices has come; false when that is more than a sender may have under way.
    pub(crate) fn received(&self, weight: usize) -> bool {
        self.outbox.heard();
        let before = self.outstanding.fetch_add(weight, Relaxed);
        before < NEARLY_NOTHING || before + weight <= CAPACITY
    }

    /// So much weight of messages or notices will take no more memory.
    pub(crate) fn add(&self, bytes: usize) {
        if self.untold.fetch_add(bytes, Relaxed) + bytes >= TELL {
            let told = self.untold.swap(0, Relaxed);
            self.tell_consumed(told);
        }
    }

    fn tell_consumed(&self, told: usize) {
        if told > 0 {
            let less = |outstanding: usize| Some(outstanding.saturating_sub(told));
            let _ = self.outstanding.fetch_update(Relaxed, Relaxed, less);
            self.outbox
                .order(&Frame::Consumed(u32::try_from(told).unwrap_or(u32::MAX)));
        }
    }
}

/// Something received. Its drop tells that it takes no more memory.
#[derive(Debug)]
pub(crate) struct Receipt {
    consumption: Arc<Consumption>,
    weight: usize,
}

impl Receipt {
    pub(crate) fn new(consumption: &Arc<Consumption>, weight: usize) -> Self {
        Self {
            consumption: consumption.clone(),
            weight,
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.consumption.add(self.weight);
    }
}

/// Sends one datagram on a channel that no runtime knows yet.
pub(crate) fn send_now(channel: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    datagram::send(channel, bytes, &[])
}
