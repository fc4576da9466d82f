//! Recycling: shows the machine what workers have done, and tells the supervisor who is due.

use std::time::Instant;

use super::Driver;
use crate::{primary::memory, recycling::Sighting, supervisor::Input};

impl Driver {
    /// Looks at every worker that serves, the oldest first.
    pub(super) fn recycle(&mut self, now: Instant) {
        // An upgrade waits for a moment without replacements; workers that are recycled all the time must not put it off for ever.
        if !self.recycling.is_on() || self.ending.is_some() || self.upgrade_is_due() {
            return;
        }
        let mut due = Vec::new();
        for (&id, child) in &self.children {
            if !child.served || child.handle.is_retired() {
                continue;
            }
            let memory = self
                .recycling
                .wants_memory(now, id)
                .then(|| memory::held_by(child.handle.pid()));
            let sighting = Sighting {
                id,
                requests: child.handle.requests(),
                memory: memory.flatten(),
            };
            if let Some(reason) = self.recycling.saw(now, sighting) {
                tracing::info!(worker = %id, slot = %child.handle.slot(), "worker is recycled: {reason}");
                due.push(id);
            }
        }
        due.into_iter().for_each(|id| self.tell(Input::Recycle(id)));
    }
}
