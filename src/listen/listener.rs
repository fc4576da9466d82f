//! The listener itself, and who connects to it.

use std::{fmt, net::SocketAddr, sync::Arc};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Semaphore,
};

use super::{
    own,
    stream::{Held, Stream},
};
use crate::{
    address::Address,
    binding::Binding,
    error::Result,
    reactor, sockets,
    worker::{self, Port, Worker},
};

/// A listener made by [`listen`](super::listen). Dropped, it is closed: this worker gets no more connections of it.
///
/// With feature `axum` it is an `axum::serve::Listener`, and [`Peer`] its connect info:
///
/// ```no_run
/// # use axum::{Router, extract::ConnectInfo, routing::get};
/// # use axum_cluster::cluster::{self, Peer};
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// async fn who(ConnectInfo(peer): ConnectInfo<Peer>) -> String {
///     peer.to_string()
/// }
/// let app = Router::new().route("/", get(who));
/// let listener = cluster::listen("127.0.0.1:9000").await?;
/// axum::serve(listener, app.into_make_service_with_connect_info::<Peer>()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
    local: Address,
}

#[derive(Debug)]
enum Inner {
    Shared(Port),
    Own {
        socket: AsyncFd<sockets::Listener>,
        worker: Option<Worker>,
        room: Arc<Semaphore>,
    },
}

impl Listener {
    pub(super) fn shared(port: Port) -> Self {
        let local = port.local.clone();
        let inner = Inner::Shared(port);
        Self { inner, local }
    }

    pub(super) async fn own(
        binding: &Binding,
        worker: Option<Worker>,
        max_connections: usize,
    ) -> Result<Self> {
        let listener = sockets::Listener::bind_as(&binding.address, &binding.options).await?;
        let local = listener.local.clone();
        let socket = reactor::watch(listener, Interest::READABLE);
        let inner = Inner::Own {
            socket: socket.map_err(|source| binding.failed(source))?,
            worker,
            room: Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS))),
        };
        Ok(Self { inner, local })
    }

    /// The address that is listened on, with the real port. The same in all workers that share it.
    pub fn local_addr(&self) -> &Address {
        &self.local
    }

    /// The next connection; `None` when this worker leaves and every connection that had come has been accepted, as far as
    /// [`max_connections`](super::Listen::max_connections) has room for them.
    ///
    /// ```no_run
    /// # use axum_cluster::cluster;
    /// # use tokio::io::AsyncWriteExt;
    /// # async fn greet() -> axum_cluster::Result<()> {
    /// let listener = cluster::listen("127.0.0.1:9000").await?;
    /// while let Some((mut stream, peer)) = listener.accept().await {
    ///     let _ = stream.write_all(format!("hello {peer}\n").as_bytes()).await;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// In a primary and outside a cluster it never ends. Connections accepted here are the program's: a worker that leaves waits for
    /// them until the drain deadline, [`draining`](crate::Worker::draining) tells the program, and none of them moves to another worker.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a connection is taken only when it is returned. Several tasks may accept at once.
    pub async fn accept(&self) -> Option<(Stream, Peer)> {
        loop {
            let (fd, peer, held) = match &self.inner {
                Inner::Shared(port) => {
                    let (conn, open) = port.accept().await?;
                    (conn.fd, conn.peer, Held::Open(open))
                }
                Inner::Own {
                    socket,
                    worker,
                    room,
                } => {
                    // Before the worker leaves: it is not done until this has seen that nobody waits any more.
                    let waited_for = worker.clone().map(worker::Held::new);
                    let permit = own::place(room, worker.as_ref()).await?;
                    let (fd, peer) = own::accept(socket, worker.as_ref()).await?;
                    (fd, peer, Held::Place(permit, waited_for))
                }
            };
            match sockets::Stream::new(fd, peer) {
                Ok(inner) => return Some((Stream { inner, held }, Peer(peer))),
                Err(error) => tracing::error!(%error, "a connection cannot be used"),
            }
        }
    }
}

/// Who connected: an IP address and port, or somebody on a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(Option<SocketAddr>);

impl Peer {
    /// The IP address and port; `None` on a unix socket.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.0
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => addr.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

#[cfg(feature = "axum")]
mod with_axum {
    use axum::{extract::connect_info::Connected, serve::IncomingStream};

    use super::{Listener, Peer, Stream};

    impl axum::serve::Listener for Listener {
        type Io = Stream;
        type Addr = Peer;

        /// Waits for ever once this worker leaves: `with_graceful_shutdown(worker.draining())` ends the server.
        async fn accept(&mut self) -> (Stream, Peer) {
            match Self::accept(self).await {
                Some(accepted) => accepted,
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> std::io::Result<Peer> {
            Ok(Peer(self.local.socket_addr()))
        }
    }

    impl Connected<IncomingStream<'_, Listener>> for Peer {
        fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
            *stream.remote_addr()
        }
    }
}
