//! Run with: cargo run --release --example hello
//!
//! Then `curl -i http://127.0.0.1:8000/` answers `hello world`, from one of four processes.

use axum::{Router, routing::get};
use axum_cluster::ClusteredServer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<()> {
    tracing_subscriber::fmt().init();
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    let app = Router::new().route("/", get(|| async { "hello world" }));
    ClusteredServer::bind(addr).workers(4).serve(app).await
}
