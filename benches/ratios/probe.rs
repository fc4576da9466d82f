//! When does a server answer? Asked with a new connection every millisecond, so that neither a refused nor a swallowed one
//! costs precision.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use crate::{Result, response};

/// The moment of the first complete answer. `alive` is asked now and then, and ends it with its error.
pub(crate) fn until_answered(
    address: SocketAddrV4,
    within: Duration,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<Instant> {
    let deadline = Instant::now() + within;
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Err(format!("no answer from {address} within {within:?}").into());
        }
        if now >= next {
            alive()?;
            next = now + EVERY;
            if attempts.len() >= AT_ONCE {
                attempts.remove(0);
            }
            attempts.extend(Attempt::new(address));
        }
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: (next - now).min(EVERY).subsec_nanos().into(),
        };
        let mut fds: Vec<_> = attempts
            .iter()
            .map(|attempt| PollFd::new(&attempt.stream, PollFlags::IN))
            .collect();
        if poll(&mut fds, Some(&wait))? == 0 {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut index = 0;
        let mut answered = false;
        let mut wrong = None;
        attempts.retain_mut(|attempt| {
            index += 1;
            if !ready[index - 1] {
                return true;
            }
            match attempt.advance() {
                State::Waiting => return true,
                State::Answered => answered = true,
                State::Lost => {}
                State::Wrong(answer) => wrong = Some(answer),
            }
            false
        });
        if let Some(wrong) = wrong {
            return Err(wrong.into());
        }
        if answered {
            return Ok(Instant::now());
        }
    }
}

struct Attempt {
    stream: TcpStream,
    read: Vec<u8>,
}

enum State {
    Waiting,
    Answered,
    /// Closed or reset: may happen while a server comes up or a worker is gone.
    Lost,
    /// Not the answer of the server that was started.
    Wrong(String),
}

impl Attempt {
    fn new(address: SocketAddrV4) -> Option<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).ok()?;
        // Never from the server's own address: a port that nobody listens on could be connected to itself.
        socket
            .bind(&SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0).into())
            .ok()?;
        socket.connect(&address.into()).ok()?; // on loopback this ends at once, well or not
        let mut stream = TcpStream::from(socket);
        stream.set_nonblocking(true).ok()?;
        stream.write_all(REQUEST).ok()?;
        Some(Self {
            stream,
            read: Vec::new(),
        })
    }

    fn advance(&mut self) -> State {
        let mut buffer = [0; 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => return State::Lost,
            Ok(n) => self.read.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return State::Waiting,
            Err(_) => return State::Lost,
        }
        match response::is_complete(&self.read, response::HELLO) {
            Ok(true) => State::Answered,
            Ok(false) => State::Waiting,
            Err(answer) => State::Wrong(answer),
        }
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
const EVERY: Duration = Duration::from_millis(1);
const AT_ONCE: usize = 256;
