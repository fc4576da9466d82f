//! The routes, and who answered.

use std::{net::SocketAddr, thread, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, Query},
    http::StatusCode,
    middleware::map_response,
    response::Response,
    routing::{get, post},
};
use axum_cluster::Worker;
use serde::Deserialize;

use crate::{adversity, crash::crash, messages, streams};

pub(crate) fn app(worker: &Worker) -> Router {
    let told = worker.clone();
    tokio::spawn(messages::hear(worker.clone()));
    Router::new()
        .route("/", get(|| async { "hello world" }))
        .route("/ready", get(ready))
        .route("/slow", get(slow))
        .route("/echo", post(|body: Bytes| async { body }))
        .route(
            "/peer",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        )
        .route("/sse", get(streams::events))
        .route("/ws", get(streams::web_socket))
        .route("/block", get(block))
        .route("/leak", get(leak))
        .route("/panic", get(panicking))
        .route("/crash", get(crash))
        .route(
            "/notify",
            post(|worker: Worker| async move { worker.send(&messages::Order::NotifyRequest) }),
        )
        .route(
            "/broadcast",
            post(|worker: Worker, text: String| async move {
                worker.send(&messages::Order::Broadcast { text })
            }),
        )
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

/// For load balancers.
async fn ready(worker: Worker) -> (StatusCode, &'static str) {
    if worker.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster is ending")
    }
}

#[derive(Deserialize)]
struct Time {
    ms: u64,
}

async fn slow(Query(Time { ms }): Query<Time>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("after {ms} ms")
}

async fn block(Query(Time { ms }): Query<Time>) -> String {
    thread::sleep(Duration::from_millis(ms));
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
