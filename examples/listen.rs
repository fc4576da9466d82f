//! Run with: cargo run --example listen
//!
//! Listeners that the workers open themselves, beside the address that is served: the primary binds them once, and each worker serves
//! its share with axum's own server.
//!
//! ```text
//! $ cargo run --example listen
//! worker 1 also listens on 127.0.0.1:9000
//! worker 2 also listens on 127.0.0.1:9000
//! listening on 127.0.0.1:8000
//! $ curl http://127.0.0.1:9000/
//! worker 1 says hello to 127.0.0.1:50236
//! $ curl http://127.0.0.1:9000/
//! worker 2 says hello to 127.0.0.1:50238
//! ```
//!
//! `ALSO` is the other address (127.0.0.1:9000).

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::future::IntoFuture;

use axum::{Router, extract::ConnectInfo, routing::get};
use axum_cluster::{
    BoxError, ClusteredServer, Worker,
    cluster::{self, Peer},
};

async fn hello(worker: Worker, ConnectInfo(peer): ConnectInfo<Peer>) -> String {
    format!("worker {} says hello to {peer}\n", worker.id())
}

async fn listen(worker: Worker) -> Result<(), BoxError> {
    let also = std::env::var("ALSO").unwrap_or_else(|_| "127.0.0.1:9000".into());
    let listener = cluster::listen(also).await?;
    println!(
        "worker {} also listens on {}",
        worker.id(),
        listener.local_addr()
    );
    let app = Router::new()
        .route("/", get(hello))
        .into_make_service_with_connect_info::<Peer>();
    // On a restart it takes no more, and finishes what it has.
    let server = axum::serve(listener, app).with_graceful_shutdown(worker.draining());
    tokio::spawn(server.into_future());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
        .init();
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    ClusteredServer::bind(addr)
        .workers(2)
        .on_ready(|primary| println!("listening on {}", primary.local_addrs()[0]))
        .serve_with(|worker| async move {
            listen(worker).await?;
            Ok(Router::new().route("/", get(|| async { "hello world\n" })))
        })
        .await
}
