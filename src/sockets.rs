//! Listening sockets of the primary, and the streams that workers make of what they are handed.

mod early;
mod file;
mod numbered;
mod stream;

use std::{
    fs::Permissions,
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use socket2::{Domain, SockAddr, Socket, Type};

use file::SocketFile;

pub(crate) use early::Early;
pub(crate) use stream::Stream;

use crate::{
    address::{Address, Kind},
    error::{Error, Result},
    wanted::Options,
};

/// A socket that listens, and what is to be removed with it.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    pub(crate) local: Address,
    file: Option<SocketFile>,
}

impl Listener {
    /// Binds and listens. A host name is looked up, and the first of its addresses that can be had is used.
    pub(crate) async fn bind(address: &Address, backlog: u32) -> Result<Self> {
        let options = Options {
            backlog,
            ..Options::default()
        };
        Self::bind_as(address, &options).await
    }

    /// As [`bind`](Self::bind), and as it is told.
    pub(crate) async fn bind_as(address: &Address, options: &Options) -> Result<Self> {
        let bound = match address.kind() {
            Kind::Socket(addr) => Self::tcp(*addr, options),
            Kind::Unix(path) => Self::unix(path, options).await,
            Kind::PrimaryFd(fd) => Self::numbered(*fd, options),
            Kind::Name(name) => Self::first_of(name, |addr| Self::tcp(addr, options)).await?,
        };
        bound.map_err(|source| Error::Bind {
            address: address.clone(),
            source,
        })
    }

    /// Binds a UDP socket, which does not listen but is looked after all the same.
    pub(crate) async fn datagram(address: &Address, options: &Options) -> Result<Self> {
        let udp = |addr| inet(addr, Type::DGRAM, options).and_then(Self::bound);
        let bound = match address.kind() {
            Kind::Socket(addr) => udp(*addr),
            Kind::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            Kind::PrimaryFd(fd) => Self::numbered_datagram(*fd),
            Kind::Name(name) => Self::first_of(name, udp).await?,
        };
        bound.map_err(|source| Error::Bind {
            address: address.clone(),
            source,
        })
    }

    /// The first of a host's addresses that can be had, or why the last one cannot; an error where the name means nothing.
    async fn first_of(
        name: &str,
        bind: impl Fn(SocketAddr) -> io::Result<Self>,
    ) -> Result<io::Result<Self>> {
        let addresses = tokio::net::lookup_host(name).await;
        let addresses = addresses.map_err(|source| Error::Address {
            given: name.to_owned(),
            source,
        })?;
        let mut bound = Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
        for addr in addresses {
            bound = bind(addr);
            if bound.is_ok() {
                break;
            }
        }
        Ok(bound)
    }

