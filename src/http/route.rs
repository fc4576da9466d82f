//! A request's route, on its way from the router, where alone it is known, to the answer, which tells of it.

use std::cell::Cell;

/// As the router knows it.
#[cfg(feature = "axum")]
pub(crate) type Route = axum::extract::MatchedPath;
#[cfg(not(feature = "axum"))]
pub(crate) type Route = String;

thread_local! {
    // A layer that is called in the midst of a service has no other way to say something to who called the service.
    static FOUND: Cell<Option<Route>> = const { Cell::new(None) };
}

/// Says which route a request takes, while its service is called or its answer is polled.
#[cfg(feature = "axum")]
pub(crate) fn found(route: Option<Route>) {
    FOUND.set(route);
}

/// What was found since this was called last.
pub(crate) fn take() -> Option<Route> {
    FOUND.take()
}
