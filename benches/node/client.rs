//! The client of the latency tables: a new connection a request, one thread and one epoll, so many at a time or so many a second.
//!
//! At a fixed rate a latency counts from the moment at which the request was due, whether or not the client came to it then: what waits
//! for a slow server is not left out.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use socket2::{Domain, Socket, Type};

use crate::{Result, response};

/// When the next request is due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many are always under way.
    AtOnce(usize),
    /// So many a second, evenly.
    PerSecond(f64),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Sorted.
    took: Vec<Duration>,
    pub(crate) by_worker: BTreeMap<u64, usize>,
    pub(crate) failed: usize,
    pub(crate) first_failure: Option<String>,
    pub(crate) wall: Duration,
}

impl Report {
    /// The time that this share of the requests took at the most.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        let at = (share * self.took.len() as f64).ceil() as usize;
        let at = at.saturating_sub(1).min(last);
        self.took.get(at).copied().unwrap_or_default()
    }

    pub(crate) fn answered(&self) -> usize {
        self.took.len()
    }

    pub(crate) fn a_second(&self) -> f64 {
        self.answered() as f64 / self.wall.as_secs_f64()
    }

    /// An error if a request failed.
    pub(crate) fn without_failures(self) -> Result<Self> {
        match &self.first_failure {
            None => Ok(self),
            Some(first) => {
                Err(format!("{} requests failed; the first: {first}", self.failed).into())
            }
        }
    }

    fn fail(&mut self, failure: &impl ToString) {
        self.failed += 1;
        self.first_failure
            .get_or_insert_with(|| failure.to_string());
    }
}

/// Sends `count` requests.
pub(crate) fn run(server: SocketAddr, count: usize, pace: Pace) -> Result<Report> {
    let client = Client {
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        server,
        count,
        pace,
        started: Instant::now(),
        begun: 0,
        slots: Vec::new(),
        free: Vec::new(),
        report: Report::default(),
    };
    client.run()
}

struct Client {
    epoll: OwnedFd,
    server: SocketAddr,
    count: usize,
    pace: Pace,
    started: Instant,
    begun: usize,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    report: Report,
}

struct Connection {
    stream: TcpStream,
    due: Instant,
    sent: bool,
    read: Vec<u8>,
}

impl Client {
    fn run(mut self) -> Result<Report> {
        let mut events = Vec::with_capacity(256);
        let mut progress = Instant::now();
        loop {
            while let Some(due) = self.due().filter(|&due| due <= Instant::now()) {
                self.begin(due);
            }
            if self.begun == self.count && self.under_way() == 0 {
                break;
            }
            let now = Instant::now();
            let next = self
                .due()
                .map_or(PATIENCE, |due| due.saturating_duration_since(now));
            events.clear();
            let timeout = Timespec::try_from(next.min(PATIENCE))?;
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !events.is_empty() {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE {
                let left = self.under_way();
                (0..left).for_each(|_| self.report.fail(&format!("no answer for {PATIENCE:?}")));
                break;
            }
            for event in &events {
                self.advance(event.data.u64() as usize);
            }
        }
        self.report.wall = self.started.elapsed();
        self.report.took.sort_unstable();
        Ok(self.report)
    }

    fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// When the next request is due; `None`: not before another is done.
    fn due(&self) -> Option<Instant> {
        match self.pace {
            _ if self.begun == self.count => None,
            Pace::AtOnce(most) => (self.under_way() < most).then(Instant::now),
            Pace::PerSecond(rate) => {
                Some(self.started + Duration::from_secs_f64(self.begun as f64 / rate))
            }
        }
    }

    fn begin(&mut self, due: Instant) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        match self.open(slot, due) {
            Ok(connection) => self.slots[slot] = Some(connection),
            Err(error) => {
                self.free.push(slot);
                self.report.fail(&format!("cannot connect: {error}"));
            }
        }
        self.begun += 1;
    }

    fn open(&self, slot: usize, due: Instant) -> io::Result<Connection> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        let source = Ipv4Addr::new(127, 0, 0, 2 + (self.begun % SOURCES) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let mut connection = Connection {
            stream: socket.into(),
            due,
            sent: false,
            read: Vec::with_capacity(256),
        };
        // On loopback the connection is established by now, as a rule.
        connection.send()?;
        epoll::add(
            &self.epoll,
            &connection.stream,
            epoll::EventData::new_u64(slot as u64),
            connection.interest(),
        )?;
        Ok(connection)
    }

    fn advance(&mut self, slot: usize) {
        let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let ended = if connection.sent {
            connection.receive()
        } else {
            let epoll = &self.epoll;
            let sent = connection.send().and_then(|()| {
                let data = epoll::EventData::new_u64(slot as u64);
                Ok(epoll::modify(
                    epoll,
                    &connection.stream,
                    data,
                    connection.interest(),
                )?)
            });
            sent.map(|()| false)
        };
        match ended {
            Ok(false) => return,
            Ok(true) => match connection.worker() {
                Ok(worker) => {
                    self.report.took.push(connection.due.elapsed());
                    *self.report.by_worker.entry(worker).or_default() += 1;
                }
                Err(error) => self.report.fail(&error),
            },
            Err(error) => self.report.fail(&error),
        }
        self.slots[slot] = None; // closes it, which takes it out of the epoll
        self.free.push(slot);
    }
}

impl Connection {
    fn send(&mut self) -> io::Result<()> {
        match self.stream.write(REQUEST) {
            Ok(n) if n == REQUEST.len() => self.sent = true,
            Ok(_) => return Err(ErrorKind::WriteZero.into()),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotConnected
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What it waits for.
    fn interest(&self) -> epoll::EventFlags {
        if self.sent {
            epoll::EventFlags::IN
        } else {
            epoll::EventFlags::OUT
        }
    }

    /// Whether the stream has ended.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => self.read.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Who answered, if that is a whole answer.
    fn worker(&self) -> std::result::Result<u64, String> {
        if !response::is_complete(&self.read, response::HELLO)? {
            return Err(format!("cut: {}", self.read.escape_ascii()));
        }
        let text = String::from_utf8_lossy(&self.read).to_ascii_lowercase();
        let worker = text
            .split_once("x-worker: ")
            .and_then(|(_, rest)| rest.split("\r\n").next());
        worker
            .and_then(|worker| worker.parse().ok())
            .ok_or_else(|| "it does not say who".into())
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";

/// Without any answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pair of addresses has only 28,232 ports; and a policy may choose by the client's address.
const SOURCES: usize = 250;
