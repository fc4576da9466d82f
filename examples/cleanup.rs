//! Run with: cargo run --release --example cleanup
//!
//! `serve` returns in every process, so what stands below it runs in every process. `curl http://127.0.0.1:8000/` answers
//! `hello world`; Ctrl-C then prints
//!
//! ```text
//! worker 0: cleaned up
//! worker 1: cleaned up
//! primary: cleaned up
//! ```

#![allow(clippy::print_stdout, reason = "printing is what it shows")]

use axum::{Router, routing::get};
use axum_cluster::{ClusteredServer, cluster};

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    let app = Router::new().route("/", get(|| async { "hello world" }));

    let served = ClusteredServer::bind(addr)
        .workers(2)
        .on_ready(|primary| println!("listening on {}", primary.local_addrs()[0]))
        .serve(app)
        .await;

    // Here a worker closes its pool and flushes what it has buffered. It has 5 seconds (`exit_grace`).
    println!("{}: cleaned up", cluster::label());
    served
}
