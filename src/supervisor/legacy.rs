//! Handing a cluster over to the next program in the same process, and taking it over from the one before.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::slot::Place;
use super::worker::{Force, Worker};
use super::{Milestone, Phase, Policy, State, Supervisor};
use crate::id::{Generation, Slot, WorkerId};

/// What a supervisor leaves to its successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Legacy {
    serving: Generation,
    newest: Generation,
    next_id: WorkerId,
    /// How many workers were wanted, if that is not what the program was told: somebody has scaled it.
    scaled: Option<u32>,
    workers: Vec<Survivor>,
}

/// A worker that the next program takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Survivor {
    pub(crate) id: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) life: Survives,
    /// How long it has been what it is.
    age: Duration,
}

/// In which state a worker may be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Survives {
    /// In charge of its slot.
    Listening,
    /// Ordered to retire.
    Draining,
    /// Its channel has closed; its process lives.
    Disconnected,
}

impl Legacy {
    /// The generation that serves.
    pub(crate) fn serving(&self) -> Generation {
        self.serving
    }

    pub(crate) fn workers(&self) -> &[Survivor] {
        &self.workers
    }
}

impl Supervisor {
    /// What to leave to a successor; `None` unless all is quiet: every slot has a worker that listens, no restart and no replacement is
    /// under way or asked for, nobody is being ended by force, and nothing is left to do.
    pub(crate) fn legacy(&self) -> Option<Legacy> {
        let quiet = self.phase == Phase::Running
            && self.policy.supervised
            && self.actions.is_empty()
            && self.restart.is_none()
            && self.queued_restart.is_none()
            && self.replacement.is_none()
            && self
                .workers
                .values()
                .all(|worker| worker.force == Force::None)
            // Who ends by which signal is not handed over.
            && !self.workers.values().any(|worker| worker.is_to_end);
        let filled = self.places.iter().all(|place| {
            let incumbent = place.incumbent.and_then(|id| self.workers.get(&id));
            incumbent
                .is_some_and(|worker| worker.serving_since().is_some() && worker.leaving.is_none())
        });
        let survivor = |(&id, worker): (&WorkerId, &Worker)| {
            let life = match worker.state() {
                State::Listening => Survives::Listening,
                State::Draining => Survives::Draining,
                State::Disconnected => Survives::Disconnected,
                State::Starting | State::Online | State::Dead => return None,
            };
            Some(Survivor {
                id,
                slot: worker.slot,
                generation: worker.generation,
                life,
                age: self.clock.now().saturating_duration_since(worker.since()?),
            })
        };
        let workers: Option<Vec<_>> = self.workers.iter().map(survivor).collect();
        let target = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        Some(Legacy {
            serving: self.serving,
            newest: self.newest,
            next_id: self.next_id,
            scaled: (target != self.policy.workers.max(1)).then_some(target),
            workers: workers.filter(|_| quiet && filled)?,
        })
    }

    /// Goes on with a legacy. As many workers are wanted as the policy says, unless somebody had scaled the cluster.
    pub(crate) fn adopt(policy: Policy, legacy: &Legacy, now: Instant) -> Self {
        let mut this = Self::new(policy, now);
        this.phase = Phase::Running;
        this.reached = Milestone::Served;
        this.serving = legacy.serving;
        this.newest = legacy.newest;
        this.next_id = legacy.next_id;
        let listening = |survivor: &&Survivor| survivor.life == Survives::Listening;
        let in_charge = legacy.workers.iter().filter(listening);
        let slots = in_charge.map(|survivor| survivor.slot.get() as usize + 1);
        let serving = legacy.serving;
        this.places
            .resize_with(slots.max().unwrap_or(0), || Place::new(serving));
        for survivor in &legacy.workers {
            let since = now.checked_sub(survivor.age).unwrap_or(now);
            let worker = Worker::survivor(survivor, since, now);
            this.workers.insert(survivor.id, worker);
            if survivor.life == Survives::Listening
                && let Some(place) = this.place_mut(survivor.slot)
            {
                place.install(survivor.id, survivor.generation);
            }
        }
        let wanted = legacy.scaled.unwrap_or(this.policy.workers).max(1);
        this.scale(wanted, now);
        this.fill_places(now);
        this.notice_milestones();
        this
    }
}
