//! Serves HTTP/1 and HTTP/2 on connections that are already there, and lets them go alive.
//!
//! This floor knows a stream and a service, not who handed them over. [`Connections::serve`] drives one connection to one
//! of three ends ([`End`]): closed, upgraded, or *released* between two requests, with what was read of the next one, so
//! that another process can go on with it and the client never notices.
//!
//! ```text
//! connections   all of this process: serve, leave, cut            registry   the list behind it
//! preamble      the first bytes: HTTP/1 or HTTP/2?                socket     the stream as hyper sees it; counts itself
//! http1         the driver and the release rule                   http2      the driver, streams, GOAWAY
//! app, answer   from hyper's service to the user's and back       body       the request body handlers see
//! link          what a connection shares with the process         exchange   what lives on it, what is in flight
//! requests      what these are, for when they are cut
//! phase, reaper one word a connection, one task for all timeouts  linger     an end that loses no response
//! gather        writes a head and a short body as one piece      scratch    a buffer a thread for short reads
//! ```
//!
//! A request costs no timer and no lock that anybody else holds, and over HTTP/1 no allocation beyond hyper's own.

mod answer;
mod app;
mod body;
mod connections;
mod exchange;
mod gather;
mod http1;
mod http2;
mod lent;
mod linger;
mod link;
mod orders;
mod phase;
mod preamble;
mod reaper;
mod registry;
mod requests;
mod route;
mod scratch;
mod socket;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use app::{Content, Serves, Taken};
pub use body::RequestBody;
pub(crate) use connections::Connections;
pub(crate) use orders::Leave;
pub(crate) use route::Route;
#[cfg(feature = "axum")]
pub(crate) use route::found;
#[cfg(all(test, feature = "axum"))]
pub(crate) use route::take as take_route;

use crate::moved::Moved;

/// What any part of an HTTP message or of a service may fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a connection may take. `None` is for ever. Never early; late by at most a quarter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Until the first byte of a connection that was just accepted.
    pub(crate) first_byte: Option<Duration>,
    /// From the first byte of a request's head to its last, however they trickle in.
    pub(crate) head: Option<Duration>,
    /// Between two requests.
    pub(crate) idle: Option<Duration>,
    /// Between two requests, or before the first, once the process is leaving and nobody takes the connection. Zero: it is
    /// closed at once.
    pub(crate) linger: Duration,
}

/// Where a connection stands when it is given to [`Connections::serve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Just accepted.
    Fresh,
    /// Between two requests: another process let it go there. Its time runs on.
    Moved(Moved),
    /// Released here, but nobody took it: [`Leave::Close`] holds for it, whatever holds for the process.
    Stays(Moved),
}

/// How serving a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End<IO> {
    /// The stream is closed.
    Closed,
    /// The handler has the stream. It still counts as open and can still be [cut](Connections::cut).
    Upgraded,
    /// Let go between two requests: the stream, and where it stands. No longer counted as open.
    Released(IO, Moved),
}
