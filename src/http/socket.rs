//! A stream as hyper sees it.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{gather, link::Link, scratch};
use crate::moved::Moved;

/// The stream, what was read of it before hyper saw it, and its entry in the books.
///
/// It goes wherever the stream goes, into an upgraded protocol too: so the connection is counted, and can be cut, for as
/// long as the stream is open and no longer. Once cut it reads as ended and fails to write, whoever holds it.
#[derive(Debug)]
pub(super) struct Socket<IO> {
    before: Bytes,
    stream: IO,
    /// Nothing more will be read: the client has ended, or the stream has failed.
    ended: bool,
    shut: bool,
    /// Whether a byte that comes while nothing else goes on begins a request's head. In HTTP/2 it may be a PING.
    http1: bool,
    entry: Entry, // last: falls when the stream is closed
}

impl<IO> Socket<IO> {
    /// Enters the stream in the books.
    pub(super) fn new(stream: IO, before: Bytes, link: Link) -> Self {
        Self {
            before,
            stream,
            ended: false,
            shut: false,
            http1: true,
            entry: Entry::new(link),
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.entry.link
    }

    /// What was read and not given to hyper.
    pub(super) fn before(&self) -> &Bytes {
        &self.before
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn speaks_http2(&mut self) {
        self.http1 = false;
        self.link().stays.store(true, Relaxed);
    }

    /// Gives the stream back, and where it stands: `read` was read, then what hyper did not take. It did not close, and is
    /// not counted so.
    pub(super) fn release(mut self, read: Bytes) -> (IO, Moved) {
        self.entry.released = true;
        let moved = self.entry.link.standing(join(read, self.before));
        (self.stream, moved)
    }

    /// Registers whoever waits and is not the driver, which [`Link::wake`] reaches anyway; says whether the stream was cut.
    fn parks(&self, cx: &Context<'_>, waiter: impl Fn(&Link) -> &AtomicWaker) -> bool {
        let link = self.link();
        if link.is_driver(cx) {
            return false;
        }
        waiter(link).register(cx.waker());
        link.is_cut() // after registering: a cut from here on wakes
    }
}

impl<IO: AsyncRead + Unpin> Socket<IO> {
    /// Reads once more and adds to what was read before hyper. Zero at the end of the stream.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let before = mem::take(&mut self.before); // for the read is to go to the stream
        let more = scratch::poll_read(Pin::new(&mut *self), cx, Bytes::copy_from_slice);
        let Poll::Ready(Ok(more)) = more else {
            self.before = before;
            return more.map_ok(|_| 0);
        };
        let count = more.len();
        self.before = join(before, more);
        Poll::Ready(Ok(count))
    }
}

fn join(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (_, true) => first,
        (true, false) => second,
        (false, false) => [first, second].concat().into(),
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Socket<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.link().is_cut() {
            return Poll::Ready(Ok(()));
        }
        if !this.before.is_empty() {
            let count = this.before.len().min(buf.remaining());
            buf.put_slice(&this.before.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &read {
            Poll::Pending if this.parks(cx, |link| &link.reader) => return Poll::Ready(Ok(())),
            Poll::Pending => {}
            Poll::Ready(Ok(())) if buf.filled().len() > filled => {
                if this.http1 {
                    this.link().bytes_came();
                }
            }
            Poll::Ready(_) => this.ended |= buf.remaining() > 0,
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> Socket<IO> {
    /// Whatever was asked of the stream last tells whether it has taken everything: a flush comes after the last write.
    fn wrote<T>(&mut self, cx: &Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.link().unwritten.store(wrote.is_pending(), Relaxed);
        match &wrote {
            Poll::Pending if self.parks(cx, |link| &link.writer) => return Poll::Ready(Err(cut())),
            Poll::Ready(Err(_)) => self.ended = true,
            _ => {}
        }
        wrote
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Socket<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.link().is_cut() {
            return Poll::Ready(Err(cut()));
        }
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.link().is_cut() {
            return Poll::Ready(Err(cut()));
        }
        let wrote = gather::poll_write(Pin::new(&mut self.stream), cx, bufs);
        self.wrote(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link().unwritten.store(true, Relaxed);
        // A client that has ended needs no word: the close that follows says the same.
        if !self.ended && !self.shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the server has cut the connection",
    )
}

/// An open connection in the books of the process: counting is a guard.
#[derive(Debug)]
struct Entry {
    link: Arc<Link>,
    place: usize,
    released: bool,
}

impl Entry {
    fn new(link: Link) -> Self {
        let link = Arc::new(link);
        let place = link.hub().registry.enter(&link);
        Self {
            link,
            place,
            released: false,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (hub, row) = (self.link.hub(), self.link.row());
        let unwritten = self.link.activity.close();
        if unwritten > 0 {
            row.ended(unwritten.into());
        }
        if !self.released {
            row.closed();
        }
        if hub.registry.vacate(self.place) {
            hub.empty.notify_waiters();
        }
    }
}
