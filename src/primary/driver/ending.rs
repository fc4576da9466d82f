//! The end of the cluster: gracefully, or at once.

use std::time::{Duration, Instant};

use super::Driver;
use crate::supervisor::Input;

/// At a graceful end, the longest that accepted connections may wait for a worker with room before workers are retired.
const LAST_PLACING: Duration = Duration::from_secs(1);

/// A second TERM this soon after the first is the same one, sent to the group and to the process.
pub(crate) const SECOND_STOP: Duration = Duration::from_millis(500);

/// A graceful end that has begun.
pub(super) struct Closing {
    pub(super) since: Instant,
    /// The supervisor has been told: workers are being retired.
    pub(super) told: bool,
}

impl Driver {
    /// Begins a graceful end: what has come is still accepted and placed, then nothing more, then the workers drain.
    pub(super) fn close(&mut self) {
        tracing::info!("ending gracefully");
        for (acceptor, running) in &self.acceptors {
            running.abort();
            acceptor.accept_rest(&self.dispatch);
        }
        self.closing = Some(Closing {
            since: Instant::now(),
            told: false,
        });
        // Those that leave already find nobody any more who takes their connections.
        for child in self.children.values() {
            child.handle.retire();
            child.handle.row().order_to_leave(false);
        }
        self.close_listeners();
        self.close_further();
    }

    /// Retires the workers once every accepted connection is with one of them.
    pub(super) fn close_further(&mut self) {
        let Some(closing) = &mut self.closing else {
            return;
        };
        let placed = self.dispatch.borrow().waiting() == 0;
        let hopeless = self.children.values().all(|child| !child.served)
            || closing.since.elapsed() >= LAST_PLACING;
        if !closing.told && (placed || hopeless) {
            closing.told = true;
            self.tell(Input::Shutdown);
        }
    }

    pub(super) fn close_now(&mut self) {
        tracing::info!("ending at once");
        self.children
            .values()
            .for_each(|child| child.handle.retire());
        self.close_listeners();
        self.tell(Input::ShutdownNow);
    }

    /// Closes the listening sockets and removes the files of those that have one.
    pub(super) fn close_listeners(&mut self) {
        for (_, running) in self.acceptors.drain(..) {
            running.abort();
        }
    }
}
