//! The intake: a SEQPACKET socket on which a worker receives connections. Its small buffer in the kernel is the window.
//!
//! The primary keeps a duplicate of the worker's end, so that it can take back what a dead or stuck worker has not read. Nothing in
//! an intake is ever lost: a datagram is read whole, by one side or the other.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::yield_now,
};

pub(crate) use super::conn::{BATCH, Batch, Conn, fits};
use super::{
    conn::{receive, send},
    datagram, limits,
};
use crate::reactor;

/// What the window is asked to be; the kernel doubles it: 22 datagrams of one connection, 13 of sixteen. Smaller, and the rotation
/// skews under load (4 to 6 datagrams: 904 to 1196 of 992); larger, and a stuck worker holds more (8 KiB: 983 to 1001).
const WINDOW: usize = 8 * 1024;
/// Whether something is used up that will be free again: descriptors in flight, descriptors, memory.
fn is_shortage(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ETOOMANYREFS | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

/// What became of connections that were to be handed over.
#[derive(Debug)]
pub(crate) enum Handed {
    Sent,
    /// The window is full: the worker is behind.
    Full,
    /// The user's budget of descriptors in flight is used up (the socket is writable all the same), or other means of the system are.
    /// Try again in some milliseconds.
    TooManyInFlight,
    /// The worker's end is shut.
    Gone(io::Error),
}

/// The primary's side of one worker's intake.
#[derive(Debug)]
pub(crate) struct IntakeSender {
    /// Neither end is kept in a reactor: each datagram that the worker reads would wake the primary, for news that it does not need.
    socket: OwnedFd,
    /// A duplicate of the worker's end.
    worker_end: OwnedFd,
}

impl IntakeSender {
    pub(crate) fn new() -> io::Result<Self> {
        let (socket, worker_end) = datagram::pair()?;
        set_socket_send_buffer_size(&socket, WINDOW)?;
        Ok(Self { socket, worker_end })
    }

    /// The two ends that the program before this one had: its own, and its duplicate of the worker's.
    pub(crate) fn resumed(socket: OwnedFd, worker_end: OwnedFd) -> Self {
        Self { socket, worker_end }
    }

    /// Its own end.
    pub(crate) fn own_end(&self) -> &OwnedFd {
        &self.socket
    }

    /// The end to give to the worker.
    pub(crate) fn worker_end(&self) -> &OwnedFd {
        &self.worker_end
    }

    /// Hands connections over, all or none of them. The caller drops them once they are sent. One that was read from travels alone:
    /// see [`fits`].
    pub(crate) fn send(&self, conns: &[Conn]) -> Handed {
        match send(&self.socket, conns) {
            Ok(()) => Handed::Sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Handed::Full,
            Err(error) if is_shortage(&error) => Handed::TooManyInFlight,
            Err(error) => Handed::Gone(error),
        }
    }

    /// Completes when a window that was full has room: the kernel says so when three quarters are free.
    pub(crate) async fn room(&self) {
        // In the reactor only for this wait. An error means the socket is beyond use; the next `send` says so.
        if let Ok(socket) = reactor::watch(self.socket.as_fd(), Interest::WRITABLE) {
            let _ = socket.writable().await;
        }
    }

    /// The way back; once, for the task that reads it.
    pub(crate) fn handbacks(&self) -> io::Result<Handbacks> {
        Ok(Handbacks {
            socket: reactor::watch(self.socket.try_clone()?, Interest::READABLE)?,
        })
    }

    /// Takes back the next datagram the worker has not read.
    pub(crate) fn take_back(&self) -> Option<Batch> {
        receive(&self.worker_end).ok().flatten()
    }

    /// Ends the intake: the worker reads what is queued, then the end.
    pub(crate) fn finish(&self) {
        // Fails only if it is shut down already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
    }
}

/// What a worker gives back, as the primary reads it.
#[derive(Debug)]
pub(crate) struct Handbacks {
    socket: AsyncFd<OwnedFd>,
}

impl Handbacks {
    /// The next connections that come back. There is no end as long as the worker does not make one, which it never should: this
    /// process has a duplicate of the worker's end.
    pub(crate) async fn receive(&self) -> io::Result<Option<Batch>> {
        self.socket
            .async_io(Interest::READABLE, |socket| receive(socket))
            .await
    }

    /// What has come and was not read, once the worker has ended.
    pub(crate) fn rest(&self) -> Option<Batch> {
        receive(&self.socket).ok().flatten()
    }
}

/// The worker's side.
#[derive(Debug)]
pub(crate) struct IntakeReceiver {
    socket: AsyncFd<OwnedFd>,
    /// The last look at the socket brought a batch.
    received: AtomicBool,
}

impl IntakeReceiver {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: reactor::watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            received: AtomicBool::new(false),
        })
    }

    /// The next connections; `None` when the intake is finished. Cancel safe.
    pub(crate) async fn receive(&self) -> io::Result<Option<Batch>> {
        loop {
            let mut ready = self.socket.readable().await?;
            // After a batch there is rarely another one: a look is cheaper than a receive with its lifted limit, by two calls.
            let looks = self.received.swap(false, Relaxed);
            if !looks {
                // What is due in the same turn comes first: where it blocks the runtime, what waits here can still be taken back by the
                // primary, and what was taken could not.
                yield_now().await;
            }
            let received = ready.try_io(|socket| {
                if looks {
                    datagram::look(socket.get_ref())?;
                }
                receive(socket.get_ref())
            });
            match received {
                Err(_would_block) => {}
                // The primary died with something of ours unread: told once, before what it has still sent.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(received) => {
                    self.received.store(received.is_ok(), Relaxed);
                    return received;
                }
            }
        }
    }

    /// Whether this process has descriptors enough for the next batch.
    pub(crate) fn has_room(&self) -> bool {
        limits::has_room(&self.socket, BATCH)
    }

    /// Whether this process has so many descriptors that a shortage will show before it hurts.
    pub(crate) fn has_reserve(&self) -> bool {
        limits::has_reserve(&self.socket)
    }

    /// As [`give_back`](Self::give_back), without waiting: for a thread that is not of the runtime.
    ///
    /// # Errors
    ///
    /// With the connection: the primary takes nothing now, or is gone.
    pub(crate) fn give_back_now(&self, conn: Conn) -> Result<(), Conn> {
        send(self.socket.get_ref(), std::slice::from_ref(&conn)).map_err(|_| conn)
    }

    /// Gives a connection back to the primary, which has another worker go on with it.
    ///
    /// # Errors
    ///
    /// With the connection, which nobody takes: the primary is gone.
    pub(crate) async fn give_back(&self, conn: Conn) -> Result<(), Conn> {
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| {
            match send(socket, std::slice::from_ref(&conn)) {
                // The socket is writable all the same. See `Handed::TooManyInFlight`.
                Err(error) if is_shortage(&error) => Ok(false),
                sent => sent.map(|()| true),
            }
        });
        match sent.await {
            Ok(true) => Ok(()),
            Ok(false) => {
                tokio::time::sleep(CROWDED).await;
                Box::pin(self.give_back(conn)).await
            }
            Err(_) => Err(conn),
        }
    }
}

