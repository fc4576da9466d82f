//! Replacing workers, one at a time: the successor first, then the old one's order to retire.
//!
//! A restart is a generation number, not a list: the next slot to replace is the lowest whose generation is older.

use std::time::{Duration, Instant};

use super::io::Note;
use super::slot::Place;
use super::worker::Worker;
use super::{Phase, State, Supervisor};
use crate::id::{Generation, Slot, WorkerId};

/// A rolling restart under way.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) generation: Generation,
    min_up: Duration,
    began: Instant,
    replaced: u32,
}

/// A successor on trial in a slot whose incumbent, if it still has one, stays until the trial is passed.
#[derive(Debug)]
pub(super) struct Replacement {
    slot: Slot,
    successor: WorkerId,
    cause: Cause,
    /// How long the successor has to have listened.
    min_up: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Failing abandons the restart.
    Restart,
    /// The incumbent asked to leave or has served enough. Failing means to try again after a back-off.
    Leaving,
}

impl Supervisor {
    /// Requests during a restart are merged into one that follows it, with the longest trial asked for.
    pub(super) fn request_restart(&mut self, min_up: Duration) {
        if self.phase == Phase::Running {
            self.queued_restart = self.queued_restart.max(Some(min_up));
        }
    }

    /// Has a worker replaced from this time on, as soon as its turn comes.
    pub(super) fn replace_at(&mut self, id: WorkerId, due: Instant) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.leave_at(due);
        }
    }

    /// Ends the trial of a successor that has proved itself, or that never will.
    pub(super) fn advance_replacement(&mut self, now: Instant) {
        let Some(replacement) = &self.replacement else {
            return;
        };
        let successor = self.workers.get(&replacement.successor);
        if !successor.is_some_and(Worker::is_promising) {
            self.fail_replacement(now);
        } else if self.replacement_proven_at().is_some_and(|at| at <= now) {
            self.complete_replacement(now);
        }
    }

    /// Begins the next replacement, if none is under way: of a restart, else of a worker that is to leave.
    ///
    /// A restart goes first because it replaces who wants to leave anyway.
    pub(super) fn begin_replacement(&mut self, now: Instant) {
        if self.replacement.is_some() {
            return;
        }
        while let Some(restart) = self.current_restart(now) {
            let (generation, min_up) = (restart.generation, restart.min_up);
            let older = self
                .slots()
                .find(|(_, place)| place.generation < generation);
            if let Some(slot) = older.map(|(slot, _)| slot) {
                return self.try_successor(slot, generation, Cause::Restart, min_up, now);
            }
            self.complete_restart(now);
        }
        let due = |&(_, place): &(Slot, &Place)| self.leaver_due(place).is_some_and(|at| at <= now);
        let leaver = self
            .slots()
            .find(due)
            .map(|(slot, place)| (slot, place.generation));
        if let Some((slot, generation)) = leaver {
            self.try_successor(slot, generation, Cause::Leaving, Duration::ZERO, now);
        }
    }

    /// When a replacement moves on by time alone.
    pub(super) fn replacement_due(&self) -> Option<Instant> {
        if self.replacement.is_some() {
            return self.replacement_proven_at();
        }
        self.places
            .iter()
            .filter_map(|place| self.leaver_due(place))
            .min()
    }

    pub(super) fn is_being_replaced(&self, slot: Slot) -> bool {
        self.replacement
            .as_ref()
            .is_some_and(|replacement| replacement.slot == slot)
    }

    /// Gives up the replacement in a slot that is not wanted any more, and returns its successor.
    pub(super) fn cancel_replacement_beyond(&mut self, wanted: usize) -> Option<WorkerId> {
        let unwanted = self
            .replacement
            .take_if(|replacement| replacement.slot.get() as usize >= wanted);
        unwanted.map(|replacement| replacement.successor)
    }

    /// The generation to fill a slot with whose last worker was of generation `was`.
    ///
    /// A restart's new generation as soon as it has proved itself here or anywhere; otherwise what was there. Without a
    /// restart, the one that serves: an abandoned restart may have left some slots with the generation that failed.
    pub(super) fn generation_after_crash(&mut self, was: Generation) -> Generation {
        if let Some(restart) = &self.restart {
            let new = restart.generation;
            return if was == new || self.serves(new) {
                new
            } else {
                was
            };
        }
        if !self.serves(self.serving) {
            let newest = self
                .places
                .iter()
                .map(|place| place.generation)
                .filter(|&other| self.serves(other))
                .max();
            self.serving = newest.unwrap_or(self.serving);
        }
        self.serving
    }

    /// Whether a worker of this generation listens, successors on trial excepted.
    fn serves(&self, generation: Generation) -> bool {
        let of_generation = self
            .places
            .iter()
            .filter(|place| place.generation == generation);
        of_generation
            .filter_map(|place| self.workers.get(&place.incumbent?))
            .any(|worker| worker.serving_since().is_some())
    }

    fn current_restart(&mut self, now: Instant) -> Option<&Restart> {
        if self.restart.is_none() {
            let min_up = self.queued_restart.take()?;
            self.newest = self.newest.next();
            self.restart = Some(Restart {
                generation: self.newest,
                min_up,
                began: now,
                replaced: 0,
            });
        }
        self.restart.as_ref()
    }

    fn complete_restart(&mut self, now: Instant) {
        if let Some(Restart {
            generation,
            began,
            replaced,
            ..
        }) = self.restart.take()
        {
            self.serving = generation;
            self.note(Note::Restarted {
                generation,
                replaced,
                took: now - began,
            });
        }
    }

    fn try_successor(
        &mut self,
        slot: Slot,
        generation: Generation,
        cause: Cause,
        min_up: Duration,
        now: Instant,
    ) {
        let successor = self.spawn(slot, generation, now);
        self.replacement = Some(Replacement {
            slot,
            successor,
            cause,
            min_up,
        });
    }

    fn complete_replacement(&mut self, now: Instant) {
        let Some(Replacement {
            slot,
            successor,
            cause,
            ..
        }) = self.replacement.take()
        else {
            return;
        };
        let Some(generation) = self.workers.get(&successor).map(|worker| worker.generation) else {
            return;
        };
        let old = self
            .place_mut(slot)
            .and_then(|place| place.install(successor, generation));
        if let Some(old) = old {
            self.dismiss(old, now);
        }
        if let (Cause::Restart, Some(restart)) = (cause, &mut self.restart) {
            restart.replaced += 1;
        }
    }

    fn fail_replacement(&mut self, now: Instant) {
        let Some(Replacement {
            slot,
            successor: id,
            cause,
            ..
        }) = self.replacement.take()
        else {
            return;
        };
        // One that the program has told to leave has its time for that.
        let leaves = |worker: &Worker| worker.state() == State::Draining;
        if !self.workers.get(&id).is_some_and(leaves) {
            self.kill(id);
        }
        if cause == Cause::Restart
            && let Some(Restart { generation, .. }) = self.restart.take()
        {
            self.note(Note::RestartAbandoned {
                generation,
                slot,
                id,
            });
        }
        // A restart's one attempt costs a slot that still has its worker nothing.
        let vacant = self
            .place(slot)
            .is_some_and(|place| place.incumbent.is_none());
        if vacant || cause == Cause::Leaving {
            self.punish(slot, id, None, now);
        }
    }

    fn replacement_proven_at(&self) -> Option<Instant> {
        let replacement = self.replacement.as_ref()?;
        let since = self.workers.get(&replacement.successor)?.serving_since()?;
        Some(since + replacement.min_up)
    }

    /// When the slot's incumbent, if it is to leave, is to be replaced.
    fn leaver_due(&self, place: &Place) -> Option<Instant> {
        let worker = self
            .workers
            .get(&place.incumbent?)
            .filter(|worker| worker.is_promising())?;
        let due = worker.leaving?;
        Some(place.not_before.map_or(due, |retry| retry.max(due)))
    }
}
