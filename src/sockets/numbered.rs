//! Sockets that this process has already, known by the number of their descriptor.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::{Socket, Type};

use super::Listener;
use crate::{address::PrimaryFd, ipc::datagram, wanted::Options};

impl Listener {
    /// Takes a socket that is bound, or listens already, by its number.
    pub(super) fn numbered(fd: PrimaryFd, options: &Options) -> io::Result<Self> {
        let socket = duplicate(fd, Type::STREAM, "it is no stream socket")?;
        if !socket.is_listener()? {
            let unbound = || refused(fd, "it is neither bound nor listens");
            let bound = socket.local_addr()?;
            let bound = bound.as_socket().is_none_or(|addr| addr.port() != 0);
            if !bound || socket.peer_addr().is_ok() {
                return Err(unbound());
            }
            socket.listen(options.backlog()).map_err(|_| unbound())?;
        }
        Self::finish(socket, None)
    }

    pub(super) fn numbered_datagram(fd: PrimaryFd) -> io::Result<Self> {
        Self::bound(duplicate(fd, Type::DGRAM, "it is no socket for datagrams")?)
    }
}

/// A duplicate of a descriptor that is known by nothing but its number.
///
/// The number may be any, so it cannot be borrowed: the kernel is asked to send it, from this process to this process, and what arrives
/// is owned. Unlike `pidfd_getfd` that needs neither a privilege in a container nor Linux 5.6.
fn duplicate(fd: PrimaryFd, kind: Type, otherwise: &str) -> io::Result<Socket> {
    let (ours, theirs) = datagram::pair()?;
    let numbers = [fd.0];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let (bytes, flags) = ([IoSlice::new(&[0])], MsgFlags::MSG_DONTWAIT);
    sendmsg::<()>(ours.as_raw_fd(), &bytes, &rights, flags, None)
        .map_err(|_| refused(fd, "the primary has no descriptor of this number"))?;
    let received = datagram::receive(&theirs, &mut [0])?.fds.pop();
    let received: OwnedFd = received.ok_or(io::ErrorKind::NotFound)?;
    let socket = Socket::from(received);
    match socket.r#type() {
        Ok(found) if found == kind => Ok(socket),
        _ => Err(refused(fd, otherwise)),
    }
}

fn refused(PrimaryFd(number): PrimaryFd, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("descriptor {number} of the primary cannot be used: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::address::Address;

    async fn bind(fd: &impl AsRawFd) -> Result<Listener, String> {
        let address = Address::from(PrimaryFd(fd.as_raw_fd()));
        let bound = Listener::bind(&address, 16).await;
        bound.map_err(|error| format!("{error:?}"))
    }

    // L-8: what listens, or could, and nothing else.
    #[tokio::test]
    async fn a_socket_of_this_process_is_taken_by_its_number() {
        let made = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = bind(&made).await.unwrap();
        let addr = made.local_addr().unwrap();
        assert_eq!(listener.local.socket_addr(), Some(addr));
        drop(listener);
        let client = TcpStream::connect(addr).expect("the program's own descriptor is open still");

        let bound = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(bind(&bound).await.unwrap_err().contains("neither bound"));
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        bound.bind(&any.into()).unwrap();
        let listener = bind(&bound).await.unwrap();
        TcpStream::connect(listener.local.socket_addr().unwrap()).unwrap();

        assert!(bind(&client).await.unwrap_err().contains("neither bound"));
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(bind(&pair.0).await.unwrap_err().contains("neither bound"));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(bind(&file).await.unwrap_err().contains("no stream socket"));
        assert!(bind(&-1).await.unwrap_err().contains("of this number"));
        assert!(
            bind(&1_000_000)
                .await
                .unwrap_err()
                .contains("of this number")
        );

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(bind(&udp).await.unwrap_err().contains("no stream socket"));
        let numbered = |fd: &dyn AsRawFd| Listener::numbered_datagram(PrimaryFd(fd.as_raw_fd()));
        assert!(numbered(&udp).is_ok() && numbered(&made).is_err());
    }
}
