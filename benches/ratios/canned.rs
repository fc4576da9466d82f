//! The floor: one thread, one level-triggered epoll, a response that is ready, no HTTP beyond finding the end of a head.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Socket, Type};

use crate::{Result, peers};

pub(crate) fn serve() -> Result<()> {
    let listener = listen()?;
    let mut connections = Connections::beside(&listener)?;
    loop {
        if connections.answer_those_that_ask()? {
            while let Ok(stream) =
                accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
            {
                connections.add(stream)?;
            }
        }
    }
}

/// A listener on a free port, which it says.
pub(crate) fn listen() -> Result<Socket> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(1024)?;
    peers::announce(listener.local_addr()?.as_socket().ok_or("no address")?)?;
    Ok(listener)
}

/// Open connections, in an epoll with the socket that they come from.
pub(crate) struct Connections {
    epoll: OwnedFd,
    open: Vec<Option<Connection>>,
    free: Vec<usize>,
}

impl Connections {
    pub(crate) fn beside(source: impl AsFd) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(SOURCE);
        epoll::add(&epoll, source, data, EventFlags::IN)?;
        Ok(Self {
            epoll,
            open: Vec::new(),
            free: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, stream: OwnedFd) -> Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            self.open.len() - 1
        });
        let data = EventData::new_u64(slot as u64);
        epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
        self.open[slot] = Some(Connection {
            stream: stream.into(),
            beginning: Vec::new(),
        });
        Ok(())
    }

    /// Waits once, and answers who asks. True: there are new connections.
    pub(crate) fn answer_those_that_ask(&mut self) -> Result<bool> {
        let mut events = [const { MaybeUninit::uninit() }; 256];
        let (events, _) = match epoll::wait(&self.epoll, &mut events, None) {
            Ok(events) => events,
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut new = false;
        for event in events {
            if event.data.u64() == SOURCE {
                new = true;
                continue;
            }
            let slot = event.data.u64() as usize;
            if !self.open[slot].as_mut().is_some_and(Connection::answer) {
                self.open[slot] = None; // closes it, which takes it out of the epoll
                self.free.push(slot);
            }
        }
        Ok(new)
    }
}

struct Connection {
    stream: TcpStream,
    /// Of a head that has not ended yet.
    beginning: Vec<u8>,
}

impl Connection {
    /// Reads once and answers if that was the end of a head. False: close it.
    fn answer(&mut self) -> bool {
        let mut buffer = [0; 2048];
        let mut head = match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => &buffer[..n],
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        if !self.beginning.is_empty() || !head.ends_with(b"\r\n\r\n") {
            self.beginning.extend_from_slice(head);
            head = &self.beginning;
        }
        if !head.ends_with(b"\r\n\r\n") {
            return head.len() < 64 * 1024;
        }
        let close = head
            .windows(CLOSE.len())
            .any(|part| part.eq_ignore_ascii_case(CLOSE));
        let sent = self
            .stream
            .write_all(if close { CLOSING_RESPONSE } else { RESPONSE })
            .is_ok();
        self.beginning.clear();
        sent && !close
    }
}

const SOURCE: u64 = u64::MAX;
const CLOSE: &[u8] = b"connection: close";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 11\r\n\
    date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello world";
const CLOSING_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 11\r\n\
    connection: close\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello world";
