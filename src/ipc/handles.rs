//! Descriptors that come with messages, as what they are.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};

use crate::{
    error::{Error, Result},
    message::Message,
};

/// Descriptors by kind: each takes the message's next one, checks what it is by asking the kernel, and makes it non-blocking. Called
/// within a tokio runtime.
///
/// One of another kind stays where it is, and the error says what was expected: [`take_fds`](Self::take_fds) gets it as it is.
impl Message {
    /// A TCP socket that listens. Sender and receiver share its queue: both accept.
    ///
    /// # Errors
    ///
    /// [`Error::WrongFd`] when there is none or it is something else, [`Error::System`] when the runtime cannot take it.
    pub fn take_tcp_listener(&self) -> Result<TcpListener> {
        let fd = self.next_fd("listening TCP socket", |fd| is_tcp(fd) && listens(fd))?;
        system(nonblocking(fd).and_then(|fd| TcpListener::from_std(fd.into())))
    }

    /// A TCP connection.
    ///
    /// # Errors
    ///
    /// As [`take_tcp_listener`](Self::take_tcp_listener).
    pub fn take_tcp_stream(&self) -> Result<TcpStream> {
        let fd = self.next_fd("TCP connection", |fd| is_tcp(fd) && !listens(fd))?;
        system(nonblocking(fd).and_then(|fd| TcpStream::from_std(fd.into())))
    }

    /// A connection of a unix socket.
    ///
    /// # Errors
    ///
    /// As [`take_tcp_listener`](Self::take_tcp_listener).
    pub fn take_unix_stream(&self) -> Result<UnixStream> {
        let fd = self.next_fd("unix stream", |fd| {
            is(fd, &[AddressFamily::UNIX], SocketType::STREAM) && !listens(fd)
        })?;
        system(nonblocking(fd).and_then(|fd| UnixStream::from_std(fd.into())))
    }

    /// A UDP socket.
    ///
    /// # Errors
    ///
    /// As [`take_tcp_listener`](Self::take_tcp_listener).
    pub fn take_udp_socket(&self) -> Result<UdpSocket> {
        let inet = [AddressFamily::INET, AddressFamily::INET6];
        let fd = self.next_fd("UDP socket", |fd| is(fd, &inet, SocketType::DGRAM))?;
        system(nonblocking(fd).and_then(|fd| UdpSocket::from_std(fd.into())))
    }

    fn next_fd(&self, expected: &'static str, is_it: impl Fn(&OwnedFd) -> bool) -> Result<OwnedFd> {
        self.fds(|fds| fds.first().is_some_and(is_it).then(|| fds.remove(0)))
            .flatten()
            .ok_or(Error::WrongFd { expected })
    }
}

fn is(fd: &OwnedFd, families: &[AddressFamily], kind: SocketType) -> bool {
    sockopt::socket_domain(fd).is_ok_and(|family| families.contains(&family))
        && sockopt::socket_type(fd) == Ok(kind)
}

fn is_tcp(fd: &OwnedFd) -> bool {
    is(
        fd,
        &[AddressFamily::INET, AddressFamily::INET6],
        SocketType::STREAM,
    )
}

fn listens(fd: &OwnedFd) -> bool {
    sockopt::socket_acceptconn(fd) == Ok(true)
}

fn nonblocking(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
    Ok(fd)
}

fn system<T>(made: std::io::Result<T>) -> Result<T> {
    made.map_err(|source| Error::System {
        doing: "use a descriptor that came with a message",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fds: Vec<OwnedFd>) -> Message {
        Message::received_with(bytes::Bytes::new(), fds, None)
    }

    // I-10, I-11, L-9.
    #[tokio::test]
    async fn each_is_taken_as_what_it_is_and_in_order() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let message = message(vec![
            listener.into(),
            stream.into(),
            unix.into(),
            udp.into(),
        ]);
        assert!(matches!(
            message.take_tcp_stream(),
            Err(Error::WrongFd { .. })
        ));
        assert!(matches!(
            message.take_udp_socket(),
            Err(Error::WrongFd { .. })
        ));
        let listener = message.take_tcp_listener().unwrap();
        assert!(matches!(
            message.take_tcp_listener(),
            Err(Error::WrongFd { .. })
        ));
        message.take_tcp_stream().unwrap();
        assert!(matches!(
            message.take_tcp_stream(),
            Err(Error::WrongFd { .. })
        ));
        message.take_unix_stream().unwrap();
        message.take_udp_socket().unwrap();
        assert!(message.take_fds().is_empty());
        // Non-blocking, or this would wait for ever instead of asking the runtime.
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let message = message(vec![std::fs::File::open("/dev/null").unwrap().into()]);
        assert!(message.take_unix_stream().is_err());
        assert_eq!(message.take_fds().len(), 1);
    }
}
