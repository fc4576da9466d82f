//! What the primary tells about a worker's end.

use std::process::ExitStatus;

/// How a worker ended, as `on_exit` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// Its exit code or the signal that ended it.
    pub status: ExitStatus,
    /// Requests whose answer was not written in full when it ended: at most so many clients saw one cut. Zero after a graceful end.
    pub in_flight: u64,
    /// Connections it held when it ended: at most so many clients saw theirs reset. Zero after a graceful end.
    pub open_connections: u64,
    /// True when the end was asked for (retired, shut down), false when the worker ended by itself or was killed.
    pub after_disconnect: bool,
}
