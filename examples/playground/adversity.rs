//! What `playground` has for clients that mean no good, and for programs that are broken.
//!
//! | route | answer |
//! |---|---|
//! | `/number/N` | N |
//! | `/ignore/N` | N; the request's body is never read |
//! | `/keep/N?then=drop\|read&ms=N` | N at once; a task drops the request's body after so many ms, or then reads it to its end |
//! | `/finish/N?ms=N` | N when the body has been read to its end; a task keeps it for so many ms |
//! | `/bytes?count=N` | so many bytes; the request's body is never read |
//! | `/status/CODE` | that status, without a body |
//! | `/smuggled` | `smuggled`, and the line `SMUGGLED`: nobody asks for it but bytes of another request's body |
//!
//! `BREAK_FILE=PATH`: a worker reads how to break when it starts: `panic`, `exit0`, `segv`, `hang` (never listens) or `die` (soon after it
//! listens), and with ` SLOT` behind it only in that slot. A file, so that a next generation breaks and this one does not.

use std::{env, fs, thread, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, Request},
    http::StatusCode,
    routing::any,
};
use http_body_util::BodyExt;
use serde::Deserialize;

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/number/{n}", any(|Path(n): Path<String>| async { n }))
        .route(
            "/ignore/{n}",
            any(|Path(n): Path<String>, _: Request| async { n }),
        )
        .route("/keep/{n}", any(keep))
        .route("/finish/{n}", any(finish))
        .route(
            "/bytes",
            any(|Query(Bytes { count }), _: Request| async move { vec![b'x'; count] }),
        )
        .route("/status/{code}", any(status))
        .route("/smuggled", any(smuggled))
}

#[derive(Deserialize)]
struct Bytes {
    count: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    Drop,
    Read,
}

#[derive(Deserialize)]
struct Keep {
    then: Then,
    ms: u64,
}

async fn keep(
    Path(n): Path<String>,
    Query(Keep { then, ms }): Query<Keep>,
    request: Request,
) -> String {
    let mut body = request.into_body();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        match then {
            Then::Drop => drop(body),
            Then::Read => read(&mut body).await,
        }
    });
    n
}

#[derive(Deserialize)]
struct Finish {
    ms: u64,
}

async fn finish(
    Path(n): Path<String>,
    Query(Finish { ms }): Query<Finish>,
    request: Request,
) -> String {
    let mut body = request.into_body();
    read(&mut body).await;
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        drop(body);
    });
    n
}

async fn read(body: &mut Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn smuggled() -> &'static str {
    println!("SMUGGLED");
    "smuggled"
}

/// Breaks a worker if it was told to.
#[allow(clippy::exit, reason = "to end the process is what was asked for")]
pub(crate) fn break_if_told() {
    let told = env::var_os("BREAK_FILE").and_then(|path| fs::read_to_string(path).ok());
    let told = told.unwrap_or_default();
    let mut words = told.split_whitespace();
    let how = words.next().unwrap_or_default();
    let born = env::var("AXUM_CLUSTER_WORKER").unwrap_or_default();
    if words
        .next()
        .is_some_and(|slot| !born.ends_with(&format!(".{slot}")))
    {
        return;
    }
    match how {
        "panic" => panic!("told to break"),
        "exit0" => std::process::exit(0),
        "segv" => segv(),
        "hang" => loop {
            thread::sleep(Duration::from_secs(60));
        },
        "die" => drop(thread::spawn(|| {
            thread::sleep(Duration::from_millis(300));
            segv();
        })),
        _ => {}
    }
}

/// The first is swallowed by Rust's own handler, which looks for stack overflows and then takes itself away.
fn segv() {
    for _ in 0..2 {
        // Raised in this very process, which cannot fail.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
    }
}
