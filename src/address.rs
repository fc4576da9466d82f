//! Where to listen: what a person passes, and what was bound.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::RawFd,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// An address to listen on, or one that is listened on.
///
/// Made from anything a person would pass: `"127.0.0.1:8000"`, `"localhost:8000"`, `("127.0.0.1", 8000)`, a [`SocketAddr`],
/// `"unix:/run/app.sock"`, [`PrimaryFd`]. Port 0 asks for any free port; all workers share it.
///
/// ```
/// use axum_cluster::Address;
///
/// assert_eq!(Address::from("unix:/run/app.sock").to_string(), "unix:/run/app.sock");
/// assert_eq!(Address::from(([127, 0, 0, 1], 8000)).socket_addr().unwrap().port(), 8000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Kind {
    Socket(SocketAddr),
    Unix(PathBuf),
    /// `host:port`, resolved when it is bound.
    Name(String),
    PrimaryFd(PrimaryFd),
}

/// A socket that the primary process has already, by the number of its descriptor (Node's `listen({ fd })`): say one that it was
/// started with. Asked for by a worker, the number is still the primary's.
///
/// A stream socket that is bound, or listens, for [`listen`](crate::cluster::listen) and [`bind`](crate::ClusteredServer::bind); one for
/// datagrams for [`bind_udp`](crate::cluster::bind_udp). It is made non-blocking. The descriptor stays the program's: with the cluster's
/// listener only a duplicate of it is closed, so that clients still connect, and wait, until the program closes it. Written as text it is
/// `fd:3`.
///
/// ```no_run
/// # use axum_cluster::{PrimaryFd, cluster};
/// # async fn listen() -> axum_cluster::Result<()> {
/// let listener = cluster::listen(PrimaryFd(3)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PrimaryFd(pub RawFd);

impl Address {
    /// The IP address and port; `None` for a unix socket, and for a host name that has not been looked up.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.0 {
            Kind::Socket(addr) => Some(addr),
            _ => None,
        }
    }

    /// The path of a unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Port 0: any that is free.
    pub(crate) fn is_any_port(&self) -> bool {
        match &self.0 {
            Kind::Socket(addr) => addr.port() == 0,
            Kind::Name(name) => name.ends_with(":0"),
            Kind::Unix(_) | Kind::PrimaryFd(_) => false,
        }
    }

    /// The same wherever it is looked at: a path is that of this process's directory.
    pub(crate) fn absolute(self) -> Self {
        match self.0 {
            Kind::Unix(path) => Self(Kind::Unix(std::path::absolute(&path).unwrap_or(path))),
            _ => self,
        }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    /// The primary has it already.
    pub(crate) fn is_primary_fd(&self) -> bool {
        matches!(self.0, Kind::PrimaryFd(_))
    }

    pub(crate) fn unix(path: PathBuf) -> Self {
        Self(Kind::Unix(path))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Socket(addr) => addr.fmt(f),
            Kind::Unix(path) => write!(f, "unix:{}", path.display()),
            Kind::Name(name) => f.write_str(name),
            Kind::PrimaryFd(PrimaryFd(number)) => write!(f, "fd:{number}"),
        }
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self(Kind::Unix(path.into()));
        }
        if let Some(Ok(number)) = text.strip_prefix("fd:").map(str::parse) {
            return Self::from(PrimaryFd(number));
        }
        Self(
            text.parse()
                .map_or_else(|_| Kind::Name(text.to_owned()), Kind::Socket),
        )
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<PrimaryFd> for Address {
    fn from(fd: PrimaryFd) -> Self {
        Self(Kind::PrimaryFd(fd))
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self(Kind::Socket(addr))
    }
}

macro_rules! from_ip_and_port {
    ($($ip:ty),*) => {$(
        impl From<($ip, u16)> for Address {
            fn from(addr: ($ip, u16)) -> Self {
                Self(Kind::Socket(addr.into()))
            }
        }
    )*};
}

// Not one generic impl: it would overlap with the one for `(&str, u16)`.
from_ip_and_port!(IpAddr, Ipv4Addr, Ipv6Addr, [u8; 4], [u16; 8]);

impl From<(&str, u16)> for Address {
    fn from((host, port): (&str, u16)) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self::from((ip, port)),
            Err(_) => Self(Kind::Name(format!("{host}:{port}"))),
        }
    }
}

/// One address or several, for [`ClusteredServer::bind`](crate::ClusteredServer::bind).
pub trait Addresses {
    /// The addresses, in order.
    fn addresses(self) -> Vec<Address>;
}

impl<A: Into<Address>> Addresses for A {
    fn addresses(self) -> Vec<Address> {
        vec![self.into()]
    }
}

impl<A: Into<Address>, const N: usize> Addresses for [A; N] {
    fn addresses(self) -> Vec<Address> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<A: Into<Address>> Addresses for Vec<A> {
    fn addresses(self) -> Vec<Address> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<A: Into<Address> + Clone> Addresses for &[A] {
    fn addresses(self) -> Vec<Address> {
        self.iter().cloned().map(Into::into).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_a_person_would_pass() {
        let v6: SocketAddr = "[::1]:8000".parse().unwrap();
        for (given, shown) in [
            ("127.0.0.1:8000".addresses(), "127.0.0.1:8000"),
            ("localhost:8000".addresses(), "localhost:8000"),
            (("localhost", 8000).addresses(), "localhost:8000"),
            (("127.0.0.1", 8000).addresses(), "127.0.0.1:8000"),
            (([127, 0, 0, 1], 0).addresses(), "127.0.0.1:0"),
            (v6.addresses(), "[::1]:8000"),
            ("unix:/run/x".to_owned().addresses(), "unix:/run/x"),
            (PrimaryFd(3).addresses(), "fd:3"),
            ("fd:3".addresses(), "fd:3"),
        ] {
            assert_eq!(given.len(), 1);
            assert_eq!(given[0].to_string(), shown);
        }
        assert_eq!(["127.0.0.1:1", "unix:/x"].addresses().len(), 2);
        assert_eq!(vec![v6, v6].addresses().len(), 2);
    }
}
