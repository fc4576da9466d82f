//! One connection of the client's: blocking, every step within a deadline.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Outcome, Source, Target};

/// A connection to the server, and what was read of it beyond the last response.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    read: Vec<u8>,
    deadline: Instant,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The server closes the connection after it.
    pub(crate) closes: bool,
    head: String,
}

impl Response {
    /// Of another protocol, with its headers written as HTTP/1.1 has them.
    pub(super) fn new(status: u16, headers: &HeaderMap, body: Vec<u8>) -> Self {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("\r\n{name}: {}", value.to_str().unwrap_or_default())
        };
        Self {
            status,
            body,
            closes: false,
            head: headers.iter().map(line).collect(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// A header that is a number; 0 without.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.header(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'));
    lines
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

impl Wire {
    pub(crate) fn connect(
        target: &Target,
        source: Source,
        deadline: Instant,
    ) -> Result<Self, Outcome> {
        let stream = match target {
            Target::Tcp(addr) => tcp(*addr, source, deadline).map(Stream::Tcp),
            Target::Unix(path) => unix(path, deadline).map(Stream::Unix),
        };
        match stream {
            Ok(stream) => Ok(Self {
                stream,
                read: Vec::new(),
                deadline,
            }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Outcome::Refused,
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Outcome::Timeout,
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Outcome::Reset,
                // Ports or descriptors of the client's own have run out: then it can say nothing about the server.
                _ => panic!("the client cannot connect: {error}"),
            }),
        }
    }

    /// To any server of a test, with the usual deadline.
    pub(crate) fn to(target: impl Into<Target>) -> Result<Self, Outcome> {
        Self::connect(
            &target.into(),
            Source::ANY,
            Instant::now() + super::DEADLINE,
        )
    }

    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Writes a request, or part of one.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Outcome> {
        let left = self.left()?;
        let written = match &mut self.stream {
            Stream::Tcp(stream) => stream
                .set_write_timeout(Some(left))
                .and_then(|()| stream.write_all(bytes)),
            Stream::Unix(stream) => stream
                .set_write_timeout(Some(left))
                .and_then(|()| stream.write_all(bytes)),
        };
        written.map_err(|error| {
            if is_timeout(&error) {
                Outcome::Timeout
            } else {
                Outcome::WriteError
            }
        })
    }

    /// A GET and its answer, on a connection that stays.
    pub(crate) fn get(&mut self, path: &str) -> Result<Response, Outcome> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
        self.response()
    }

    /// Reads one response to its end.
    pub(crate) fn response(&mut self) -> Result<Response, Outcome> {
        let mut response = self.head()?;
        response.body = match (
            response.header("content-length"),
            response.header("transfer-encoding"),
        ) {
            (Some(length), _) => {
                let length = length.parse().map_err(|_| Outcome::BadStatus)?;
                self.take(length)?
            }
            (None, Some(_)) => self.chunks()?,
            (None, None) => Vec::new(),
        };
        Ok(response)
    }

    /// Reads the head of a response alone, as after HEAD, or to read its body [piece by piece](Self::take).
    pub(crate) fn head(&mut self) -> Result<Response, Outcome> {
        let end = loop {
            if let Some(at) = self
                .read
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.more(if self.read.is_empty() {
                Outcome::Reset
            } else {
                Outcome::Cut
            })?;
        };
        let head =
            String::from_utf8(self.read.drain(..end).collect()).map_err(|_| Outcome::BadStatus)?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or(Outcome::BadStatus)?;
        let closes =
            header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok(Response {
            status,
            body: Vec::new(),
            closes,
            head,
        })
    }

    /// Says that nothing more will be sent.
    pub(crate) fn shut_down_writing(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Reads so many bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<Vec<u8>, Outcome> {
        while self.read.len() < length {
            self.more(Outcome::Cut)?;
        }
        Ok(self.read.drain(..length).collect())
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Outcome> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = self.read.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                self.more(Outcome::Cut)?;
            };
            let line: Vec<u8> = self.read.drain(..end + 2).collect();
            let size = str::from_utf8(&line[..end])
                .ok()
                .and_then(|size| usize::from_str_radix(size.trim(), 16).ok())
                .ok_or(Outcome::BadBody)?;
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Reads some more; `ended` is what it means when nothing more comes.
    fn more(&mut self, ended: Outcome) -> Result<(), Outcome> {
        let left = self.left()?;
        let mut buffer = [0; 16 * 1024];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream
                .set_read_timeout(Some(left))
                .and_then(|()| stream.read(&mut buffer)),
            Stream::Unix(stream) => stream
                .set_read_timeout(Some(left))
                .and_then(|()| stream.read(&mut buffer)),
        };
        match read {
            Ok(n) if n > 0 => {
                self.read.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) if is_timeout(&error) => Err(Outcome::Timeout),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Ok(_) | Err(_) => Err(ended),
        }
    }

    fn left(&self) -> Result<Duration, Outcome> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(Outcome::Timeout)
        } else {
            Ok(left)
        }
    }
}

fn tcp(addr: SocketAddr, Source(source): Source, deadline: Instant) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(
        &addr.into(),
        deadline.saturating_duration_since(Instant::now()),
    )?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn unix(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Waits for room in the backlog no longer than this.
    socket.set_write_timeout(Some(deadline.saturating_duration_since(Instant::now())))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
