//! A load that runs: looked at while it does, and ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{Record, Tally};

/// What the clients of one load share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) begun: Instant,
    pub(super) stop: AtomicBool,
    pub(super) left: AtomicU64,
    pub(super) done: AtomicU64,
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) time: Duration,
    pub(super) clients: Vec<JoinHandle<Vec<Record>>>,
}

impl Running {
    /// Time since it began, as the records have it.
    pub(crate) fn clock(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// How long it goes on at the most.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// Requests that have ended so far.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Relaxed)
    }

    /// Ends it: each client finishes the request that it is at.
    pub(crate) fn stop(self) -> Tally {
        self.send_no_more();
        self.wait()
    }

    /// Each client ends after the request that it is at.
    pub(crate) fn send_no_more(&self) {
        self.shared.stop.store(true, Relaxed);
    }

    /// Waits until it has come to its count or time.
    pub(crate) fn wait(self) -> Tally {
        let records = self
            .clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect();
        Tally::new(records, self.shared.begun.elapsed())
    }
}
