//! `cluster::listen`: listeners that a program opens itself, shared by all workers that open the same.

mod own;
mod stream;

use std::{
    fmt,
    future::{Future, IntoFuture},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Semaphore,
};

use stream::Held;
pub use stream::Stream;

use crate::{
    address::Address,
    birth::{Birth, birth},
    cluster,
    error::{Error, Result},
    ipc::intake::Conn,
    reactor, sockets,
    wanted::{Options, Place, Wanted},
    worker::{self, Port, Worker},
};

/// Listens on an address from wherever the program is (Node's `server.listen()` in a worker). A builder: await it.
///
/// In a worker it asks the primary, which binds once for all workers that ask for the same and hands each connection to one of those
/// that listen. Workers that ask for port 0 share a port: the first of each worker is the same, the second of each another. A
/// [`PrimaryFd`](crate::PrimaryFd) is a socket that the primary has already. In a primary, and in a program that is no cluster, it binds
/// by itself.
///
/// The primary tells of it: [`Event::Listening`](cluster::Event::Listening) and
/// [`on_listening`](crate::ClusteredServer::on_listening), once a listener and worker, with the address as asked for and as bound. Not of
/// one that is [exclusive](Listen::exclusive), of which it knows nothing.
///
/// The primary accepts only while some worker has room, and closes the socket when the last worker has closed its listener. Where the
/// last one has *died* or has left, the socket stays open for the [boot timeout](crate::ClusteredServer::boot_timeout), so that its
/// successor finds the clients that came meanwhile.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use axum_cluster::{ClusteredServer, Worker, cluster};
///
/// async fn metrics(worker: Worker) -> axum_cluster::Result<()> {
///     let listener = cluster::listen("127.0.0.1:9000").backlog(64).await?;
///     let app = Router::new().route("/", get(|| async { "fine" }));
///     axum::serve(listener, app).with_graceful_shutdown(worker.draining()).await.ok();
///     Ok(())
/// }
///
/// ClusteredServer::bind("127.0.0.1:8000").serve_with(|worker| async move {
///     tokio::spawn(metrics(worker));
///     Ok(Router::new())
/// });
/// ```
///
/// # Errors
///
/// [`Error::Bind`] with what the system said to the primary, when the address is in use, by this very worker too, or by another with
/// other options; or not permitted. Nothing is left behind: it may be tried again. [`Error::Address`] when it is none, [`Error::Gone`]
/// when the primary is gone, [`Error::NotStarted`] in a worker that has not reached `serve` or `start`.
///
/// # Cancel safety
///
/// Dropped before it completes, it leaves no listener.
pub fn listen(address: impl Into<Address>) -> Listen {
    Listen {
        address: address.into(),
        options: Options {
            ipv6_only: Some(false),
            ..Options::default()
        },
        exclusive: false,
        max_connections: usize::MAX,
    }
}

/// A listener that is being described; made by [`listen`]. Awaited, it is a [`Listener`].
#[derive(Clone, Debug)]
#[must_use = "nothing is bound unless it is awaited"]
pub struct Listen {
    address: Address,
    options: Options,
    exclusive: bool,
    max_connections: usize,
}

