//! A worker that leaves because it wants to: asking the primary, which may know nothing of it, and closing the channel.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::Worker;
use crate::{frame::Frame, ipc::channel::Channel};

/// The longest that a leaving worker waits for its last messages to go.
const FLUSH: Duration = Duration::from_secs(1);

/// The longest that a worker that kills itself waits for its primary to know.
const KNOWN: Duration = Duration::from_secs(1);

/// How far a worker wants to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parting {
    #[default]
    Stays,
    Disconnects,
    /// Without waiting for anything in flight.
    Ends,
}

impl Worker {
    /// Leaves the cluster (Node's `worker.disconnect()` in a worker): as when the primary [disconnects](crate::WorkerHandle::disconnect)
    /// it. Nothing more is accepted, what is in flight finishes, then the channel closes.
    ///
    /// Acts at once; a second call changes nothing. The future completes when the channel has closed; it may be dropped. What the program
    /// does then is its own affair: a worker ends when `main` returns. A `ClusteredServer` starts another in its place at once.
    ///
    /// ```no_run
    /// # async fn example(worker: axum_cluster::Worker) {
    /// drop(worker.disconnect()); // from a handler, which does not wait for itself
    /// # }
    /// ```
    pub fn disconnect(&self) -> impl Future<Output = ()> + Send + use<> {
        self.part(Parting::Disconnects);
        let mut parted = self.shared.parted.subscribe();
        async move {
            // Its sender is gone only with the whole worker.
            let _ = parted.wait_for(|parted| *parted).await;
        }
    }

    /// Ends this process with code 0 (Node's `worker.kill()` in a worker): tells the primary that it means to, sends what it has still to
    /// send, closes the channel and exits. Requests in flight are cut. Returns at once; the end comes as soon as the runtime turns.
    pub fn kill(&self) {
        self.part(Parting::Ends);
    }

    /// Always false: a dead worker asks nothing (Node's `worker.isDead()`). [`WorkerHandle::is_dead`](crate::WorkerHandle::is_dead) is
    /// for the primary.
    pub fn is_dead(&self) -> bool {
        false
    }

    /// Whether its end was asked for, here or by the primary (Node's `worker.exitedAfterDisconnect`): `None` before.
    pub fn exited_after_disconnect(&self) -> Option<bool> {
        let leaves = self.is_draining() || *self.shared.parting.borrow() != Parting::Stays;
        leaves.then_some(true)
    }

    fn part(&self, how: Parting) {
        self.shared.parting.send_if_modified(|parting| {
            *parting < how && {
                *parting = how;
                true
            }
        });
    }

    /// Completes when this worker wants to leave, and further than that.
    pub(crate) async fn parting_beyond(&self, before: Parting) -> Parting {
        let mut parting = self.shared.parting.subscribe();
        let found = parting.wait_for(|parting| *parting > before).await;
        let found = found.map(|parting| *parting).ok();
        match found {
            Some(parting) => parting,
            None => std::future::pending().await,
        }
    }

    /// Completes when this worker wants to leave, so far at least.
    async fn parting(&self, how: Parting) {
        let mut parting = self.shared.parting.subscribe();
        if parting.wait_for(|parting| *parting >= how).await.is_err() {
            std::future::pending().await
        }
    }

    /// From here on the program serves: the end of that is the end of the channel.
    pub(super) fn serves(&self) {
        self.shared.serving.store(true, Relaxed);
    }

    fn is_serving(&self) -> bool {
        self.shared.serving.load(Relaxed)
    }

    /// Sends what is still to be sent, and nothing more after that: the primary sees the end of the channel.
    pub(super) async fn close(&self, channel: &Channel) {
        // Past this time what is not flushed is lost, as with a kill: the primary does not read.
        let _ = tokio::time::timeout(FLUSH, self.outbox().flushed()).await;
        self.outbox().close();
        channel.shut();
        self.shared.parted.send_replace(true);
    }
}

/// Does what the program asks for with `disconnect` and `kill`.
pub(super) async fn leave_when_wanted(worker: Worker, channel: Arc<Channel>) {
    worker.parting(Parting::Disconnects).await;
    worker.outbox().order(&Frame::Disconnecting);
    let known = async {
        worker.draining().await;
        if !worker.is_serving() {
            worker.close(&channel).await;
        }
    };
    tokio::select! {
        () = known => {}
        () = worker.parting(Parting::Ends) => {}
    }
    worker.parting(Parting::Ends).await;
    // So that it does not look like an accident. A primary that is gone needs not know.
    let _ = tokio::time::timeout(KNOWN, worker.draining()).await;
    worker.close(&channel).await;
    end();
}

#[allow(clippy::exit, reason = "to end the process is what was asked for")]
fn end() {
    std::process::exit(0);
}

/// Ends this process by a signal, whatever handlers there are for it.
pub(super) fn end_by(number: u32) {
    let ended = i32::try_from(number)
        .map_err(|_| std::io::ErrorKind::InvalidInput.into())
        .and_then(signal_hook::low_level::emulate_default_handler);
    // One that does not end a process: the primary sees to it.
    if let Err(error) = ended {
        tracing::error!(number, %error, "cannot end by this signal");
    }
}
