//! Run with: cargo run --example hyper_only --no-default-features
//!
//! Without axum: any tower service of requests is served, and each worker answers with its id.
//!
//! ```text
//! $ cargo run --example hyper_only --no-default-features
//! listening on 127.0.0.1:8000
//! $ curl http://127.0.0.1:8000/any/path
//! GET /any/path, says worker 1
//! ```

#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::convert::Infallible;

use axum_cluster::{ClusteredServer, RequestBody, cluster};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::service_fn;

async fn answer(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let who =
        cluster::worker().map_or_else(|| "nobody".to_owned(), |worker| worker.id().to_string());
    let text = format!(
        "{} {}, says worker {who}\n",
        request.method(),
        request.uri().path()
    );
    Ok(Response::new(Full::from(text)))
}

fn main() -> axum_cluster::Result<()> {
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    ClusteredServer::bind(addr)
        .workers(2)
        .on_ready(|primary| println!("listening on {}", primary.local_addrs()[0]))
        .serve_service(service_fn(answer))
        .run()
}