    /// A socket that only has to be kept.
    fn bound(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            fd: socket.into(),
            local: Address::from(local),
            file: None,
        })
    }

    /// A duplicate of the socket, for another process.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// The socket itself.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Takes a socket that listens already.
    pub(crate) fn ready_made(fd: OwnedFd) -> Result<Self> {
        let failed = |source| Error::System {
            doing: "use the listener made by `bind_with`",
            source,
        };
        let socket = Socket::from(fd);
        if !socket.is_listener().map_err(failed)? {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "this socket does not listen",
            )));
        }
        Self::finish(socket, None).map_err(failed)
    }

    /// Takes over a socket that the program before this one bound; with its file, if it made that.
    ///
    /// `asked`: the address that it was bound to, which knows a path that is too long for the system.
    pub(crate) fn inherited(
        fd: OwnedFd,
        has_file: bool,
        asked: Option<Address>,
    ) -> io::Result<Self> {
        if rustix::net::sockopt::socket_type(&fd)? == rustix::net::SocketType::DGRAM {
            return Self::bound(Socket::from(fd));
        }
        let mut listener = Self::finish(Socket::from(fd), None)?;
        if let Some(asked) = asked.filter(|asked| asked.unix_path().is_some()) {
            listener.local = asked.absolute();
        }
        if let (true, Some(path)) = (has_file, listener.local.unix_path()) {
            // A file that somebody has removed meanwhile is nobody's any more.
            listener.file = SocketFile::new(path.to_owned()).ok();
        }
        Ok(listener)
    }

    /// Whether a file of its own goes with it.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    fn tcp(addr: SocketAddr, options: &Options) -> io::Result<Self> {
        let socket = inet(addr, Type::STREAM, options)?;
        socket.listen(options.backlog())?;
        Self::finish(socket, None)
    }

    async fn unix(path: &Path, options: &Options) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let lock = file::lock_directory_of(&path).await?;
        let short = file::short(&path, &lock);
        file::remove_stale(&path, &short)?;
        socket.bind(&SockAddr::unix(short)?)?;
        let file = SocketFile::new(path)?;
        if let Some(mode) = options.mode {
            // Nobody can connect before `listen`.
            std::fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
        }
        socket.listen(options.backlog())?;
        drop(lock);
        let local = Address::unix(file.path.clone());
        let mut listener = Self::finish(socket, Some(file))?;
        listener.local = local;
        Ok(listener)
    }

    fn finish(socket: Socket, file: Option<SocketFile>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        let local = socket.local_addr()?;
        let local = match (local.as_socket(), local.as_pathname()) {
            (Some(addr), _) => {
                // Accepted sockets inherit it: a system call a connection saved.
                socket.set_tcp_nodelay(true)?;
                Address::from(addr)
            }
            (None, Some(path)) => Address::unix(path.to_owned()),
            (None, None) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither an IP nor a unix path listener",
                ));
            }
        };
        Ok(Self {
            fd: socket.into(),
            local,
            file,
        })
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket that is bound and no more.
fn inet(addr: SocketAddr, kind: Type, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    if let (Some(only), true) = (options.ipv6_only, addr.is_ipv6()) {
        socket.set_only_v6(only)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Accepts one connection: non-blocking and CLOEXEC from birth, with its peer in the same system call.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    use rustix::net::{SocketFlags, acceptfrom_with};
    let (fd, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    Ok((fd, peer.and_then(|peer| peer.try_into().ok())))
}

/// Ends listening in every process that holds the socket, also in one that is stopped: who comes from now on is refused, and does not wait
/// for the last of them to let it go, which resets it.
pub(crate) fn stop_listening(listener: impl AsFd) {
    // Fails only where nobody listens any more.
    let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Read);
}

/// Whether nobody [listens](stop_listening) there any more.
pub(crate) fn is_stopped(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

/// Whether descriptors or memory are used up: the connection waits on, and so must who accepts.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("axum-cluster-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory.join("s.sock")
    }

    #[tokio::test]
    async fn nobody_comes_to_a_listener_that_was_stopped_whoever_holds_it() {
        let path = scratch("stopped");
        let _ = std::fs::remove_file(&path);
        let unix = format!("unix:{}", path.display());
        for address in ["127.0.0.1:0", &unix] {
            let listener = Listener::bind(&address.into(), 16).await.unwrap();
            let held = listener.as_fd().try_clone_to_owned().unwrap();
            stop_listening(&listener);
            let refused = match listener.local.socket_addr() {
                Some(addr) => std::net::TcpStream::connect(addr).err(),
                None => UnixStream::connect(&path).err(),
            };
            assert_eq!(refused.unwrap().kind(), io::ErrorKind::ConnectionRefused);
            let error = accept(&held).unwrap_err();
            let nobody = error.kind() == io::ErrorKind::WouldBlock;
            assert!(nobody || is_stopped(&error), "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = Listener::bind(&"127.0.0.1:0".into(), 16).await.unwrap();
        let error = Listener::bind(&first.local, 16).await.unwrap_err();
        assert!(
            error.to_string().contains(&first.local.to_string()),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_unknown_host_is_a_bad_address() {
        for bad in ["no such host:80", "127.0.0.1", "127.0.0.1:99999", ""] {
            assert!(
                matches!(
                    Listener::bind(&bad.into(), 16).await,
                    Err(Error::Address { .. })
                ),
                "{bad}"
            );
        }
    }

    // T16, the part of a server's own socket.
    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let path = scratch("stale");
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&Address::unix(path.clone()), 16)
            .await
            .unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(matches!(
            Listener::bind(&Address::unix(path.clone()), 16).await,
            Err(Error::Bind { .. })
        ));
        UnixStream::connect(&path).expect("the live one is still there");
        drop(listener);
        assert!(!path.exists(), "removed with its listener");

        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Listener::bind(&Address::unix(path.clone()), 16).await,
            Err(Error::Bind { .. })
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_took_our_place_is_left_alone() {
        let path = scratch("place");
        let listener = Listener::bind(&Address::unix(path.clone()), 16)
            .await
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listener);
        UnixStream::connect(&path).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_ready_made_socket_must_listen() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(Listener::ready_made(socket.into()).is_err());
        assert!(
            Listener::ready_made(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into())
                .is_ok()
        );
    }
}
