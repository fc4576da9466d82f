//! What the client asks, over which wire, and what it takes for an answer.

use rustix::io::Errno;

use crate::response;

/// What each of the client's connections does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// One request after the other on a connection that stays open.
    KeepAlive,
    /// Connect, one request with `Connection: close`, read to the end of the stream, close.
    NewConnection,
    /// HTTP/2 without TLS: [`STREAMS`] requests at once on a connection that stays open, then as many again.
    Http2,
}

/// Requests at once on an HTTP/2 connection.
pub(crate) const STREAMS: usize = 8;

/// One kind of request, and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pub(crate) wire: Wire,
    pub(crate) path: &'static str,
    /// Sent by POST, if there is one.
    pub(crate) body: Vec<u8>,
    pub(crate) answer: Vec<u8>,
    /// Connections that are open and have been answered once, beside those that ask.
    pub(crate) idle: usize,
    /// Connections begun a second, whatever becomes of those before. `None`: the next one when one is answered.
    pub(crate) rate: Option<u32>,
}

impl Traffic {
    /// `GET /`, answered by `hello world`.
    pub(crate) fn hello(wire: Wire) -> Self {
        Self::get(wire, "/", b"hello world")
    }

    pub(crate) fn get(wire: Wire, path: &'static str, answer: &[u8]) -> Self {
        Self {
            wire,
            path,
            body: Vec::new(),
            answer: answer.to_vec(),
            idle: 0,
            rate: None,
        }
    }

    /// What is posted comes back.
    pub(crate) fn echo(wire: Wire, path: &'static str, body: Vec<u8>) -> Self {
        Self {
            wire,
            path,
            answer: body.clone(),
            body,
            idle: 0,
            rate: None,
        }
    }

    pub(crate) fn beside_idle(self, more: usize) -> Self {
        Self {
            idle: self.idle + more,
            ..self
        }
    }

    pub(crate) fn at_rate(self, rate: u32) -> Self {
        Self {
            rate: Some(rate),
            ..self
        }
    }

    /// One HTTP/1.1 request.
    pub(crate) fn request(&self) -> Vec<u8> {
        let method = if self.body.is_empty() { "GET" } else { "POST" };
        let mut request = format!("{method} {} HTTP/1.1\r\nHost: 127.0.0.1\r\n", self.path);
        if !self.body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        if self.wire == Wire::NewConnection {
            request.push_str("Connection: close\r\n");
        }
        request.push_str("\r\n");
        [request.into_bytes(), self.body.clone()].concat()
    }

    pub(crate) fn dialogue(&self) -> Dialogue {
        match self.wire {
            Wire::KeepAlive | Wire::NewConnection => Dialogue::Http1 {
                received: Vec::new(),
            },
            Wire::Http2 => Dialogue::Http2(Box::default()),
        }
    }
}

/// What has been said on one connection.
#[derive(Debug)]
pub(crate) enum Dialogue {
    Http1 { received: Vec<u8> },
    Http2(Box<Http2>),
}

impl Dialogue {
    /// Takes what was read. `Some(n)`: with it `n` requests are answered, and nothing is under way.
    ///
    /// # Errors
    ///
    /// What it was instead of the answer.
    pub(crate) fn received(
        &mut self,
        bytes: &[u8],
        traffic: &Traffic,
    ) -> Result<Option<u64>, String> {
        match self {
            Self::Http1 { received } => {
                received.extend_from_slice(bytes);
                let complete = response::is_complete(received, &traffic.answer)?;
                if complete {
                    received.clear();
                }
                Ok(complete.then_some(1))
            }
            Self::Http2(http2) => http2.received(bytes, &traffic.answer),
        }
    }
}

/// The client's side of an HTTP/2 connection: as little of it as a server can tell from the real thing.
#[derive(Debug, Default)]
pub(crate) struct Http2 {
    last_stream: u32,
    received: Vec<u8>,
    open: usize,
    body_bytes: usize,
    acknowledge: bool,
}

impl Http2 {
    /// The next [`STREAMS`] requests, with whatever has to precede them.
    pub(crate) fn requests(&mut self, path: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.last_stream == 0 {
            bytes.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            frame(&mut bytes, SETTINGS, 0, 0, &[]);
            // Room for a gigabyte of answers: nothing has to be said of windows later.
            frame(
                &mut bytes,
                WINDOW_UPDATE,
                0,
                0,
                &0x3fff_0000_u32.to_be_bytes(),
            );
        }
        if std::mem::take(&mut self.acknowledge) {
            frame(&mut bytes, SETTINGS, ACK, 0, &[]);
        }
        // Of the static table: `:method: GET`, `:scheme: http`; `:path` and `:authority` are spelled out and not kept.
        let mut head = vec![0x82, 0x86, 0x04, path.len() as u8];
        head.extend_from_slice(path.as_bytes());
        head.extend_from_slice(&[0x01, HOST.len() as u8]);
        head.extend_from_slice(HOST);
        for _ in 0..STREAMS {
            self.last_stream = if self.last_stream == 0 {
                1
            } else {
                self.last_stream + 2
            };
            frame(
                &mut bytes,
                HEADERS,
                END_STREAM | END_HEADERS,
                self.last_stream,
                &head,
            );
        }
        self.open = STREAMS;
        bytes
    }

    fn received(&mut self, bytes: &[u8], answer: &[u8]) -> Result<Option<u64>, String> {
        self.received.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.received.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let Some(payload) = self.received.get(at + 9..at + 9 + length) else {
                break;
            };
            match kind {
                DATA => {
                    self.body_bytes += payload.len();
                    self.open -= usize::from(flags & END_STREAM != 0);
                }
                HEADERS if payload.contains(&STATUS_200) && flags & END_STREAM == 0 => {}
                SETTINGS if flags & ACK == 0 => self.acknowledge = true,
                SETTINGS | WINDOW_UPDATE => {}
                _ => {
                    return Err(format!(
                        "a frame of type {kind}, flags {flags}: {}",
                        payload.escape_ascii()
                    ));
                }
            }
            at += 9 + length;
        }
        self.received.drain(..at);
        if self.open > 0 {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut self.body_bytes);
        if bytes == STREAMS * answer.len() {
            Ok(Some(STREAMS as u64))
        } else {
            Err(format!("{bytes} bytes of bodies"))
        }
    }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// Whether nothing could be sent or read for now.
pub(crate) fn would_block(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AGAIN.raw_os_error())
}

const HOST: &[u8] = b"127.0.0.1";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` of the static table.
const STATUS_200: u8 = 0x88;
