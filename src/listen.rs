//! `cluster::listen`: listeners that a program opens itself, shared by all workers that open the same.

mod listener;
mod own;
mod stream;

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

pub use listener::{Listener, Peer};
pub use stream::Stream;

use crate::{
    address::Address,
    binding::{Binder, Binding},
    error::Result,
    wanted::Place,
    worker::Port,
};

/// Listens on an address from wherever the program is (Node's `server.listen()` in a worker). A builder: await it.
///
/// In a worker it asks the primary, which binds once for all workers that ask for the same and hands each connection to one of those
/// that listen. Workers that ask for port 0 share a port: the first of each worker is the same, the second of each another. A
/// [`PrimaryFd`](crate::PrimaryFd) is a socket that the primary has already. In a primary, and in a program that is no cluster, it binds
/// by itself.
///
/// The primary tells of it: [`Event::Listening`](crate::cluster::Event::Listening) and
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
/// [`Error::Bind`](crate::Error::Bind) with what the system said to the primary, when the address is in use, by this very worker too, or by another with
/// other options; or not permitted. Nothing is left behind: it may be tried again. [`Error::Address`](crate::Error::Address) when it is none, [`Error::Gone`](crate::Error::Gone)
/// when the primary is gone, [`Error::NotStarted`](crate::Error::NotStarted) in a worker that has not reached `serve` or `start`.
///
/// # Cancel safety
///
/// Dropped before it completes, it leaves no listener.
pub fn listen(address: impl Into<Address>) -> Listen {
    Listen {
        binding: Binding::new(address.into()),
        max_connections: usize::MAX,
    }
}

/// A listener that is being described; made by [`listen`]. Awaited, it is a [`Listener`].
#[derive(Clone, Debug)]
#[must_use = "nothing is bound unless it is awaited"]
pub struct Listen {
    binding: Binding,
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
        self.binding.options.backlog = backlog;
        self
    }

    /// Binds in this process, for it alone: port 0 is a port of its own, and a second worker that wants the same port gets an error.
    pub fn exclusive(mut self) -> Self {
        self.binding.exclusive = true;
        self
    }

    /// Binds in this process with `SO_REUSEPORT`: every worker that does the same gets its part of the clients from the kernel.
    pub fn reuse_port(mut self) -> Self {
        self.binding.reuse_port();
        self
    }

    /// An IPv6 address takes IPv6 clients only. By default `[::]` takes IPv4 clients too.
    pub fn ipv6_only(mut self) -> Self {
        self.binding.options.ipv6_only = Some(true);
        self
    }

    /// Permissions of a unix socket's file, such as `0o660`. By default the umask's. Nobody can connect before they are set.
    pub fn mode(mut self, mode: u32) -> Self {
        self.binding.options.mode = Some(mode);
        self
    }

    async fn listen(mut self) -> Result<Listener> {
        self.binding.address = self.binding.address.absolute();
        match self.binding.binder(Place::Stream)? {
            Binder::Primary(worker, wanted) => {
                let (port, _) = Port::ask(&worker, wanted, self.max_connections).await?;
                Ok(Listener::shared(port))
            }
            Binder::Itself(worker) => {
                Listener::own(&self.binding, worker, self.max_connections).await
            }
        }
    }
}

impl IntoFuture for Listen {
    type Output = Result<Listener>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Listener>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.listen())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

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
