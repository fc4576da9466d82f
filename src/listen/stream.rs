//! A connection that a worker accepted, of whichever kind.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};

use crate::{
    error::{Error, Result},
    ipc::intake::Conn,
    sockets,
    worker::{self, Open, Worker},
};

/// A connection that a [`Listener`](super::Listener) accepted, TCP or unix. `TCP_NODELAY` is set.
#[derive(Debug)]
pub struct Stream {
    pub(super) inner: sockets::Stream,
    /// After the connection itself, so that it counts as closed when it is.
    pub(super) held: Held,
}

/// What counts a connection as open for as long as it is there.
#[derive(Debug)]
pub(super) enum Held {
    /// By nobody: it came by another way.
    Nothing,
    /// It was handed over by the primary.
    Open(#[expect(dead_code, reason = "held until it is dropped")] Open),
    /// It was accepted by this process, which waits for it where it is a worker's.
    Place(
        #[expect(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit,
        #[expect(dead_code, reason = "held until it is dropped")] Option<worker::Held>,
    ),
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl From<sockets::Stream> for Stream {
    fn from(inner: sockets::Stream) -> Self {
        Self {
            inner,
            held: Held::Nothing,
        }
    }
}

impl From<tokio::net::TcpStream> for Stream {
    fn from(stream: tokio::net::TcpStream) -> Self {
        sockets::Stream::Tcp(stream).into()
    }
}

impl From<tokio::net::UnixStream> for Stream {
    fn from(stream: tokio::net::UnixStream) -> Self {
        sockets::Stream::Unix(stream).into()
    }
}

impl Worker {
    /// Serves a connection that came by another way with this worker's router, as if the primary had handed it over: one that arrived
    /// with a message ([`take_tcp_stream`](crate::Message::take_tcp_stream)), that a [`Listener`](super::Listener) accepted, or that the program accepted itself.
    ///
    /// It is counted, has the timeouts of all connections, and is drained when the worker leaves; it does not move to another worker.
    /// Nothing may have been read from it. Where there are several apps, the first one serves it.
    ///
    /// Waits until this worker serves, then returns at once: a task of its own goes on with the connection.
    ///
    /// ```no_run
    /// # async fn receive(worker: axum_cluster::Worker) -> axum_cluster::Result<()> {
    /// let mut messages = worker.messages();
    /// while let Some(message) = messages.recv().await {
    ///     worker.serve_connection(message.take_tcp_stream()?).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] when this worker has drained already, or serves nothing; [`Error::System`] when the client has gone, or the
    /// runtime cannot take the connection. It is closed then.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, it closes the connection.
    pub async fn serve_connection(&self, stream: impl Into<Stream>) -> Result<()> {
        let Stream { inner, held: _held } = stream.into();
        let failed = |source| Error::System {
            doing: "take over a connection",
            source,
        };
        let peer = inner.peer().map_err(failed)?;
        let conn = Conn {
            fd: inner.into_fd().map_err(failed)?,
            listener: 0,
            app: 0,
            peer,
            moved: None,
        };
        self.serve_conn(conn).await
    }
}
