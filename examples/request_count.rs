//! Run with: cargo run --release --example request_count
//!
//! Node's documented example of messages: each worker tells the primary of each request. `curl http://127.0.0.1:8000/` answers
//! `hello world`, and the primary prints once a second
//!
//! ```text
//! numReqs = 1 (scoreboard: 1)
//! ```
//!
//! The first number is counted by messages, the second is what shared memory says without any.

#![allow(clippy::print_stdout, reason = "printing is what it shows")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use axum_cluster::{ClusteredServer, Primary, Worker, cluster};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Command<'a> {
    cmd: &'a str,
}

async fn hello(worker: Worker) -> axum_cluster::Result<&'static str> {
    worker.send(&Command {
        cmd: "notifyRequest",
    })?;
    Ok("hello world")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    let app = Router::new().route("/", get(hello));

    // Workers have a counter too, since they run this line as well; nobody counts there.
    // A program that is upgraded in place (`kill -USR2`) leaves what it counted to the next one.
    let before = cluster::inherited().and_then(|bytes| bytes.try_into().ok());
    let requests = Arc::new(AtomicU64::new(before.map_or(0, u64::from_le_bytes)));
    let (count, seen, left) = (requests.clone(), requests.clone(), requests.clone());
    ClusteredServer::bind(addr)
        .workers(4)
        .on_message(move |_worker, message| {
            if message
                .json::<Command<'_>>()
                .is_ok_and(|command| command.cmd == "notifyRequest")
            {
                count.fetch_add(1, Relaxed);
            }
        })
        .on_upgrade(move || left.load(Relaxed).to_le_bytes().to_vec())
        .on_ready(move |primary| {
            println!("listening on {}", primary.local_addrs()[0]);
            tokio::spawn(print_every_second(seen, primary));
        })
        .serve(app)
        .await?;

    // Every worker has flushed its messages and ended.
    if let Some(primary) = cluster::primary() {
        println!(
            "final: messages = {}, scoreboard = {}",
            requests.load(Relaxed),
            primary.requests()
        );
    }
    Ok(())
}

async fn print_every_second(requests: Arc<AtomicU64>, primary: Primary) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        println!(
            "numReqs = {} (scoreboard: {})",
            requests.load(Relaxed),
            primary.requests()
        );
    }
}
