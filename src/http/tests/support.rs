//! A server with a handler for every kind of trouble, and clients that speak bytes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::{JoinHandle, yield_now},
};

use crate::{
    event::Cuts,
    http::{Connections, End, RequestBody, Start, Timeouts},
    moved::Moved,
    scoreboard::Row,
};

/// No timeout that a test could run into.
pub(super) const PATIENT: Timeouts = Timeouts {
    first_byte: None,
    head: None,
    idle: None,
    linger: Duration::from_secs(60),
};

/// One process' worth of serving.
pub(super) struct Server {
    pub(super) connections: Connections,
    pub(super) row: Arc<Row>,
    pub(super) router: Router,
    /// `/wait` answers for each permit, `/drip` sends a piece.
    pub(super) gate: Arc<Semaphore>,
    /// Bodies that `/keep` kept.
    pub(super) kept: mpsc::UnboundedReceiver<Body>,
    /// Streams that `/upgrade` got.
    pub(super) upgraded: mpsc::UnboundedReceiver<Upgraded>,
    /// Paths in the order of their calls.
    pub(super) calls: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Ctx {
    gate: Arc<Semaphore>,
    keep: mpsc::UnboundedSender<Body>,
    upgrade: mpsc::UnboundedSender<Upgraded>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let (keep, kept) = mpsc::unbounded_channel();
        let (upgrade, upgraded) = mpsc::unbounded_channel();
        let ctx = Ctx {
            gate: Arc::new(Semaphore::new(0)),
            keep,
            upgrade,
            calls: Arc::default(),
        };
        let (row, _fd) = Row::create().unwrap();
        let row = Arc::new(row);
        Self {
            connections: Connections::new(timeouts, Arc::clone(&row), None),
            row,
            gate: Arc::clone(&ctx.gate),
            kept,
            upgraded,
            calls: Arc::clone(&ctx.calls),
            router: router(ctx),
        }
    }

    /// With a reaper.
    pub(super) fn timed(timeouts: Timeouts) -> Self {
        let server = Self::new(timeouts);
        let connections = server.connections.clone();
        tokio::spawn(async move { connections.reap_by_runtime().await });
        server
    }

    pub(super) fn serve<IO>(&self, stream: IO, start: Start) -> JoinHandle<End<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::spawn(self.connections.serve::<_, _, RequestBody, _>(
            stream,
            start,
            self.router.clone(),
        ))
    }

    pub(super) async fn tcp(&self) -> (Client<TcpStream>, JoinHandle<End<TcpStream>>) {
        let (near, far) = tcp_pair().await;
        (Client::new(near), self.serve(far, Start::Fresh))
    }

    pub(super) fn memory(&self) -> (Client<DuplexStream>, JoinHandle<End<DuplexStream>>) {
        let (near, far) = duplex(1 << 20);
        (Client::new(near), self.serve(far, Start::Fresh))
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.row.read().in_flight
    }

    pub(super) fn closed(&self) -> u64 {
        self.row.read().closed
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

/// The requests that were cut, in a word each.
pub(super) fn named(cuts: &Cuts) -> Vec<String> {
    cuts.oldest
        .iter()
        .map(|cut| format!("{} {}", cut.method, cut.path))
        .collect()
}

/// Where a connection stands of whose next request so much was read.
pub(super) fn having_read(read: &str) -> Moved {
    Moved {
        read: read.to_owned().into(),
        ..Moved::default()
    }
}

pub(super) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

fn router(ctx: Ctx) -> Router {
    let calls = Arc::clone(&ctx.calls);
    Router::new()
        .route("/", any(|| async { "hello" }))
        .route("/n/{n}", any(|Path(n): Path<String>| async { n }))
        .route("/empty", any(|| async { StatusCode::NO_CONTENT }))
        .route("/same", any(|| async { StatusCode::NOT_MODIFIED }))
        .route("/echo", any(|body: Bytes| async { body }))
        .route(
            "/echo/{n}",
            any(|Path(n): Path<String>, body: Bytes| async move { format!("{n}:{}", body.len()) }),
        )
        .route("/ignore", any(|_: Request| async { "ignored" }))
        .route(
            "/ignore/{n}",
            any(|Path(n): Path<String>, _: Request| async move { format!("{n}:ignored") }),
        )
        .route("/half/{n}", any(half))
        .route("/later/{n}", any(later))
        .route("/keep", any(keep))
        .route("/wait", any(wait))
        .route("/drip", get(drip))
        .route(
            "/large/{n}",
            get(|Path(n): Path<usize>| async move { vec![b'x'; n] }),
        )
        .route("/panic", any(|| async { panic!("as asked") as &str }))
        .route("/upgrade", any(upgrade))
        .layer(axum::middleware::map_request(move |request: Request| {
            calls.lock().unwrap().push(request.uri().path().to_owned());
            async { request }
        }))
        .with_state(ctx)
}

async fn half(Path(n): Path<String>, request: Request) -> String {
    let mut body = request.into_body();
    let _ = body.frame().await;
    format!("{n}:half")
}

async fn later(Path(n): Path<String>, request: Request) -> String {
    tokio::spawn(async move {
        yield_now().await;
        let _ = request.into_body().collect().await;
    });
    format!("{n}:later")
}

async fn keep(State(ctx): State<Ctx>, request: Request) -> &'static str {
    ctx.keep.send(request.into_body()).unwrap();
    "kept"
}

