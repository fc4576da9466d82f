//! The floor: one thread, one level-triggered epoll, a response that is ready, no HTTP beyond finding the end of a head.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Socket, Type};

use crate::{Result, peers};

pub(crate) fn serve() -> Result<()> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(1024)?;
    peers::announce(listener.local_addr()?.as_socket().ok_or("no address")?)?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            if event.data.u64() != LISTENER {
                let slot = event.data.u64() as usize;
                if !connections[slot].as_mut().is_some_and(Connection::answer) {
                    connections[slot] = None; // closes it, which takes it out of the epoll
                    free.push(slot);
                }
                continue;
            }
            while let Ok(stream) =
                accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
            {
                let slot = free.pop().unwrap_or_else(|| {
                    connections.push(None);
                    connections.len() - 1
                });
                epoll::add(
                    &epoll,
                    &stream,
                    EventData::new_u64(slot as u64),
                    EventFlags::IN,
                )?;
                connections[slot] = Some(Connection {
                    stream: stream.into(),
                    beginning: Vec::new(),
                });
            }
        }
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

const LISTENER: u64 = u64::MAX;
const CLOSE: &[u8] = b"connection: close";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 11\r\n\
    date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello world";
const CLOSING_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 11\r\n\
    connection: close\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello world";
