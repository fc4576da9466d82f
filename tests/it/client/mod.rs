//! The outside client: sends requests from threads of its own, never retries, and writes down how each of them ended.
//!
//! # Layout
//!
//! `mod` and `ask` what to send, from how many clients, for how long · `wire` one connection: connect, write, read one response, all within a
//! deadline · `http2` and `websocket` the same for these · `running` a load that runs · `tally` how each request ended, and the table of
//! it · `deaths` what the server says of the workers that died · `dice` random enough

mod ask;
mod deaths;
mod dice;
mod http2;
mod running;
mod tally;
mod websocket;
mod wire;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use self::{
    ask::{Ask, Expected, Post},
    running::Shared,
};
pub(crate) use self::{
    deaths::Deaths,
    dice::Dice,
    running::Running,
    tally::{Outcome, Record, Tally},
    wire::{Response, Wire},
};

/// The longest a request may take, from its connect to the last byte of its answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Whether the tests run in full size (`FULL=1`), as before a release, and not only as long as everybody waits for them.
pub(crate) fn is_full() -> bool {
    std::env::var_os("FULL").is_some_and(|value| value == "1")
}

/// The first in full size, else the second.
pub(crate) fn sized<T>(full: T, short: T) -> T {
    if is_full() { full } else { short }
}

/// Where the server is.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl From<&str> for Target {
    fn from(addr: &str) -> Self {
        match addr.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(addr.parse().unwrap()),
        }
    }
}

/// How connections are used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// A new connection for every request.
    Fresh,
    /// One connection for as long as the server lets it, with a pause of up to `think` between two requests.
    KeepAlive { think: Duration },
    /// As keep-alive, with so many streams at a time; prior knowledge. After GOAWAY a client goes on over a new connection.
    Http2 { streams: usize },
    /// Messages to `/ws`, each echoed before the next, with a pause of up to `think` between. After a clean close a client connects anew.
    WebSocket { think: Duration },
    /// As keep-alive, and so many requests are written at once before their answers are read.
    Pipelined { depth: usize },
}

/// A load to be put on a server. Bounded: by [`stop`](Running::stop), by a number of requests, or by time.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    target: Target,
    clients: usize,
    mode: Mode,
    ask: Ask,
    count: u64,
    time: Duration,
    /// Up to so much between two requests on two connections.
    pause: Duration,
    /// A client that is refused or reset goes on, unless the server is meant to end.
    until_refused: bool,
}

impl Load {
    /// One client, a new connection for every `GET /`, for a minute at the most.
    pub(crate) fn new(target: impl Into<Target>) -> Self {
        Self {
            target: target.into(),
            clients: 1,
            mode: Mode::Fresh,
            ask: Ask {
                path: "/".into(),
                post: None,
                expected: Expected::Exactly(b"hello world".to_vec()),
            },
            count: u64::MAX,
            time: Duration::from_secs(60),
            pause: Duration::ZERO,
            until_refused: false,
        }
    }

    /// Each client of [`Mode::Fresh`] pauses up to so long after every request.
    pub(crate) fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    pub(crate) fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    pub(crate) fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// GET this path; whatever body comes is right.
    pub(crate) fn get(mut self, path: &str) -> Self {
        self.ask = Ask {
            path: path.into(),
            post: None,
            expected: Expected::Anything,
        };
        self
    }

    /// GET `/sse`, each to its end.
    pub(crate) fn events(mut self) -> Self {
        self = self.get("/sse");
        self.ask.expected = Expected::Events;
        self
    }

    /// POST so many bytes to `/echo`, which has to answer them, in pieces with a pause after each.
    pub(crate) fn echo(mut self, bytes: usize, pieces: usize, pause: Duration) -> Self {
        let body: Vec<u8> = (0..bytes).map(|n| b'a' + (n % 23) as u8).collect();
        self.ask = Ask {
            path: "/echo".into(),
            expected: Expected::Exactly(body.clone()),
            post: Some(Post {
                body,
                pieces,
                pause,
            }),
        };
        self
    }

    /// Ends after so many requests of all clients.
    pub(crate) fn count(mut self, requests: u64) -> Self {
        self.count = requests;
        self
    }

    /// Ends after this time.
    pub(crate) fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Each client ends when it is refused: the server has ended.
    pub(crate) fn until_refused(mut self) -> Self {
        self.until_refused = true;
        self
    }

    pub(crate) fn start(self) -> Running {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            left: AtomicU64::new(self.count),
            done: AtomicU64::new(0),
        });
        let clients = (0..self.clients)
            .map(|number| {
                let client = Client {
                    load: self.clone(),
                    shared: shared.clone(),
                    source: Source::of(&self, number),
                    dice: Dice::new(number as u64 + 1),
                    records: Vec::new(),
                };
                thread::Builder::new()
                    .stack_size(256 * 1024)
                    .spawn(move || client.run())
                    .unwrap()
            })
            .collect();
        Running {
            shared,
            time: self.time,
            clients,
        }
    }

    /// Runs to its count or time.
    pub(crate) fn run(self) -> Tally {
        self.start().wait()
    }
}

