//! What `playground` has for clients that mean no good.
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

use std::time::Duration;

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
