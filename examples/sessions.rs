//! Run with: cargo run --release --example sessions
//!
//! A session in a signed cookie holds on every worker, because all of them sign with the same `worker.secret()`:
//!
//! ```text
//! $ curl -c jar 'http://127.0.0.1:8000/login?user=ada'
//! hello ada
//! $ curl -b jar http://127.0.0.1:8000/whoami        # again and again: each time another worker, always
//! ada
//! ```
//!
//! With `Key::generate()` above `serve` each worker would have a key of its own, and three of four requests would be strangers.

#![allow(clippy::print_stdout, reason = "it says where it listens")]

use axum::{
    Router,
    extract::{FromRef, Query, State},
    http::StatusCode,
    response::IntoResponse,
    routing::get,
};
use axum_cluster::{ClusteredServer, Worker};
use axum_extra::extract::cookie::{Cookie, Key, SignedCookieJar};
use serde::Deserialize;

#[derive(Clone)]
struct App {
    key: Key,
    worker: Worker,
}

/// What `SignedCookieJar` asks for.
impl FromRef<App> for Key {
    fn from_ref(app: &App) -> Self {
        app.key.clone()
    }
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

async fn login(jar: SignedCookieJar, Query(Login { user }): Query<Login>) -> impl IntoResponse {
    let hello = format!("hello {user}");
    let cookie = Cookie::build(("user", user)).http_only(true).path("/");
    (jar.add(cookie), hello)
}

async fn whoami(State(app): State<App>, jar: SignedCookieJar) -> impl IntoResponse {
    let worker = [("x-worker", app.worker.id().to_string())];
    match jar.get("user") {
        Some(user) => (StatusCode::OK, worker, user.value().to_owned()),
        None => (StatusCode::UNAUTHORIZED, worker, "nobody".to_owned()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    ClusteredServer::bind(addr)
        .workers(4)
        .on_ready(|primary| println!("listening on {}", primary.local_addrs()[0]))
        .serve_with(|worker| async move {
            let app = App {
                key: Key::from(worker.secret()),
                worker,
            };
            Ok(Router::new()
                .route("/login", get(login))
                .route("/whoami", get(whoami))
                .with_state(app))
        })
        .await
}
