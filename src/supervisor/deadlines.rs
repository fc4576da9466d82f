//! How long each worker is waited for, and what becomes of it then.

use std::time::{Duration, Instant};

use super::worker::{Force, Overdue, Worker};
use super::{Action, Note, Supervisor};
use crate::id::WorkerId;

/// A driver that sleeps until the next deadline and does nothing else must not look as if it had been stopped.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

impl Supervisor {
    /// When the next [`Input::Tick`] is due at the latest; later than the last input, once that was polled to its end, unless it was a
    /// heartbeat.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let patience = self
            .workers
            .values()
            .filter_map(|worker| worker.deadline(&self.policy));
        let vacant = self
            .vacant()
            .filter_map(|slot| self.place(slot)?.not_before);
        let next = patience
            .map(|(at, _)| at)
            .chain(vacant)
            .chain(self.replacement_due())
            .min()?;
        let sleep = next.min(self.clock.now() + LONGEST_SLEEP);
        Some(self.clock.outside(sleep))
    }

    /// Does what is overdue.
    pub(super) fn enforce_deadlines(&mut self, now: Instant) {
        let due = |(&id, worker): (&WorkerId, &Worker)| {
            worker
                .deadline(&self.policy)
                .filter(|&(at, _)| at <= now)
                .map(|(_, overdue)| (id, overdue))
        };
        let overdue: Vec<_> = self.workers.iter().filter_map(due).collect();
        for (id, overdue) in overdue {
            match overdue {
                Overdue::Boot => self.note(Note::BootTimeout(id)),
                Overdue::Drain => self.note(Note::DeadlinePassed(id)),
                Overdue::Abort => {}
                Overdue::End => {
                    self.end(id, now);
                    continue;
                }
                Overdue::Beat => {
                    self.note(Note::Hung(id));
                    self.actions.push_back(Action::Abort(id));
                    self.with(id, |worker| worker.force = Force::Aborted { since: now });
                    continue;
                }
            }
            self.kill(id);
        }
    }
}
