//! Run with: cargo run --example echo_messages
//!
//! Node's example of `worker.send()`: the primary says something to each worker as soon as it is forked, and each worker sends back
//! whatever it is sent.
//!
//! ```text
//! $ cargo run --example echo_messages
//! worker 1 sends back: hi there
//! worker 2 sends back: hi there
//! listening on 127.0.0.1:8000
//! ```
//!
//! The lines may come in another order. What is sent before a worker is up waits until it listens to messages.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use axum::Router;
use axum_cluster::{ClusteredServer, Worker};

/// In a worker: `process.on('message', (msg) => { process.send(msg); })`.
async fn echo(worker: Worker) -> axum_cluster::Result<()> {
    let mut messages = worker.messages();
    while let Some(message) = messages.recv().await {
        worker.send_bytes(message.bytes().clone())?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<()> {
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    ClusteredServer::bind(addr)
        .workers(2)
        .on_ready(|primary| println!("listening on {}", primary.local_addrs()[0]))
        // In the primary: `const worker = cluster.fork(); worker.send('hi there');`.
        .on_fork(|worker| {
            if let Err(error) = worker.send(&"hi there") {
                println!("cannot send to worker {}: {error}", worker.id());
            }
        })
        .on_message(|worker, message| match message.json::<String>() {
            Ok(text) => println!("worker {} sends back: {text}", worker.id()),
            Err(error) => println!("worker {} sends nonsense: {error}", worker.id()),
        })
        .serve_with(|worker| async move {
            tokio::spawn(echo(worker));
            Ok(Router::new())
        })
        .await
}
