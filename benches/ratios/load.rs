//! The client: a closed loop of C connections, or an open one at a fixed rate, on one thread and one epoll, with as few syscalls as
//! it takes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::Result;
use crate::exchange::{Dialogue, Traffic, Wire, would_block};
use crate::idle::Idle;

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
pub(crate) struct Load {
    epoll: OwnedFd,
    server: SocketAddrV4,
    traffic: Traffic,
    /// Of HTTP/1.1, where all are alike.
    request: Vec<u8>,
    slots: Vec<Option<Connection>>,
    idle: Idle,
    buffer: Box<[u8]>,
    opened: usize,
    /// Slots that have nothing under way any more, and were not looked at yet.
    ended: usize,
    events: Vec<epoll::Event>,
}

impl Load {
    pub(crate) fn new(server: SocketAddrV4, traffic: Traffic, connections: usize) -> Result<Self> {
        let slots = std::iter::repeat_with(|| None).take(connections).collect();
        let mut load = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            server,
            request: traffic.request(),
            traffic,
            slots,
            idle: Idle::default(),
            buffer: vec![0; BUFFER].into(),
            opened: 0,
            ended: 0,
            events: Vec::with_capacity(connections),
        };
        load.idle = Idle::open(server, load.traffic.idle)?;
        Ok(load)
    }

    /// Requests for so long, then waits for the answers that are still out: nothing is going on before and after.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<Tally> {
        let mut tally = Tally::default();
        let started = Instant::now();
        match self.traffic.rate {
            None => self.one_after_the_other(started + duration, &mut tally)?,
            Some(rate) => self.at_rate(rate, started, duration, &mut tally)?,
        }
        tally.wall = started.elapsed();
        Ok(tally)
    }

    /// A closed loop: each connection's next request when its last one is answered.
    fn one_after_the_other(&mut self, until: Instant, tally: &mut Tally) -> Result<()> {
        let mut busy = 0;
        for slot in 0..self.slots.len() {
            busy += usize::from(self.begin(slot, tally));
        }
        while busy > 0 {
            match self.turn(&PATIENCE, Some(until), tally)? {
                0 => {
                    self.give_up(busy, tally);
                    break;
                }
                _ => busy -= std::mem::take(&mut self.ended),
            }
        }
        Ok(())
    }

    /// An open loop: connections are begun when they are due, on as many slots as it takes.
    fn at_rate(
        &mut self,
        rate: u32,
        started: Instant,
        duration: Duration,
        tally: &mut Tally,
    ) -> Result<()> {
        let (every, until) = (Duration::from_secs(1) / rate, started + duration);
        let (mut due, mut busy) = (started, 0);
        loop {
            let now = Instant::now();
            while due < until && due <= now {
                let slot = self.free_slot();
                busy += usize::from(self.begin(slot, tally));
                due += every;
            }
            if due >= until && busy == 0 {
                return Ok(());
            }
            let wait = match due.checked_duration_since(now) {
                Some(wait) if due < until => Timespec::try_from(wait)?,
                _ => PATIENCE,
            };
            // `epoll_wait` knows milliseconds only.
            let mut ready = [PollFd::new(&self.epoll, PollFlags::IN)];
            match poll(&mut ready, Some(&wait)) {
                Ok(0) if due >= until => {
                    self.give_up(busy, tally);
                    return Ok(());
                }
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    self.turn(&NOTHING, None, tally)?;
                    busy -= std::mem::take(&mut self.ended);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits so long, goes on with what is ready, and says how many that were. Until the time given, a slot that has its answer asks
    /// again; the others are counted as ended.
    fn turn(
        &mut self,
        wait: &Timespec,
        again_until: Option<Instant>,
        tally: &mut Tally,
    ) -> Result<usize> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let buffer = rustix::buffer::spare_capacity(&mut events);
        let ready = match epoll::wait(&self.epoll, buffer, Some(wait)) {
            Ok(ready) => ready,
            Err(Errno::INTR) => 1, // as if: it has not waited in vain
            Err(error) => return Err(error.into()),
        };
        let again = again_until.is_some_and(|until| Instant::now() < until);
        for event in &events {
            let slot = event.data.u64() as usize;
            match self.advance(slot) {
                Ok(None) => continue,
                Ok(Some(answered)) => tally.answered += answered,
                Err(failure) => {
                    self.slots[slot] = None;
                    tally.fail(failure);
                }
            }
            if !(again && self.begin(slot, tally)) {
                self.ended += 1;
            }
        }
        self.events = events;
        Ok(ready)
    }

    fn give_up(&mut self, busy: usize, tally: &mut Tally) {
        let seconds = PATIENCE.tv_sec;
        tally.fail(format!("{busy} requests without an answer for {seconds} s"));
        self.slots.fill_with(|| None);
    }

    fn free_slot(&mut self) -> usize {
        let free = self.slots.iter().position(Option::is_none);
        free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    /// Sends a request, on a new connection if need be. False: it failed.
    fn begin(&mut self, slot: usize, tally: &mut Tally) -> bool {
        let begun = match &mut self.slots[slot] {
            Some(connection) => connection
                .send(&self.request, self.traffic.path)
                .and_then(|sent| sent.then_some(()).ok_or(ErrorKind::WriteZero.into())),
            None => self.open(slot),
        };
        begun
            .map_err(|error| tally.fail(format!("could not send: {error}")))
            .is_ok()
    }

    /// Where the next connection comes from: each address has ephemeral ports of its own.
    fn source(&mut self) -> SocketAddrV4 {
        let source = Ipv4Addr::new(127, 0, 0, 2 + (self.opened % SOURCES) as u8);
        self.opened += 1;
        SocketAddrV4::new(source, 0)
    }

    fn open(&mut self, slot: usize) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.bind(&self.source().into())?;
        match socket.connect(&self.server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let mut connection = Connection {
            stream: socket.into(),
            dialogue: self.traffic.dialogue(),
            answered: None,
            sent: false,
        };
        // On loopback the connection is established by now, as a rule.
        connection.sent = connection.send(&self.request, self.traffic.path)?;
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

    /// Goes on with a connection that is ready. `Some(n)`: what it had asked is answered, `n` requests.
    fn advance(&mut self, slot: usize) -> std::result::Result<Option<u64>, String> {
        let connection = self.slots[slot]
            .as_mut()
            .ok_or("an event for no connection")?;
        if !connection.sent {
            connection.sent = connection
                .send(&self.request, self.traffic.path)
                .map_err(|error| format!("could not connect: {error}"))?;
            if connection.sent {
                let data = epoll::EventData::new_u64(slot as u64);
                epoll::modify(&self.epoll, &connection.stream, data, epoll::EventFlags::IN)
                    .map_err(|error| error.to_string())?;
            }
            return Ok(None);
        }
        let ended = match connection.stream.read(&mut self.buffer) {
            Ok(0) => true,
            Ok(n) => {
                let answered = connection
                    .dialogue
                    .received(&self.buffer[..n], &self.traffic)?;
                connection.answered = connection.answered.or(answered);
                false
            }
            Err(error) if would_block(&error) => false,
            Err(error) => return Err(error.to_string()),
        };
        match self.traffic.wire {
            Wire::KeepAlive | Wire::Http2 if ended => {
                Err("the server closed a connection that is to stay".to_owned())
            }
            Wire::KeepAlive | Wire::Http2 => Ok(connection.answered.take()),
            Wire::NewConnection if !ended => Ok(None),
            Wire::NewConnection => {
                let answered = connection.answered;
                self.slots[slot] = None; // closes it, which takes it out of the epoll
                answered
                    .map(Some)
                    .ok_or("closed before the answer was complete".to_owned())
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    dialogue: Dialogue,
    answered: Option<u64>,
    sent: bool,
}

impl Connection {
    /// False: not connected yet.
    fn send(&mut self, request: &[u8], path: &str) -> io::Result<bool> {
        // Connected already, as a rule: of HTTP/2 what could not be sent would be lost.
        let http2 = match &mut self.dialogue {
            Dialogue::Http2(http2) => http2.requests(path),
            Dialogue::Http1 { .. } => Vec::new(),
        };
        let bytes = if http2.is_empty() { request } else { &http2 };
        match self.stream.write(bytes) {
            Ok(n) if n == bytes.len() => Ok(true),
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) if would_block(&error) && http2.is_empty() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

const BUFFER: usize = 128 * 1024;
/// Client addresses, from 127.0.0.2 on.
const SOURCES: usize = 8;
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
const NOTHING: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
