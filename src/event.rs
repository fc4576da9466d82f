//! What the primary tells about ends and restarts.

use std::{process::ExitStatus, time::Duration};

use crate::id::Generation;

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
