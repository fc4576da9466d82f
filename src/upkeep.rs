//! How a running cluster is kept fit: the part of the builder that says when workers are replaced and connections move.

use std::time::Duration;

use crate::server::ClusteredServer;

impl ClusteredServer {
    /// Replaces each worker when it has served so many requests (at least 1). Default: never.
    ///
    /// For programs that grow with what they serve. A successor listens before the old worker is told to leave, and takes its live
    /// connections over: no client notices, and never fewer workers serve. One worker at a time: each gets up to a tenth more than
    /// `requests`, spread evenly, so that workers of the same load come due apart; and the next one waits until the last one has
    /// ended. Looked at 20 times a second: what a worker serves meanwhile comes on top. If a successor does not come up, the old worker
    /// stays, and it is tried again after a back-off. WebSockets and other long-lived streams are told by
    /// [`draining()`](crate::Worker::draining), and cut at the [`drain_deadline`](Self::drain_deadline). Not with `workers(0)`.
    pub fn max_requests(mut self, requests: u64) -> Self {
        self.settings.recycling.requests = Some(requests.max(1));
        self
    }

    /// Replaces each worker when it has listened for so long, as [`max_requests`](Self::max_requests) does; each gets up to a tenth
    /// more. Default: never.
    pub fn max_lifetime(mut self, time: Duration) -> Self {
        self.settings.recycling.lifetime = Some(time);
        self
    }

    /// Replaces a worker that holds more than so many bytes of memory, as [`max_requests`](Self::max_requests) does. Default: never.
    ///
    /// What counts is anonymous memory, swapped out or not (`RssAnon` and `VmSwap` of `/proc/PID/status`): what the worker has allocated,
    /// and what only its end gives back. The resident size would count the program's file too, which all workers share, the kernel
    /// takes back when it needs room, and a successor has as well. Sampled once a second; three samples in a row must be above, so that
    /// a peak recycles nobody. A worker that holds more than this as soon as it serves is replaced every few seconds: leave room.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.settings.recycling.memory = Some(bytes);
        self
    }

    /// Whether idle HTTP/1.1 connections move from workers that hold more than their share to others. Default: yes.
    ///
    /// After a restart, a crash or a scale-up new workers hold few connections, and clients that keep theirs would never come to them. So
    /// when a worker is off its share by more than a fifth (and more than 8, and more than chance explains) for half a second, the workers
    /// above it give up to 64 idle connections back in each tenth of a second, until each has its share; the emptiest worker goes on with
    /// them, and no client notices. A connection with a request on it, of HTTP/2, or upgraded is never moved for this. Not with
    /// [`IpHash`](crate::Scheduling::IpHash), where a client belongs to its worker, and not during a restart.
    pub fn rebalance(mut self, rebalance: bool) -> Self {
        self.settings.rebalance = rebalance;
        self
    }
}
