//! Rebalancing: shows the machine what workers hold, and asks those that hold too much for idle connections.

use std::time::Instant;

use super::Driver;
use crate::frame::Frame;

impl Driver {
    pub(super) fn rebalance(&mut self, now: Instant) {
        if !self.settings.rebalance || self.dispatch.borrow().is_sticky() {
            return;
        }
        // A restart moves every connection anyway, each once.
        if self.ending.is_some() || self.supervisor.restarting().is_some() {
            return self.balance.reset();
        }
        let loads = self.dispatch.borrow().loads();
        for (id, connections) in self.balance.look(now, &loads) {
            if let Some(child) = self.children.get(&id) {
                tracing::info!(worker = %id, connections, "idle connections move to emptier workers");
                child.handle.outbox().order(&Frame::GiveBack(connections));
            }
        }
    }

    /// Has workers that were relieved show that they are back as soon as they read it: their own heart beats once a second only. An order
    /// that asks for nothing, so that every program knows it.
    pub(super) fn ask_for_life(&self) {
        for id in self.dispatch.borrow_mut().take_relieved() {
            if let Some(child) = self.children.get(&id) {
                child.handle.outbox().order(&Frame::GiveBack(0));
            }
        }
    }
}