impl Listen {
    /// How many connections of this listener this worker has open at the most (Node's `server.maxConnections`), those that wait to be
    /// accepted among them. Default: no limit of its own.
    ///
    /// Past it, further ones go to other workers; when all are full, they wait in the kernel's backlog, and nobody spins. It is this worker's
    /// own: others may have another one. With 0 this worker keeps the listener open and takes nothing.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many clients the kernel keeps waiting. Default 1024 (the system's own limit also holds).
    ///
    /// Workers that share a listener have to agree: one that asks for another backlog gets an error.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.options.backlog = backlog;
        self
    }

    /// Binds in this process, for it alone: port 0 is a port of its own, and a second worker that wants the same port gets an error.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// Binds in this process with `SO_REUSEPORT`: every worker that does the same gets its part of the clients from the kernel.
    pub fn reuse_port(mut self) -> Self {
        self.options.reuse_port = true;
        self.exclusive()
    }

    /// An IPv6 address takes IPv6 clients only. By default `[::]` takes IPv4 clients too.
    pub fn ipv6_only(mut self) -> Self {
        self.options.ipv6_only = Some(true);
        self
    }

    /// Permissions of a unix socket's file, such as `0o660`. By default the umask's. Nobody can connect before they are set.
    pub fn mode(mut self, mode: u32) -> Self {
        self.options.mode = Some(mode);
        self
    }

    async fn listen(self) -> Result<Listener> {
        let worker = match birth() {
            Birth::Orphan(reason) => return Err(Error::Orphaned { reason }),
            Birth::Worker(_) => Some(cluster::worker().ok_or(Error::NotStarted)?),
            // In one process that is primary and worker, there is a worker and nobody to ask.
            Birth::Plain | Birth::Successor(_) => cluster::worker(),
        };
        let address = self.address.absolute();
        match worker {
            Some(worker) if worker.ports().can_ask() && !self.exclusive => {
                let wanted = Wanted {
                    place: Place::Stream(address),
                    options: self.options,
                    index: 0,
                };
                Port::ask(&worker, wanted, self.max_connections)
                    .await
                    .map(|(port, _)| Listener::shared(port))
            }
            Some(worker) if worker.ports().can_ask() && address.is_primary_fd() => {
                Err(exclusively_the_primarys(address))
            }
            worker => {
                let listener = sockets::Listener::bind_as(&address, &self.options).await?;
                let local = listener.local.clone();
                let watched = reactor::watch(listener, Interest::READABLE);
                let socket = watched.map_err(|source| Error::Bind { address, source })?;
                let limit = self.max_connections.min(Semaphore::MAX_PERMITS);
                let inner = Inner::Own {
                    socket,
                    worker,
                    room: Arc::new(Semaphore::new(limit)),
                };
                Ok(Listener { inner, local })
            }
        }
    }
}

/// A worker's own socket that is the primary's: there is no such thing.
pub(crate) fn exclusively_the_primarys(address: Address) -> Error {
    let text = "a descriptor of the primary is shared by all workers; ask for it without `exclusive` and `reuse_port`";
    Error::Bind {
        address,
        source: io::Error::new(io::ErrorKind::InvalidInput, text),
    }
}

impl IntoFuture for Listen {
    type Output = Result<Listener>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Listener>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.listen())
    }
}

/// A listener made by [`listen`]. Dropped, it is closed: this worker gets no more connections of it.
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
    fn shared(port: Port) -> Self {
        let local = port.local.clone();
        let inner = Inner::Shared(port);
        Self { inner, local }
    }

    /// The address that is listened on, with the real port. The same in all workers that share it.
    pub fn local_addr(&self) -> &Address {
        &self.local
    }

    /// The next connection; `None` when this worker leaves and every connection that had come has been accepted, as far as
    /// [`max_connections`](Listen::max_connections) has room for them.
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

impl Worker {
    /// Serves a connection that came by another way with this worker's router, as if the primary had handed it over: one that arrived
    /// with a message ([`take_tcp_stream`](crate::Message::take_tcp_stream)), that a [`Listener`] accepted, or that the program accepted itself.
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

#[cfg(test)]
mod tests {
    use super::*;

    // In a process that is no worker it binds by itself.
    #[tokio::test]
    async fn outside_a_cluster_it_binds_by_itself() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().socket_addr().unwrap();
        let client = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (_stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.socket_addr(), client.local_addr().ok());
        assert!(matches!(listen(addr).await, Err(Error::Bind { .. })));
        drop(listener);
        listen(addr).await.unwrap();
    }

    // L-11
    #[tokio::test]
    async fn a_port_can_be_shared_by_the_kernel() {
        let first = listen("127.0.0.1:0").reuse_port().await.unwrap();
        let addr = first.local_addr().socket_addr().unwrap();
        assert!(listen(addr).await.is_err());
        listen(addr).reuse_port().await.unwrap();
    }
}
