//! The end of the cluster: gracefully, or at once.

use std::time::{Duration, Instant};

use super::Driver;
use crate::supervisor::Input;

/// At a graceful end, the longest that accepted connections may wait for a worker with room before workers are retired.
const LAST_PLACING: Duration = Duration::from_secs(1);

/// A second TERM this soon after the first is the same one, sent to the group and to the process.
pub(crate) const SECOND_STOP: Duration = Duration::from_millis(500);

/// An end that has been asked for.
pub(super) struct Ending {
    pub(super) asked: Instant,
    stage: Stage,
}

enum Stage {
    /// Readiness says no; everything else goes on until then.
    Announced(Instant),
    /// Nothing is accepted any more; since when. What was accepted is being placed.
    Placing(Instant),
    /// The supervisor has been told: workers are being retired, or killed.
    Told,
}

impl Driver {
    /// Says that the cluster is going to end, which it does after the drain delay.
    pub(super) fn announce_end(&mut self) {
        let (now, delay) = (Instant::now(), self.settings.drain_delay);
        if !delay.is_zero() {
            tracing::info!(after = ?delay, "ending: not ready from now on, serving until then");
        }
        self.end(now, Stage::Announced(now + delay));
        self.tell(Input::Ending);
    }

    fn end(&mut self, asked: Instant, stage: Stage) {
        self.ending = Some(Ending { asked, stage });
        self.show_readiness();
        for child in self.children.values() {
            child.handle.row().order_unready();
        }
    }

    /// Lets handles know whether the cluster is at full strength.
    pub(super) fn show_readiness(&self) {
        let (listening, target) = (self.supervisor.listening(), self.supervisor.target());
        self.shared
            .set_ready(self.ending.is_none() && target > 0 && listening >= target);
    }

    /// When the announced end begins.
    pub(super) fn announced_until(&self) -> Option<Instant> {
        match self.ending.as_ref()?.stage {
            Stage::Announced(until) => Some(until),
            Stage::Placing(_) | Stage::Told => None,
        }
    }

    /// Whether the end has begun: nobody takes connections back any more.
    pub(super) fn is_closing(&self) -> bool {
        self.ending.is_some() && self.announced_until().is_none()
    }

    /// Begins a graceful end: what has come is still accepted and placed, then nothing more, then the workers drain.
    pub(super) async fn close(&mut self) {
        tracing::info!("ending gracefully");
        if let Some(ending) = &mut self.ending {
            ending.stage = Stage::Placing(Instant::now());
        }
        for (acceptor, running) in std::mem::take(&mut self.acceptors) {
            running.abort();
            // It holds the listener too. Once it is gone nothing comes between the last accept and the close.
            let _ = running.await;
            acceptor.end(&self.dispatch);
        }
        self.accept_last_asked().await;
        // Those that leave already find nobody any more who takes their connections.
        for child in self.children.values() {
            child.handle.retire();
            child.handle.row().order_to_leave(false);
        }
        self.close_further();
    }

    /// Retires the workers once every accepted connection is with one of them.
    pub(super) fn close_further(&mut self) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        let Stage::Placing(since) = ending.stage else {
            return;
        };
        let placed = self.dispatch.borrow().waiting() == 0;
        let hopeless =
            self.children.values().all(|child| !child.served) || since.elapsed() >= LAST_PLACING;
        if placed || hopeless {
            ending.stage = Stage::Told;
            self.tell(Input::Shutdown);
        }
    }

    pub(super) fn close_now(&mut self) {
        tracing::info!("ending at once");
        let asked = self
            .ending
            .as_ref()
            .map_or_else(Instant::now, |ending| ending.asked);
        self.end(asked, Stage::Told);
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
        self.close_all_asked();
    }
}