/// How long to leave the budget of descriptors in flight alone when it is used up.
pub(crate) const CROWDED: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ipc::conn::INLINE,
        moved::{Awaits, Moved},
    };
    use bytes::Bytes;

    fn conn(peer: Option<&str>) -> Conn {
        let (fd, _) = datagram::pair().unwrap();
        Conn {
            fd,
            listener: 7,
            app: 1,
            peer: peer.map(|peer| peer.parse().unwrap()),
            moved: None,
        }
    }

    #[tokio::test]
    async fn connections_come_out_as_they_went_in() {
        let sender = IntakeSender::new().unwrap();
        let receiver = IntakeReceiver::new(sender.worker_end().try_clone().unwrap()).unwrap();
        let peers = [Some("127.0.0.1:80"), None, Some("[fe80::1%3]:443")];
        assert!(matches!(sender.send(&peers.map(conn)), Handed::Sent));
        let batch = receiver.receive().await.unwrap().unwrap();
        assert_eq!(
            batch.conns.iter().map(|conn| conn.peer).collect::<Vec<_>>(),
            peers.map(|peer| peer.map(|peer| peer.parse().unwrap()))
        );
        assert!(
            batch
                .conns
                .iter()
                .all(|conn| (conn.listener, conn.app) == (7, 1))
        );
        sender.finish();
        assert!(receiver.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_window_fills_is_taken_back_whole_and_opens_again() {
        let sender = IntakeSender::new().unwrap();
        let mut sent = 0;
        while matches!(sender.send(&[conn(None)]), Handed::Sent) {
            sent += 1;
        }
        assert!((16..=40).contains(&sent), "{sent}");
        let mut back = 0;
        while let Some(batch) = sender.take_back() {
            back += batch.conns.len();
        }
        assert_eq!(back, sent);
        sender.room().await;
        assert!(matches!(sender.send(&[conn(None)]), Handed::Sent));
    }

    #[tokio::test]
    async fn sixteen_ipv6_peers_fit() {
        let sender = IntakeSender::new().unwrap();
        let conns: Vec<_> = (0..BATCH).map(|_| conn(Some("[fe80::1%3]:443"))).collect();
        assert!(matches!(sender.send(&conns), Handed::Sent));
        assert_eq!(sender.take_back().unwrap().conns.len(), BATCH);
    }

    #[tokio::test]
    async fn a_connection_comes_back_with_what_was_read_of_it() {
        let sender = IntakeSender::new().unwrap();
        let handbacks = sender.handbacks().unwrap();
        let receiver = IntakeReceiver::new(sender.worker_end().try_clone().unwrap()).unwrap();
        sender.finish();
        assert!(
            receiver.receive().await.unwrap().is_none(),
            "the way there is closed, the way back is not"
        );
        let standings = [Awaits::FirstByte, Awaits::Head, Awaits::Request];
        let sizes = [0, 1, INLINE, INLINE + 1, 408 * 1024];
        for (size, awaits) in sizes.into_iter().zip(standings.into_iter().cycle()) {
            let moved = Moved {
                read: Bytes::from(vec![b'x'; size]),
                awaits,
                waited: Duration::from_millis(9_999),
            };
            receiver
                .give_back(Conn {
                    moved: Some(moved.clone()),
                    ..conn(Some("127.0.0.1:80"))
                })
                .await
                .unwrap();
            let back = handbacks.receive().await.unwrap().unwrap().conns.remove(0);
            assert_eq!(back.moved.as_ref(), Some(&moved));
            let next = IntakeSender::new().unwrap();
            assert!(matches!(next.send(&[back]), Handed::Sent), "{size}");
            assert_eq!(
                next.take_back().unwrap().conns[0].moved,
                Some(moved),
                "{size}"
            );
        }
        drop((sender, handbacks));
        assert!(receiver.give_back(conn(None)).await.is_err());
    }

    #[tokio::test]
    async fn garbage_is_an_error_and_keeps_no_descriptor() {
        let sender = IntakeSender::new().unwrap();
        let (extra, other) = datagram::pair().unwrap();
        datagram::send(&sender.socket, b"garbage", &[extra.as_fd()]).unwrap();
        drop(extra);
        assert!(receive(sender.worker_end()).is_err());
        assert_eq!(datagram::receive(&other, &mut [0; 8]).unwrap().len, 0);
    }
}
