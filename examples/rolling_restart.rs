//! Deploy without a failed request: edit, build, `kill -HUP`, and the new code takes over.
//!
//! ```text
//! $ cargo run --release --example rolling_restart
//! listening on 127.0.0.1:8000, pid 4711
//!
//! $ while curl -sS localhost:8000; do sleep 0.1; done     # in a second terminal; leave it running
//! build one: worker 1 of generation 1
//! ```
//!
//! Now edit `BUILD` below, and in a third terminal:
//!
//! ```text
//! $ cargo build --release --example rolling_restart
//! $ kill -HUP 4711
//! ```
//!
//! The second terminal goes on without a gap, and says `build two` and `generation 2`. The first one says which program the primary is
//! now: the pid is the same, and so is the count of requests, which the old primary left to the new one. A program that does not come up
//! (try `panic!()` as the first line of `main`) changes nothing but the log.

#![allow(clippy::print_stdout, reason = "it is what this example shows")]

use std::{hint::black_box, io::Write};

use axum::{Router, extract::State, routing::get};
use axum_cluster::{ClusteredServer, Worker, cluster};

static BUILD: &str = "build one";

async fn hello(State(build): State<&'static str>, worker: Worker) -> String {
    format!(
        "{build}: worker {} of generation {}\n",
        worker.id(),
        worker.generation()
    )
}

fn main() -> axum_cluster::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    // Not known to the compiler, so that this example's own test can change it in the file.
    let build = black_box(BUILD);
    let app = Router::new().route("/", get(hello)).with_state(build);
    ClusteredServer::bind(addr)
        .prepare(move || async move {
            println!("{build}: prepare");
            Ok(())
        })
        .on_upgrade(move || build.as_bytes().to_vec())
        .on_ready(move |primary| {
            let addresses: Vec<_> = primary
                .local_addrs()
                .iter()
                .map(ToString::to_string)
                .collect();
            println!(
                "listening on {}, pid {}",
                addresses.join(", "),
                std::process::id()
            );
            if let Some(before) = cluster::inherited() {
                println!(
                    "{build} after {}, {} requests so far",
                    String::from_utf8_lossy(&before),
                    primary.requests()
                );
            }
            let _ = std::io::stdout().flush();
        })
        .serve(app)
        .run()
}
