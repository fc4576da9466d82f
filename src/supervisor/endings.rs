//! How one worker ends: because the program asks for it, or because it is not wanted any more. And the fork that the program asks for.

use std::{collections::BTreeSet, time::Instant};

use super::worker::{Force, State};
use super::{Action, FIRST, Phase, Supervisor};
use crate::id::{Slot, WorkerId};

impl Supervisor {
    /// Spawns a worker that the program asks for.
    pub(super) fn fork(&mut self, now: Instant) {
        if self.policy.supervised || self.phase != Phase::Running {
            return;
        }
        let living = self.workers.values().filter(|it| it.state() != State::Dead);
        let taken: BTreeSet<_> = living.map(|worker| worker.slot).collect();
        let free = (0..).map(Slot::new).find(|slot| !taken.contains(slot));
        if let Some(slot) = free {
            self.spawn(slot, FIRST, now);
        }
    }

    /// Has a worker leave at once, whatever it is doing; its slot is free for another from now on, which starts without a back-off.
    pub(super) fn disconnect(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let (slot, listened) = (worker.slot, worker.listened(now));
        if !worker.retire(now) {
            return;
        }
        self.actions.push_back(Action::Retire(id));
        let Some(place) = self.place_mut(slot) else {
            return;
        };
        // It has not died: nothing is held against its slot.
        place.incumbent.take_if(|incumbent| *incumbent == id);
        if let Some(listened) = listened {
            place.backoff.earn(listened);
        }
    }

    /// Has a worker leave and end by a signal where that takes too long; one that leaves already is not waited for any more.
    pub(super) fn disconnect_and_end(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match worker.state() {
            State::Starting | State::Online | State::Listening => {
                worker.is_to_end = true;
                self.disconnect(id, now);
            }
            State::Draining => self.end(id, now),
            State::Disconnected => self.kill(id),
            State::Dead => {}
        }
    }

    /// Has a worker end by a signal at once, and kills it where that does not end it.
    pub(super) fn end(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let lives = worker.is_spawned() && worker.state() != State::Dead;
        if lives && worker.force == Force::None {
            worker.force = Force::Aborted { since: now };
            self.actions.push_back(Action::End(id));
        }
    }

    /// Ends a worker that is not wanted any more: kills one that has served nothing, lets any other drain.
    pub(super) fn dismiss(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if matches!(worker.state(), State::Starting | State::Online) {
            if !self.policy.supervised {
                // It may be at work without ever listening.
                return self.disconnect(id, now);
            }
            return self.kill(id);
        }
        let (slot, listened) = (worker.slot, worker.listened(now));
        if worker.drain(now) {
            self.actions.push_back(Action::Retire(id));
            if let (Some(place), Some(listened)) = (self.place_mut(slot), listened) {
                place.backoff.earn(listened);
            }
        }
    }

    /// Kills a worker that lives; at once, or as soon as it has been spawned.
    pub(super) fn kill(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state() == State::Dead || worker.force == Force::Killed {
            return;
        }
        if worker.is_spawned() {
            worker.force = Force::Killed;
            self.actions.push_back(Action::Kill(id));
        } else {
            worker.force = Force::KillOnceSpawned;
        }
    }
}