async fn wait(State(ctx): State<Ctx>) -> &'static str {
    ctx.gate.acquire().await.unwrap().forget();
    "waited"
}

async fn drip(State(ctx): State<Ctx>) -> Body {
    let gate = ctx.gate;
    let pieces = stream::iter(0..2).then(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok::<_, std::io::Error>("piece")
        }
    });
    Body::from_stream(pieces)
}

async fn upgrade(State(ctx): State<Ctx>, mut request: Request) -> Response {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().unwrap();
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            let _ = ctx.upgrade.send(stream);
        }
    });
    (
        StatusCode::SWITCHING_PROTOCOLS,
        [(header::CONNECTION, "upgrade"), (header::UPGRADE, "test")],
    )
        .into_response()
}

/// A client that speaks bytes.
pub(super) struct Client<IO> {
    pub(super) stream: IO,
    read: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn says_close(&self) -> bool {
        self.head.contains("connection: close\r\n")
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub(super) fn new(stream: IO) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(super) async fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        self.reply().await
    }

    /// The next response.
    pub(super) async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("a response, not the end")
    }

    /// The next response, or `None` at a clean end of the stream.
    pub(super) async fn try_reply(&mut self) -> Option<Reply> {
        let mut reply = self.try_head().await?;
        let head = &reply.head;
        if let Some(at) = head.find("content-length: ") {
            let n: usize = head[at + 16..]
                .split("\r\n")
                .next()
                .unwrap()
                .parse()
                .unwrap();
            while self.read.len() < n {
                assert!(self.more().await, "end within a body");
            }
            reply.body = String::from_utf8(self.read.drain(..n).collect()).unwrap();
        } else if head.contains("transfer-encoding: chunked") {
            reply.body = self.chunks().await;
        }
        Some(reply)
    }

    /// A response's head alone: for HEAD, 204, 304, 1xx.
    pub(super) async fn try_head(&mut self) -> Option<Reply> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                assert!(
                    self.read.is_empty(),
                    "end within a head: {:?}",
                    String::from_utf8_lossy(&self.read)
                );
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        Some(Reply {
            status: head[9..12].parse().unwrap(),
            head,
            body: String::new(),
        })
    }

    async fn chunks(&mut self) -> String {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.read.windows(2).position(|w| w == b"\r\n") {
                    break self.read.drain(..at + 2).collect::<Vec<_>>();
                }
                assert!(self.more().await);
            };
            let n = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            while self.read.len() < n + 2 {
                assert!(self.more().await);
            }
            body.extend(self.read.drain(..n));
            self.read.drain(..2);
            if n == 0 {
                return String::from_utf8(body).unwrap();
            }
        }
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.unwrap() > 0
    }

    /// Asserts that nothing more comes but a clean end: no reset.
    pub(super) async fn ends(&mut self) {
        assert!(self.try_head().await.is_none());
    }
}

/// Lets everything run that can, on a current-thread runtime and with streams in memory.
pub(super) async fn let_run() {
    for _ in 0..50 {
        yield_now().await;
    }
}

pub(super) async fn until(what: impl Fn() -> bool) {
    while !what() {
        yield_now().await;
    }
}
