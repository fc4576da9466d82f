//! Run with: cargo run --release --example playground
//!
//! Everything to try by hand and to test against. Every answer tells who gave it:
//!
//! ```text
//! $ curl -i http://127.0.0.1:8000/
//! x-worker: 1
//! x-slot: 0
//! x-generation: 1
//! x-pid: 4711
//!
//! hello world
//! ```
//!
//! | route | answer |
//! |---|---|
//! | `GET /` | `hello world` |
//! | `GET /ready` | 200; 503 once the cluster is going to end |
//! | `GET /slow?ms=N` | after N ms |
//! | `POST /echo` | the body |
//! | `GET /peer` | the client's address, as the server sees it |
//! | `GET /sse`, `GET /ws` | an event every 100 ms until the worker drains; a WebSocket echo |
//! | `GET /block?ms=N` | blocks the runtime's thread |
//! | `GET /leak?bytes=N` | the worker keeps so much more memory for ever |
//! | `GET /panic` | the handler panics, which costs its connection only |
//! | `GET /crash?how=exit\|abort\|panic\|segv` | ends the worker that way |
//! | `POST /notify` | the worker sends `{"cmd":"notifyRequest"}`; the primary prints `numReqs = N` within a second |
//! | `POST /broadcast` | the body goes to the primary and from there to every worker, which prints `worker ID heard BODY` |
//!
//! Told by variables: `ADDR` (default `127.0.0.1:8000`; several with commas; `unix:/path`; `file:/path`: what stands in that file at the
//! start), and in milliseconds `DRAIN_MS`, `DRAIN_DELAY_MS`, `EXIT_GRACE_MS`, `HANG_MS`, `BOOT_MS`, `FIRST_BYTE_MS`, `HEADER_MS`, `IDLE_MS`,
//! `LINGER_MS`, `MAX_LIFETIME_MS`; numbers `MAX_CONNECTIONS`, `MAX_REQUESTS`, `MEMORY_LIMIT` (bytes), `REBALANCE` (0 or 1);
//! `HANDBACK=off`: workers that leave close their connections.
//!
//! It misbehaves when told to:
//!
//! | variable | what happens |
//! |---|---|
//! | `BOOT=exit0\|exit1\|panic\|hang\|slow:MS` | a worker ends, hangs or dawdles before it reaches `serve` |
//! | `READY=late:MS\|fail\|never` | a worker gets ready late, fails to, or never does |
//! | `BOOT=late:MS` | a worker dawdles before its first call into the crate |
//! | `CHILD=cat\|early\|label` | above `serve` each process runs a child with its own standard input: `cat` (`early`: before the first call into the crate), or this program again, which says what it is in a cluster |
//! | `GREET=TEXT` | the primary sends TEXT to each worker as soon as it is forked; workers begin to listen to messages late |
//! | `HOOK=panic\|sleep:MS` | the hooks `on_online` and `on_message` panic; or `on_message` sleeps |
//! | `UPGRADE_MS` | the hook `on_upgrade` sleeps that long |
//! | `CHDIR=PATH` | the primary goes there once it listens |
//! | `READINESS=print` | the primary prints `cluster ready: true` or `false` whenever that changes |
//! | `AFTER=sleep` | a worker's `main` goes on after `serve` |

//! For more trouble see `playground/adversity.rs`: bodies that nobody reads, and `BREAK_FILE`.

#![allow(clippy::print_stdout, reason = "what it prints is what one looks at")]

#[path = "playground/adversity.rs"]
mod adversity;

use std::{
    collections::HashMap,
    convert::Infallible,
    env,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{
        ConnectInfo, Query,
        ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade, close_code},
    },
    http::StatusCode,
    middleware::map_response,
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use axum_cluster::{
    BoxError, Candidate, ClusteredServer, Exit, Message, Primary, Worker, WorkerHandle, cluster,
};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

const FOR_EVER: Duration = Duration::from_secs(86_400);

/// What workers tell the primary.
#[derive(Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "camelCase")]
enum Order {
    NotifyRequest,
    Broadcast { text: String },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_writer(std::io::stderr)
        .init();
    if let Some(time) = boot_time("late:").filter(|_| env::var_os("AXUM_CLUSTER_WORKER").is_some())
    {
        sleep(time);
    }
    if env::args().any(|arg| arg == "label") {
        println!("in a cluster I am: {}", cluster::label());
        return Ok(());
    }
    refuse(&["CONTROL", "ADMIN", "TLS_CERT", "TLS_KEY"])?;
    let server = watched(configured()?)?;
    run_child()?;
    if cluster::is_worker() {
        adversity::break_if_told();
        misbehave_at_boot();
    }
    let served = server
        .ready_when(|_| get_ready())
        .serve_with(|worker| async move { Ok(app(&worker)) })
        .await;
    if cluster::is_worker() && env::var("AFTER").is_ok_and(|after| after == "sleep") {
        sleep(FOR_EVER);
    }
    Ok(served?)
}

