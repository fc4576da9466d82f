//! `cluster::bind_udp`: UDP sockets that all workers have.

use std::{
    fmt,
    future::{Future, IntoFuture},
    ops::Deref,
    pin::Pin,
};

use crate::{
    address::Address,
    birth::{Birth, birth},
    cluster,
    error::{Error, Result},
    listen::exclusively_the_primarys,
    sockets,
    wanted::{Options, Place, Wanted},
    worker::Port,
};

/// Binds a UDP socket (Node's `dgram` in a worker). A builder: await it.
///
/// In a worker it asks the primary, which binds once for all workers that ask for the same; all of them have the same socket, and the
/// kernel gives each datagram to one of those that wait for one. Port 0 and [`PrimaryFd`](crate::PrimaryFd) as in
/// [`listen`](cluster::listen). In a primary, and in a
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
/// As [`listen`](cluster::listen). A unix address is [`Error::Bind`].
///
/// # Cancel safety
///
/// Dropped before it completes, it leaves no socket.
pub fn bind_udp(address: impl Into<Address>) -> BindUdp {
    BindUdp {
        address: address.into(),
        options: Options {
            ipv6_only: Some(false),
            ..Options::default()
        },
        exclusive: false,
    }
}

/// A UDP socket that is being described; made by [`bind_udp`]. Awaited, it is a [`UdpSocket`].
#[derive(Clone, Debug)]
#[must_use = "nothing is bound unless it is awaited"]
pub struct BindUdp {
    address: Address,
    options: Options,
    exclusive: bool,
}

impl BindUdp {
    /// Binds in this process, for it alone.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// Binds in this process with `SO_REUSEPORT`: the kernel keeps each client with one worker.
    pub fn reuse_port(mut self) -> Self {
        self.options.reuse_port = true;
        self.exclusive()
    }

    /// An IPv6 address takes IPv6 datagrams only. By default `[::]` takes those of IPv4 too.
    pub fn ipv6_only(mut self) -> Self {
        self.options.ipv6_only = Some(true);
        self
    }

    async fn bind(self) -> Result<UdpSocket> {
        let worker = match birth() {
            Birth::Orphan(reason) => return Err(Error::Orphaned { reason }),
            Birth::Worker(_) => Some(cluster::worker().ok_or(Error::NotStarted)?),
            Birth::Plain | Birth::Successor(_) => cluster::worker(),
        };
        let address = self.address.clone();
        let (fd, port) = match worker {
            Some(worker) if worker.ports().can_ask() && !self.exclusive => {
                let wanted = Wanted {
                    place: Place::Datagram(self.address),
                    options: self.options,
                    index: 0,
                };
                let (port, mut fds) = Port::ask(&worker, wanted, usize::MAX).await?;
                let fd = fds.pop();
                let fd = fd.ok_or(Error::Protocol("an answer without its socket"))?;
                (fd, Some(port))
            }
            Some(worker) if worker.ports().can_ask() && address.is_primary_fd() => {
                return Err(exclusively_the_primarys(address));
            }
            _ => {
                let socket = sockets::Listener::datagram(&address, &self.options).await?;
                (socket.into_fd(), None)
            }
        };
        let socket = tokio::net::UdpSocket::from_std(fd.into());
        let socket = socket.map_err(|source| Error::Bind { address, source })?;
        Ok(UdpSocket {
            socket,
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