/// Where a client's connections come from: clients of short connections are spread over eight addresses, since a pair of addresses
/// has only 28,232 ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(Option<IpAddr>);

impl Source {
    pub(crate) const ANY: Self = Self(None);

    fn of(load: &Load, number: usize) -> Self {
        match (&load.target, load.mode) {
            (Target::Tcp(addr), Mode::Fresh) if addr.ip() == Ipv4Addr::LOCALHOST => Self(Some(
                Ipv4Addr::new(127, 0, 0, 2 + (number % 8) as u8).into(),
            )),
            _ => Self::ANY,
        }
    }
}

struct Client {
    load: Load,
    shared: Arc<Shared>,
    source: Source,
    dice: Dice,
    records: Vec<Record>,
}

impl Client {
    fn run(self) -> Vec<Record> {
        match self.load.mode {
            Mode::Http2 { streams } => http2::run(self, streams),
            Mode::WebSocket { think } => websocket::run(self, think),
            _ => self.run_http1(),
        }
    }

    fn run_http1(mut self) -> Vec<Record> {
        let mut kept: Option<Wire> = None;
        while self.goes_on() {
            let depth = match self.load.mode {
                Mode::Pipelined { depth } => depth as u64,
                _ => 1,
            };
            let claimed = self.claim(depth);
            if claimed == 0 {
                break;
            }
            kept = self.round(kept, claimed as usize);
            let pause = match (self.load.mode, &kept) {
                (Mode::KeepAlive { think }, Some(_)) => think,
                _ => self.load.pause,
            };
            if !pause.is_zero() {
                thread::sleep(pause.mul_f64(self.dice.roll()));
            }
        }
        self.records
    }

    fn goes_on(&self) -> bool {
        !self.shared.stop.load(Relaxed)
            && self.shared.begun.elapsed() < self.load.time
            && !(self.load.until_refused && self.was_refused())
    }

    fn was_refused(&self) -> bool {
        self.records
            .last()
            .is_some_and(|record| record.outcome == Outcome::Refused)
    }

    /// Takes up to `wanted` requests out of what is left to send.
    fn claim(&self, wanted: u64) -> u64 {
        let left = self
            .shared
            .left
            .fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(wanted)))
            .unwrap_or(0);
        wanted.min(left)
    }

    /// One request, or several at once; returns the connection if it can be used again.
    fn round(&mut self, kept: Option<Wire>, requests: usize) -> Option<Wire> {
        let begun = Instant::now();
        let reused = kept.is_some();
        let connected = kept.map_or_else(
            || Wire::connect(&self.load.target, self.source, begun + DEADLINE),
            Ok,
        );
        let mut wire = match connected {
            Ok(wire) => wire,
            Err(outcome) => {
                self.note(begun, reused, Err(outcome));
                return None;
            }
        };
        wire.set_deadline(begun + DEADLINE);
        let close = matches!(self.load.mode, Mode::Fresh);
        if let Err(outcome) = self.send(&mut wire, requests, close) {
            // Answered all the same: a server may answer before it has read everything.
            let answered = wire.response();
            self.note(begun, reused, answered.map_err(|_| outcome));
            return None;
        }
        for _ in 0..requests {
            let response = wire.response();
            let goes_on = response.as_ref().is_ok_and(|response| !response.closes);
            self.note(begun, reused, response);
            if !goes_on {
                return None;
            }
        }
        (!close).then_some(wire)
    }

    fn send(&self, wire: &mut Wire, requests: usize, close: bool) -> Result<(), Outcome> {
        let Ask { path, post, .. } = &self.load.ask;
        let connection = if close { "Connection: close\r\n" } else { "" };
        let Some(post) = post else {
            let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{connection}\r\n");
            return wire.send(request.repeat(requests).as_bytes());
        };
        for _ in 0..requests {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: test\r\n{connection}Content-Length: {}\r\n\r\n",
                post.body.len()
            );
            wire.send(head.as_bytes())?;
            for piece in post
                .body
                .chunks(post.body.len().div_ceil(post.pieces).max(1))
            {
                wire.send(piece)?;
                thread::sleep(post.pause);
            }
        }
        Ok(())
    }

    fn note(&mut self, begun: Instant, reused: bool, response: Result<Response, Outcome>) {
        let (outcome, worker, generation) = match response {
            Err(outcome) => (outcome, 0, 0),
            Ok(response) => {
                let outcome = match &self.load.ask.expected {
                    _ if response.status != 200 => Outcome::BadStatus,
                    expected if !expected.is(&response.body) => Outcome::BadBody,
                    _ => Outcome::Ok,
                };
                (
                    outcome,
                    response.number("x-worker"),
                    response.number("x-generation"),
                )
            }
        };
        let begun_at = begun.duration_since(self.shared.begun);
        self.records.push(Record {
            begun: begun_at,
            took: begun.elapsed(),
            outcome,
            reused,
            worker,
            generation,
        });
        self.shared.done.fetch_add(1, Relaxed);
    }
}