// ===== the app =====

fn app(worker: &Worker) -> Router {
    let told = worker.clone();
    tokio::spawn(hear(worker.clone()));
    Router::new()
        .route("/", get(|| async { "hello world" }))
        .route("/ready", get(ready))
        .route("/slow", get(slow))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/sse", get(events))
        .route("/ws", get(web_socket))
        .route("/block", get(block))
        .route("/leak", get(leak))
        .route("/panic", get(panicking))
        .route("/crash", get(crash))
        .route("/notify", post(|worker: Worker| async move { worker.send(&Order::NotifyRequest) }))
        .route("/broadcast", post(|worker: Worker, text: String| async move { worker.send(&Order::Broadcast { text }) }))
        .merge(adversity::routes())
        .layer(map_response(move |response| tell(told.clone(), response)))
}

/// Says on every answer who gave it.
async fn tell(worker: Worker, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert("x-worker", worker.id().get().into());
    headers.insert("x-slot", worker.slot().get().into());
    headers.insert("x-generation", worker.generation().get().into());
    headers.insert("x-pid", std::process::id().into());
    response
}

#[derive(Deserialize)]
struct Time {
    ms: u64,
}

/// For load balancers.
async fn ready(worker: Worker) -> (StatusCode, &'static str) {
    if worker.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster is ending")
    }
}

async fn slow(Query(Time { ms }): Query<Time>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("after {ms} ms")
}

async fn block(Query(Time { ms }): Query<Time>) -> String {
    sleep(Duration::from_millis(ms));
    format!("blocked {ms} ms")
}

#[derive(Deserialize)]
struct Size {
    bytes: usize,
}

async fn leak(Query(Size { bytes }): Query<Size>) -> String {
    vec![1_u8; bytes].leak();
    format!("leaked {bytes} bytes")
}

async fn panicking() -> &'static str {
    panic!("a handler was asked to panic")
}

async fn events(worker: Worker) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_millis(100)));
    let numbered = ticks
        .enumerate()
        .map(|(n, _)| Ok(Event::default().data(n.to_string())));
    Sse::new(numbered.take_until(worker.draining()))
}

async fn web_socket(worker: Worker, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| echo(worker, socket))
}

