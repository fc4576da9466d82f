//! The builder's times and limits.

use std::time::Duration;

use crate::server::ClusteredServer;

/// Times and limits. A worker takes the primary's.
impl ClusteredServer {
    /// How many connections a worker holds at the most; further ones go to other workers or wait. Default: as many as the
    /// limit of open descriptors allows. At least 1. A listener of [`cluster::listen`](crate::cluster::listen) has a limit
    /// [of its own](crate::cluster::Listen::max_connections).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = Some(connections.max(1));
        self
    }

    /// How long a worker may take from its start until it listens, before it is killed. Default 60 s.
    pub fn boot_timeout(mut self, time: Duration) -> Self {
        self.settings.boot_timeout = time;
        self
    }

    /// How long a worker's runtime may stand still before the worker is aborted and replaced. Default 30 s; more than 2 s is sensible,
    /// since the heart beats once a second.
    pub fn hang_timeout(mut self, time: Duration) -> Self {
        self.settings.hang_timeout = time;
        self
    }

    /// How long a graceful end of the cluster (TERM, [`shutdown`](crate::Primary::shutdown)) is announced before it begins: meanwhile
    /// [`Worker::is_ready`](crate::Worker::is_ready) says no and everything else goes on, so that a load balancer that asks a route like
    /// `/ready` sends nobody any more by the time nothing is accepted. Default zero. As long as the balancer's interval times the failures
    /// it wants to see is sensible; a second TERM ends the cluster at once. Restarts are not delayed.
    ///
    /// ```
    /// use axum::http::StatusCode;
    /// use axum_cluster::Worker;
    ///
    /// async fn ready(worker: Worker) -> StatusCode {
    ///     if worker.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    /// }
    /// # let _: axum::Router = axum::Router::new().route("/ready", axum::routing::get(ready));
    /// ```
    pub fn drain_delay(mut self, time: Duration) -> Self {
        self.settings.drain_delay = time;
        self
    }

    /// How long a worker that was told to leave may finish what is in flight, before that is cut. Default 30 s.
    pub fn drain_deadline(mut self, time: Duration) -> Self {
        self.settings.drain_deadline = time;
        self
    }

    /// How long a worker's process may go on after its `serve` has returned, before it is ended. Default 5 s.
    pub fn exit_grace(mut self, time: Duration) -> Self {
        self.settings.exit_grace = time;
        self
    }

    /// Whether a worker that leaves gives its HTTP/1.1 connections to the others, so that no client notices a restart. Default true.
    ///
    /// With `false` it ends them as at the end of the whole server: the next response says `Connection: close`, idle ones
    /// [linger](Self::linger), then close. For comparison, and for protocols on top that must not change the process.
    pub fn handback(mut self, handback: bool) -> Self {
        self.settings.handback = handback;
        self
    }

    /// How long an idle connection that nobody else can take stays open for one more request when its worker ends. Default 2 s; zero
    /// closes it at once, which a client that is just sending its next request sees as a reset or an end without an answer.
    pub fn linger(mut self, time: Duration) -> Self {
        self.settings.linger = time;
        self
    }

    /// How long a new connection may stay silent. Default 10 s; `None`: for ever.
    pub fn first_byte_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.first_byte_timeout = time.into();
        self
    }

    /// How long the head of a request may take from its first byte to its last. Default 10 s; `None`: for ever.
    pub fn header_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.header_timeout = time.into();
        self
    }

    /// How long a connection may be idle between two requests. Default 75 s; `None`: for ever.
    pub fn idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = time.into();
        self
    }
}
