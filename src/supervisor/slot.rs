//! The places of the cluster, and keeping them filled.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::io::Note;
use super::{Milestone, Phase, Supervisor};
use crate::id::{Generation, Slot, WorkerId};

/// A slot that is wanted.
///
/// Its incumbent is the worker that counts for it: one that was ordered to go is not, nor is a successor that has not
/// proved itself. So a worker that exits as incumbent has crashed, and no worker needs a mark that it was retired.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) incumbent: Option<WorkerId>,
    /// Of the incumbent, or of the last one while the place is empty.
    pub(super) generation: Generation,
    /// After deaths: nobody is spawned here sooner, except by a restart, which tries once and with another image.
    pub(super) not_before: Option<Instant>,
    pub(super) backoff: Backoff,
}

impl Place {
    pub(super) fn new(generation: Generation) -> Self {
        Self {
            incumbent: None,
            generation,
            not_before: None,
            backoff: Backoff::new(),
        }
    }

    /// Puts a worker in charge and returns the one it takes over from.
    pub(super) fn install(&mut self, id: WorkerId, generation: Generation) -> Option<WorkerId> {
        self.generation = generation;
        self.not_before = None;
        self.incumbent.replace(id)
    }

    fn may_spawn(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }
}

impl Supervisor {
    pub(super) fn scale(&mut self, workers: u32, now: Instant) {
        match (self.phase, workers) {
            _ if !self.policy.supervised => {}
            (_, 0) | (Phase::Stopping | Phase::Finished, _) => {}
            (Phase::Idle, _) => self.policy.workers = workers,
            (Phase::Running, _) => {
                let wanted = workers as usize;
                while self.places.len() > wanted {
                    let incumbent = self.places.pop().and_then(|place| place.incumbent);
                    let successor = self.cancel_replacement_beyond(wanted);
                    for id in incumbent.into_iter().chain(successor) {
                        self.dismiss(id, now);
                    }
                }
                let serving = self.serving;
                self.places.resize_with(wanted, || Place::new(serving));
            }
        }
    }

    /// Whoever exits while it counts for its slot has crashed.
    pub(super) fn vacate(
        &mut self,
        slot: Slot,
        id: WorkerId,
        listened: Option<Duration>,
        now: Instant,
    ) {
        if let Some(place) = self
            .place_mut(slot)
            .filter(|place| place.incumbent == Some(id))
        {
            place.incumbent = None;
            self.punish(slot, id, listened, now);
        }
    }

    /// Makes the slot wait for its next worker as long as its deaths ask for, or gives up.
    pub(super) fn punish(
        &mut self,
        slot: Slot,
        id: WorkerId,
        listened: Option<Duration>,
        now: Instant,
    ) {
        let booting = self.reached == Milestone::Booting;
        // A program that has never worked should say so soon, not after minutes of waiting.
        let limit = if booting {
            self.policy.backoff_max.min(BOOTING_MAX)
        } else {
            self.policy.backoff_max
        };
        let Some(place) = self.places.get_mut(slot.get() as usize) else {
            return;
        };
        let delay = place
            .backoff
            .died(listened, &self.policy, limit, &mut self.jitter);
        place.not_before = (!delay.is_zero()).then(|| now + delay);
        if booting && place.backoff.deaths() >= self.policy.boot_deaths {
            self.note(Note::GiveUp { id });
            self.stop(now);
        } else if !delay.is_zero() {
            self.note(Note::BackOff { slot, delay });
        }
    }

    /// Spawns a worker in every slot that nobody fills and that has waited enough.
    pub(super) fn fill_places(&mut self, now: Instant) {
        let due = |&slot: &Slot| self.place(slot).is_some_and(|place| place.may_spawn(now));
        let slots: Vec<_> = self.vacant().filter(due).collect();
        for slot in slots {
            let Some(place) = self.place(slot) else {
                continue;
            };
            let generation = self.generation_after_crash(place.generation);
            let id = self.spawn(slot, generation, now);
            if let Some(place) = self.place_mut(slot) {
                place.install(id, generation);
            }
        }
    }

    pub(super) fn place(&self, slot: Slot) -> Option<&Place> {
        self.places.get(slot.get() as usize)
    }

    pub(super) fn place_mut(&mut self, slot: Slot) -> Option<&mut Place> {
        self.places.get_mut(slot.get() as usize)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, &Place)> + '_ {
        (0..).map(Slot::new).zip(&self.places)
    }

    /// Wanted slots without a worker, nor a successor that will take over.
    pub(super) fn vacant(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots()
            .filter(|(slot, place)| place.incumbent.is_none() && !self.is_being_replaced(*slot))
            .map(|(slot, _)| slot)
    }
}

/// Limit of the back-off until any worker has ever listened.
const BOOTING_MAX: Duration = Duration::from_secs(1);
