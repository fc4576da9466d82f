//! What the primary tells about ends and restarts.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use http::Method;

use crate::{
    id::{Generation, WorkerId},
    signal::Signal,
};

/// How a worker ended, as `on_exit` sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// Its exit code or the signal that ended it.
    pub status: ExitStatus,
    /// Requests whose answer was not written in full when it ended: at most so many clients saw one cut. Zero after a graceful end.
    pub in_flight: u64,
    /// Connections it held when it ended: at most so many clients saw theirs reset. Zero after a graceful end.
    pub open_connections: u64,
    /// Connections that it gave back, so that another worker goes on with them.
    pub given_back: u64,
    /// True when the end was asked for (retired, shut down), false when the worker ended by itself or was killed.
    pub after_disconnect: bool,
    /// How many requests were cut because they were not done at the [drain deadline](crate::ClusteredServer::drain_deadline), WebSockets
    /// over HTTP/1.1 among them. Zero if the worker had to be killed there: it could not say it any more.
    pub requests_cut: u64,
    /// The oldest of them, longest first, 16 at the most; without those whose client was only slow to read its answer.
    pub cut: Vec<CutRequest>,
}

impl Exit {
    /// Its exit code (Node's `code`); `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it (Node's `signal`); `None` when it exited by itself, and for a signal without a name of its own.
    pub fn signal(&self) -> Option<Signal> {
        self.status.signal().and_then(Signal::from_number)
    }
}

/// A request that was cut at the drain deadline; see [`Exit::cut`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutRequest {
    /// Its method.
    pub method: Method,
    /// Its path without the query, which may hold secrets; at most 256 bytes of it. Empty where a request has none (`CONNECT`).
    pub path: String,
    /// How long before the cut it had begun, to within a second.
    pub age: Duration,
}

/// A path may be as long as a client likes; a log line may not.
const MAX_PATH: usize = 256;

impl CutRequest {
    pub(crate) fn new(method: Method, path: &str, age: Duration) -> Self {
        let mut end = path.len().min(MAX_PATH);
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            method,
            path: path[..end].to_owned(),
            age,
        }
    }
}

/// What was cut: all of it counted, the oldest named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cuts {
    pub(crate) total: u64,
    pub(crate) oldest: Vec<CutRequest>,
}

impl Cuts {
    /// As many are named.
    pub(crate) const NAMED: usize = 16;

    /// Tells the operator, a line a request.
    pub(crate) fn log(&self, worker: WorkerId) {
        for CutRequest { method, path, age } in &self.oldest {
            tracing::warn!(%worker, %method, path, ?age, "a request was cut at the drain deadline");
        }
        let more = self.total - self.oldest.len() as u64;
        if more > 0 {
            tracing::warn!(%worker, requests = more, "more requests were cut at the drain deadline");
        }
    }

    /// Counts a request, and names it if it is one of the oldest so far.
    pub(crate) fn add(&mut self, age: Duration, name: impl FnOnce(Duration) -> CutRequest) {
        self.total += 1;
        let place = self.oldest.partition_point(|older| older.age >= age);
        if place < Self::NAMED {
            self.oldest.truncate(Self::NAMED - 1);
            self.oldest.insert(place, name(age));
        }
    }
}

/// A rolling restart that was carried out; see [`Primary::restart`](crate::Primary::restart).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restarted {
    /// The generation of the new workers.
    pub generation: Generation,
    /// How many workers were replaced.
    pub replaced: u32,
    /// From the request until the last old worker was told to leave; its drain may go on.
    pub took: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_named_and_all_are_counted() {
        let mut cuts = Cuts::default();
        for n in (0..50).chain(100..150) {
            let age = Duration::from_secs(n);
            cuts.add(age, |age| {
                CutRequest::new(Method::GET, &format!("/{n}"), age)
            });
        }
        assert_eq!(cuts.total, 100);
        let named: Vec<_> = cuts.oldest.iter().map(|cut| cut.age.as_secs()).collect();
        assert_eq!(named, (134..150).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_path_is_bounded() {
        let cut = CutRequest::new(
            Method::GET,
            &format!("/{}", "é".repeat(1000)),
            Duration::ZERO,
        );
        assert_eq!(cut.path.len(), 256 - 1);
    }
}
