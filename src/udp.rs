//! `cluster::bind_udp`: UDP sockets that all workers have.

use std::{
    fmt,
    future::{Future, IntoFuture},
    ops::Deref,
    pin::Pin,
};

use crate::{
    address::Address,
    binding::{Binder, Binding},
    error::{Error, Result},
    sockets,
    wanted::Place,
    worker::Port,
};

/// Binds a UDP socket (Node's `dgram` in a worker). A builder: await it.
///
/// In a worker it asks the primary, which binds once for all workers that ask for the same; all of them have the same socket, and the
/// kernel gives each datagram to one of those that wait for one. Port 0 and [`PrimaryFd`](crate::PrimaryFd) as in
/// [`listen`](crate::cluster::listen). In a primary, and in a
/// program that is no cluster, it binds by itself.
///
/// ```no_run
/// # use axum_cluster::cluster;
/// # async fn echo() -> Result<(), Box<dyn std::error::Error>> {
/// let socket = cluster::bind_udp("127.0.0.1:9000").await?;
/// let mut buffer = [0; 1500];
/// loop {
///     let (size, peer) = socket.recv_from(&mut buffer).await?;
///     socket.send_to(&buffer[..size], peer).await?;
/// }
/// # }
/// ```
///
/// # Errors
///
/// As [`listen`](crate::cluster::listen). A unix address is [`Error::Bind`](crate::Error::Bind).
///
/// # Cancel safety
///
/// Dropped before it completes, it leaves no socket.
pub fn bind_udp(address: impl Into<Address>) -> BindUdp {
    BindUdp {
        binding: Binding::new(address.into()),
    }
}

/// A UDP socket that is being described; made by [`bind_udp`]. Awaited, it is a [`UdpSocket`].
#[derive(Clone, Debug)]
#[must_use = "nothing is bound unless it is awaited"]
pub struct BindUdp {
    binding: Binding,
}

impl BindUdp {
    /// Binds in this process, for it alone.
    pub fn exclusive(mut self) -> Self {
        self.binding.exclusive = true;
        self
    }

    /// Binds in this process with `SO_REUSEPORT`: the kernel keeps each client with one worker.
    pub fn reuse_port(mut self) -> Self {
        self.binding.reuse_port();
        self
    }

    /// An IPv6 address takes IPv6 datagrams only. By default `[::]` takes those of IPv4 too.
    pub fn ipv6_only(mut self) -> Self {
        self.binding.options.ipv6_only = Some(true);
        self
    }

    async fn bind(self) -> Result<UdpSocket> {
        let Self { binding } = self;
        let (fd, port) = match binding.binder(Place::Datagram)? {
            Binder::Primary(worker, wanted) => {
                let (port, mut fds) = Port::ask(&worker, wanted, usize::MAX).await?;
                let fd = fds.pop();
                let fd = fd.ok_or(Error::Protocol("an answer without its socket"))?;
                (fd, Some(port))
            }
            Binder::Itself(_) => {
                let socket =
                    sockets::Listener::datagram(&binding.address, &binding.options).await?;
                (socket.into_fd(), None)
            }
        };
        let socket = tokio::net::UdpSocket::from_std(fd.into());
        Ok(UdpSocket {
            socket: socket.map_err(|source| binding.failed(source))?,
            _port: port,
        })
    }
}

impl IntoFuture for BindUdp {
    type Output = Result<UdpSocket>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<UdpSocket>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.bind())
    }
}

/// A UDP socket made by [`bind_udp`]: a [`tokio::net::UdpSocket`] that the workers of a cluster share. With the last of them it is closed.
pub struct UdpSocket {
    socket: tokio::net::UdpSocket,
    /// After the socket itself: says that this worker has it no more.
    _port: Option<Port>,
}

impl Deref for UdpSocket {
    type Target = tokio::net::UdpSocket;

    fn deref(&self) -> &tokio::net::UdpSocket {
        &self.socket
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}
