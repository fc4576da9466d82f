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
//!
//! For more trouble see `adversity.rs` (bodies that nobody reads) and `boot.rs` (`BREAK_FILE`).

#![allow(clippy::print_stdout, reason = "what it prints is what one looks at")]

mod adversity;
mod app;
mod boot;
mod child;
mod crash;
mod hooks;
mod messages;
mod server;
mod streams;

use std::{env, thread::sleep};

use axum_cluster::{BoxError, cluster};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_writer(std::io::stderr)
        .init();
    boot::dawdle();
    if child::is_this() {
        println!("in a cluster I am: {}", cluster::label());
        return Ok(());
    }
    let server = hooks::watched(server::configured()?)?;
    child::run()?;
    if cluster::is_worker() {
        boot::misbehave();
    }
    let served = server
        .ready_when(|_| boot::get_ready())
        .serve_with(|worker| async move { Ok(app::app(&worker)) })
        .await;
    if cluster::is_worker() && env::var("AFTER").is_ok_and(|after| after == "sleep") {
        sleep(boot::FOR_EVER);
    }
    Ok(served?)
}