async fn echo(worker: Worker, mut socket: WebSocket) {
    let mut draining = worker.draining();
    loop {
        tokio::select! {
            () = &mut draining => {
                let away = CloseFrame { code: close_code::AWAY, reason: "draining".into() };
                // A client that has gone needs no farewell.
                let _ = socket.send(Frame::Close(Some(away))).await;
                return;
            }
            frame = socket.recv() => match frame {
                Some(Ok(frame @ (Frame::Text(_) | Frame::Binary(_)))) => {
                    if socket.send(frame).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum How {
    Exit,
    Abort,
    Panic,
    Segv,
}

#[derive(Deserialize)]
struct Crash {
    how: How,
}

#[allow(clippy::exit, reason = "to end the process is what was asked for")]
async fn crash(Query(Crash { how }): Query<Crash>) {
    match how {
        How::Exit => std::process::exit(1),
        How::Abort => std::process::abort(),
        How::Panic => {
            // As where `panic = "abort"` is set, or a hook like this one: a handler's panic alone does not end a worker.
            std::panic::set_hook(Box::new(|panic| {
                eprintln!("{panic}");
                std::process::exit(101);
            }));
            panic!("asked to panic");
        }
        // The first is swallowed by Rust's own handler, which looks for stack overflows and then takes itself away.
        How::Segv => loop {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
        },
    }
}

/// Prints what the primary sends.
async fn hear(worker: Worker) {
    let mut messages = worker.messages();
    while let Some(message) = messages.recv().await {
        let text: String = message.json().unwrap_or_default();
        // Lines of several processes stay whole up to 4 KiB.
        let text = if text.len() > 1_000 {
            format!("{} bytes", text.len())
        } else {
            text
        };
        println!("worker {} heard {text}", worker.id());
    }
}

/// What `READY` asks for.
async fn get_ready() -> Result<(), BoxError> {
    let Ok(ready) = env::var("READY") else {
        return Ok(());
    };
    match (ready.as_str(), ready.strip_prefix("late:")) {
        ("fail", _) => Err("asked not to get ready".into()),
        ("never", _) => std::future::pending().await,
        (_, Some(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms.parse()?)).await;
            Ok(())
        }
        _ => Err(format!("READY is `{ready}`; expected `late:MS`, `fail` or `never`").into()),
    }
}

// ===== the server =====

fn configured() -> Result<ClusteredServer, String> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    let addr = match addr.strip_prefix("file:") {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("{path}: {error}"))?
            .trim()
            .to_owned(),
        None => addr,
    };
    let mut server = ClusteredServer::bind(addr.split(',').collect::<Vec<_>>());
    if let Some(connections) = number("MAX_CONNECTIONS")? {
        server = server.max_connections(usize::try_from(connections).unwrap_or(usize::MAX));
    }
    if let Some(requests) = number("MAX_REQUESTS")? {
        server = server.max_requests(requests);
    }
    if let Some(bytes) = number("MEMORY_LIMIT")? {
        server = server.memory_limit(bytes);
    }
    if let Some(rebalance) = number("REBALANCE")? {
        server = server.rebalance(rebalance != 0);
    }
    match env::var("SCHEDULE").as_deref() {
        Err(_) => {}
        Ok("newest") => {
            server = server.schedule_with(|_: Option<SocketAddr>, workers: &[Candidate]| {
                workers.last().map(|worker| worker.id)
            });
        }
        Ok("panic") => {
            server = server.schedule_with(
                |_: Option<SocketAddr>, _: &[Candidate]| -> Option<axum_cluster::WorkerId> {
                    panic!("on purpose")
                },
            );
        }
        Ok(value) => {
            return Err(format!(
                "SCHEDULE is `{value}`; expected `newest` or `panic`"
            ));
        }
    }
    match env::var("HANDBACK").as_deref() {
        Err(_) | Ok("on") => {}
        Ok("off") => server = server.handback(false),
        Ok(value) => return Err(format!("HANDBACK is `{value}`; expected `on` or `off`")),
    }
    type Setter = fn(ClusteredServer, Duration) -> ClusteredServer;
    let times: [(&str, Setter); 10] = [
        ("DRAIN_DELAY_MS", ClusteredServer::drain_delay),
        ("DRAIN_MS", ClusteredServer::drain_deadline),
        ("EXIT_GRACE_MS", ClusteredServer::exit_grace),
        ("HANG_MS", ClusteredServer::hang_timeout),
        ("BOOT_MS", ClusteredServer::boot_timeout),
        ("LINGER_MS", ClusteredServer::linger),
        ("FIRST_BYTE_MS", ClusteredServer::first_byte_timeout),
        ("HEADER_MS", ClusteredServer::header_timeout),
        ("IDLE_MS", ClusteredServer::idle_timeout),
        ("MAX_LIFETIME_MS", ClusteredServer::max_lifetime),
    ];
    for (name, set) in times {
        if let Some(ms) = number(name)? {
            server = set(server, Duration::from_millis(ms));
        }
    }
    Ok(server)
}

/// With hooks that print what happens. They run in the primary.
fn watched(server: ClusteredServer) -> Result<ClusteredServer, String> {
    let forked = Arc::new(Mutex::new(HashMap::new()));
    let listening = forked.clone();
    let requests = Arc::new(AtomicU64::new(0));
    let counted = requests.clone();
    let greeting = env::var("GREET").ok();
    let trouble = Trouble::asked_for()?;
    let upgrade = Duration::from_millis(number("UPGRADE_MS")?.unwrap_or(0));
    Ok(server
        .on_upgrade(move || {
            Trouble::Sleep(upgrade).make();
            Vec::new()
        })
        .on_ready(|primary| {
            if let Some(path) = env::var_os("CHDIR") {
                env::set_current_dir(path).unwrap_or_else(|error| println!("error: {error}"));
            }
            let addrs: Vec<_> = primary
                .local_addrs()
                .iter()
                .map(ToString::to_string)
                .collect();
            println!("listening on {}", addrs.join(", "));
            if env::var("READINESS").is_ok_and(|readiness| readiness == "print") {
                tokio::spawn(print_readiness(primary));
            }
            tokio::spawn(print_requests(requests));
        })
        .on_fork(move |worker| {
            forked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(worker.id(), Instant::now());
            if let Some(greeting) = &greeting {
                report(worker.send(greeting));
            }
        })
        .on_listening(move |worker, _| {
            if let Some(forked) = listening
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&worker.id())
            {
                println!("fork to listening {} us", forked.elapsed().as_micros());
            }
        })
        .on_online(move |_| assert!(trouble != Trouble::Panic, "a hook was asked to panic"))
        .on_message(move |_, message| {
            on_message(&message, &counted);
            trouble.make();
        })
        .on_reopen(|| println!("{} opens its log anew", cluster::label()))
        .on_exit(|worker, exit| on_exit(worker, &exit))
        .on_error(|error| println!("error: {error:?}")))
}

fn on_message(message: &Message, requests: &AtomicU64) {
    match message.json() {
        Ok(Order::NotifyRequest) => {
            requests.fetch_add(1, Relaxed);
        }
        Ok(Order::Broadcast { text }) => {
            if let Some(primary) = cluster::primary() {
                report(primary.broadcast(&text));
            }
        }
        Err(error) => println!("error: {error:?}"),
    }
}

fn on_exit(worker: &WorkerHandle, exit: &Exit) {
    println!(
        "exit worker={} slot={} pid={} status={} in_flight={} open={} after_disconnect={} given_back={}",
        worker.id(),
        worker.slot(),
        worker.pid(),
        in_a_word(exit.status),
        exit.in_flight,
        exit.open_connections,
        exit.after_disconnect,
        exit.given_back
    );
    for cut in &exit.cut {
        println!(
            "cut worker={} of={} {} {} after {} ms",
            worker.id(),
            exit.requests_cut,
            cut.method,
            cut.path,
            cut.age.as_millis()
        );
    }
}

/// `exit:1` or `signal:9`.
fn in_a_word(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit:{code}"),
        (None, signal) => format!("signal:{}", signal.unwrap_or_default()),
    }
}

