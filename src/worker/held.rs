//! Connections that are the program's own: how many are open, and when none is.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::sync::Notify;

use super::Worker;

/// How many of them there are, those that wait to be accepted too.
#[derive(Debug, Default)]
pub(crate) struct Count {
    open: AtomicUsize,
    none: Notify,
}

impl Count {
    pub(crate) fn get(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// Completes when there is none.
    pub(crate) async fn zero(&self) {
        loop {
            let none = self.none.notified();
            tokio::pin!(none);
            none.as_mut().enable();
            if self.get() == 0 {
                return;
            }
            none.await;
        }
    }
}

/// One connection that a leaving worker waits for, or somebody who is about to accept one: what has come by then is still taken.
pub(crate) struct Held(Worker);

impl Held {
    pub(crate) fn new(worker: Worker) -> Self {
        worker.ports().held().open.fetch_add(1, SeqCst);
        Self(worker)
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.0
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let count = self.0.ports().held();
        if count.open.fetch_sub(1, SeqCst) == 1 {
            count.none.notify_waiters();
        }
    }
}
