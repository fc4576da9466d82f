//! axum's side: the `Worker` extractor, errors as responses, request bodies.

use std::{convert::Infallible, fmt};

use axum::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use http_body::Body as _;

use crate::{RequestBody, cluster, error::Error, worker::Worker};

impl<S: Sync> FromRequestParts<S> for Worker {
    type Rejection = NoWorker;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NoWorker> {
        find(parts).ok_or(NoWorker(()))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Worker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(find(parts))
    }
}

/// Putting it into each request would cost 41 ns; only [`ClusterLayer::pair`](crate::ClusterLayer::pair) does. Its own comes first: in a
/// test binary another test may have made this process a worker, and ended it.
fn find(parts: &Parts) -> Option<Worker> {
    parts.extensions.get().cloned().or_else(cluster::worker)
}

/// The rejection of the [`Worker`] extractor: the app does not run in a worker.
#[derive(Debug)]
pub struct NoWorker(());

impl fmt::Display for NoWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this app does not run in a worker of axum-cluster; serve it with `ClusteredServer`, put `ClusterLayer::pair()` on it in a \
             test, or extract `Option<Worker>`",
        )
    }
}

impl std::error::Error for NoWorker {}

impl IntoResponse for NoWorker {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// So that `worker.send(&hit)?` works in a handler: a 500, its text in the log and not in the response.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        tracing::error!(error = ?self, "a handler failed");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

impl From<RequestBody> for Body {
    fn from(body: RequestBody) -> Self {
        // The bodies of most requests end before they begin: no allocation for those.
        if body.is_end_stream() {
            Self::empty()
        } else {
            Self::new(body)
        }
    }
}