fn report<T>(result: axum_cluster::Result<T>) {
    if let Err(error) = result {
        println!("error: {error:?}");
    }
}

async fn print_readiness(primary: Primary) {
    let mut often = interval(Duration::from_millis(10));
    let mut printed = None;
    loop {
        let ready = primary.is_ready();
        if printed.replace(ready) != Some(ready) {
            println!("cluster ready: {ready}");
        }
        often.tick().await;
    }
}

async fn print_requests(requests: Arc<AtomicU64>) {
    let mut printed = 0;
    let mut second = interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let now = requests.load(Relaxed);
        if now != printed {
            println!("numReqs = {now}");
            printed = now;
        }
    }
}

// ===== variables =====

fn refuse(not_built: &[&str]) -> Result<(), String> {
    match not_built.iter().find(|name| env::var_os(name).is_some()) {
        Some(name) => Err(format!(
            "{name} is set, but this version has no such part yet; unset it"
        )),
        None => Ok(()),
    }
}

fn number(name: &str) -> Result<Option<u64>, String> {
    let Ok(value) = env::var(name) else {
        return Ok(None);
    };
    value
        .parse()
        .map(Some)
        .map_err(|_| format!("{name} is `{value}`; expected a number"))
}

/// What hooks do beside their work.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Panic,
    Sleep(Duration),
}

impl Trouble {
    fn asked_for() -> Result<Self, String> {
        let Ok(value) = env::var("HOOK") else {
            return Ok(Self::None);
        };
        match value.split_once(':') {
            None if value == "panic" => Ok(Self::Panic),
            Some(("sleep", ms)) => ms
                .parse()
                .map(|ms| Self::Sleep(Duration::from_millis(ms)))
                .map_err(|_| format!("HOOK is `{value}`")),
            _ => Err(format!("HOOK is `{value}`; expected `panic` or `sleep:MS`")),
        }
    }

    fn make(self) {
        match self {
            Self::None => {}
            Self::Panic => panic!("a hook was asked to panic"),
            Self::Sleep(Duration::ZERO) => {}
            Self::Sleep(time) => {
                println!("a hook sleeps");
                sleep(time);
                println!("a hook woke up");
            }
        }
    }
}

#[allow(clippy::exit, reason = "to end the process is what was asked for")]
fn misbehave_at_boot() {
    let boot = env::var("BOOT").unwrap_or_default();
    match boot.as_str() {
        "exit0" => std::process::exit(0),
        "exit1" => std::process::exit(1),
        "panic" => panic!("asked to panic at boot"),
        "hang" => sleep(FOR_EVER),
        _ => sleep(boot_time("slow:").unwrap_or_default()),
    }
}

fn boot_time(kind: &str) -> Option<Duration> {
    let ms = env::var("BOOT").ok()?.strip_prefix(kind)?.parse().ok()?;
    Some(Duration::from_millis(ms))
}

/// Runs a child that inherits standard input, and prints what it says.
fn run_child() -> Result<(), BoxError> {
    let kind = env::var("CHILD").unwrap_or_default();
    let mut command = match kind.as_str() {
        "cat" | "early" => Command::new("cat"),
        "label" => {
            let mut again = Command::new(env::current_exe()?);
            again.arg("label");
            again
        }
        _ => return Ok(()),
    };
    // A program that starts children above `serve` calls this first: it takes the worker's channel off standard input.
    let label = if kind == "early" {
        "somebody".to_owned()
    } else {
        cluster::label()
    };
    let output = command.stdin(Stdio::inherit()).output()?;
    println!(
        "child of {label}: {} {}",
        in_a_word(output.status),
        String::from_utf8_lossy(&output.stdout).trim()
    );
    Ok(())
}
