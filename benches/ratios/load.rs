//! The client: a closed loop of C connections on one thread and one epoll, with as few syscalls as it takes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::{Result, response};

/// What each of the client's connections does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Traffic {
    /// One request after the other on a connection that stays open.
    KeepAlive,
    /// Connect, one request with `Connection: close`, read to the end of the stream, close.
    NewConnection,
}

/// What came of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Requests answered with 200 and the right body.
    pub(crate) answered: u64,
    pub(crate) wall: Duration,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn fail(&mut self, failure: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(failure);
    }

    /// # Errors
    ///
    /// When a request failed, or none was answered.
    pub(crate) fn without_failures(self) -> Result<Self> {
        match &self.first_failure {
            Some(first) => Err(format!(
                "{} requests failed, {} did not; the first: {first}",
                self.failed, self.answered
            )
            .into()),
            None if self.answered == 0 => Err("no request was answered".into()),
            None => Ok(self),
        }
    }
}

/// A client, and the connections it keeps between runs.
#[derive(Debug)]
pub(crate) struct Load {
    epoll: OwnedFd,
    server: SocketAddrV4,
    traffic: Traffic,
    slots: Vec<Option<Connection>>,
    opened: usize,
}

impl Load {
    pub(crate) fn new(server: SocketAddrV4, traffic: Traffic, connections: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let slots = std::iter::repeat_with(|| None).take(connections).collect();
        Ok(Self {
            epoll,
            server,
            traffic,
            slots,
            opened: 0,
        })
    }

    /// Requests for so long, then waits for the answers that are still out: nothing is going on before and after.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<Tally> {
        let mut tally = Tally::default();
        let started = Instant::now();
        let until = started + duration;
        let mut busy = 0;
        for slot in 0..self.slots.len() {
            busy += usize::from(self.begin(slot, &mut tally));
        }
        let mut events = Vec::with_capacity(self.slots.len());
        while busy > 0 {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&PATIENCE),
            ) {
                Ok(0) => {
                    tally.fail(format!(
                        "{busy} requests without an answer for {} s",
                        PATIENCE.tv_sec
                    ));
                    self.slots.fill_with(|| None);
                    break;
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let goes_on = Instant::now() < until;
            for event in &events {
                let slot = event.data.u64() as usize;
                match self.advance(slot) {
                    Ok(false) => continue,
                    Ok(true) => tally.answered += 1,
                    Err(failure) => {
                        self.slots[slot] = None;
                        tally.fail(failure);
                    }
                }
                if !(goes_on && self.begin(slot, &mut tally)) {
                    busy -= 1;
                }
            }
        }
        tally.wall = started.elapsed();
        Ok(tally)
    }

    /// Sends a request, on a new connection if need be. False: it failed.
    fn begin(&mut self, slot: usize, tally: &mut Tally) -> bool {
        let begun = match &mut self.slots[slot] {
            Some(connection) => connection
                .send(KEEP_ALIVE)
                .and_then(|sent| sent.then_some(()).ok_or(ErrorKind::WriteZero.into())),
            None => self.open(slot),
        };
        begun
            .map_err(|error| tally.fail(format!("could not send: {error}")))
            .is_ok()
    }

    fn open(&mut self, slot: usize) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        let source = Ipv4Addr::new(127, 0, 0, 2 + (self.opened % SOURCES) as u8);
        self.opened += 1;
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
        match socket.connect(&self.server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let mut connection = Connection {
            stream: socket.into(),
            buffer: [0; BUFFER],
            filled: 0,
            complete: false,
            sent: false,
        };
        // On loopback the connection is established by now, as a rule.
        connection.sent = connection.send(self.request())?;
        let interest = if connection.sent {
            epoll::EventFlags::IN
        } else {
            epoll::EventFlags::OUT
        };
        epoll::add(
            &self.epoll,
            &connection.stream,
            epoll::EventData::new_u64(slot as u64),
            interest,
        )?;
        self.slots[slot] = Some(connection);
        Ok(())
    }

    /// Goes on with a connection that is ready. True: its request is answered.
    fn advance(&mut self, slot: usize) -> std::result::Result<bool, String> {
        let request = self.request();
        let connection = self.slots[slot]
            .as_mut()
            .ok_or("an event for no connection")?;
        if !connection.sent {
            connection.sent = connection
                .send(request)
                .map_err(|error| format!("could not connect: {error}"))?;
            if connection.sent {
                let data = epoll::EventData::new_u64(slot as u64);
                epoll::modify(&self.epoll, &connection.stream, data, epoll::EventFlags::IN)
                    .map_err(|error| error.to_string())?;
            }
            return Ok(false);
        }
        let ended = connection.receive()?;
        match self.traffic {
            Traffic::KeepAlive if ended => {
                Err("the server closed a keep-alive connection".to_owned())
            }
            Traffic::KeepAlive if connection.complete => {
                connection.filled = 0;
                connection.complete = false;
                Ok(true)
            }
            Traffic::NewConnection if ended && connection.complete => {
                self.slots[slot] = None; // closes it, which takes it out of the epoll
                Ok(true)
            }
            Traffic::NewConnection if ended => {
                Err(format!("closed after {} bytes", connection.filled))
            }
            _ => Ok(false),
        }
    }

    fn request(&self) -> &'static [u8] {
        match self.traffic {
            Traffic::KeepAlive => KEEP_ALIVE,
            Traffic::NewConnection => CLOSE,
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: [u8; BUFFER],
    filled: usize,
    complete: bool,
    sent: bool,
}

impl Connection {
    /// False: not connected yet.
    fn send(&mut self, request: &[u8]) -> io::Result<bool> {
        match self.stream.write(request) {
            Ok(n) if n == request.len() => Ok(true),
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One read. True: the stream has ended.
    fn receive(&mut self) -> std::result::Result<bool, String> {
        if self.filled == BUFFER {
            return Err(format!("more than {BUFFER} bytes"));
        }
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => Ok(true),
            Ok(n) => {
                self.filled += n;
                self.complete = response::is_complete(&self.buffer[..self.filled])?;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(format!("after {} bytes: {error}", self.filled)),
        }
    }
}

const KEEP_ALIVE: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
const BUFFER: usize = 1024;
/// Client addresses, from 127.0.0.2 on: each has ephemeral ports of its own.
const SOURCES: usize = 8;
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
