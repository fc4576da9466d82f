//! The app that `axum::serve` and this crate serve alike, and what its routes answer.

use axum::{
    Json, Router,
    body::Bytes,
    extract::Path,
    routing::{get, post},
};
use serde::Serialize;

pub(crate) const JSON: &str = "/json";
pub(crate) const BODY: &str = "/body";
pub(crate) const ECHO: &str = "/echo";
/// One of the many routes.
pub(crate) const DEEP: &str = "/tenants/7/resource137/42";
const MANY: usize = 200;

/// The routes of every workload but that with many.
pub(crate) fn few() -> Router {
    Router::new()
        .route("/", get(|| async { "hello world" }))
        .route(JSON, get(|| async { Json(orders()) }))
        .route(BODY, get(|| async { Bytes::from_static(&LARGE) }))
        .route(ECHO, post(|body: Bytes| async { body }))
}

/// Two hundred routes with two parameters each, and one that says that the server is there.
pub(crate) fn many() -> Router {
    let ready = Router::new().route("/", get(|| async { "hello world" }));
    (0..MANY).fold(ready, |router, number| {
        let path = format!("/tenants/{{tenant}}/resource{number}/{{id}}");
        router.route(&path, get(|_: Path<(u32, u32)>| async { "hello world" }))
    })
}

/// What `/json` answers: about a kilobyte.
pub(crate) fn json() -> Vec<u8> {
    serde_json::to_vec(&orders()).unwrap_or_default()
}

/// What `/body` answers.
pub(crate) static LARGE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

#[derive(Serialize)]
struct Order {
    id: u32,
    customer: &'static str,
    paid: bool,
    total: f64,
}

fn orders() -> Vec<Order> {
    (0..15)
        .map(|id| Order {
            id: 1_000 + id,
            customer: "somebody somewhere",
            paid: id % 3 == 0,
            total: f64::from(id) + 0.25,
        })
        .collect()
}
