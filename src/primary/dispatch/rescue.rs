//! Connections in an intake that nobody reads: taken back, and given to others.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Dispatch, Intake};
use crate::{id::WorkerId, ipc::intake::Conn};

/// A worker that has taken nothing for so long, with connections waiting, is stuck. Two ticks, less what they come early: looked at from
/// the first one on that found something waiting, it is relieved after 100 to 150 ms.
const STUCK: Duration = Duration::from_millis(95);

impl Dispatch {
    /// Looks after intakes that nobody reads: called on every tick.
    pub(crate) fn tick(&mut self, now: Instant) {
        let (mut stuck, mut woken) = (Vec::new(), Vec::new());
        for (&id, intake) in &mut self.intakes {
            let (taken, heartbeat) = (intake.row.taken(), intake.row.heartbeat());
            let moved = taken != intake.taken;
            // One that says itself that it is full is not waited for.
            let paused = intake.row.is_paused();
            if intake.rescued && !paused && (moved || heartbeat != intake.heartbeat) {
                tracing::info!(worker = %id, "takes connections again");
                intake.rescued = false;
                if !intake.retired {
                    woken.push(id);
                }
            }
            intake.taken = taken;
            intake.heartbeat = heartbeat;
            if paused && !intake.rescued && !intake.retired {
                stuck.push(id);
            } else if intake.queued() == 0 {
                intake.idle_since = None;
            } else if moved {
                intake.idle_since = Some(now);
            } else if now.duration_since(*intake.idle_since.get_or_insert(now)) >= STUCK {
                stuck.push(id);
            }
        }
        woken.into_iter().for_each(|id| self.unblock(id));
        for id in stuck {
            self.rescue(id);
        }
        self.place_waiting();
    }

    /// Workers whose connections were given to others since the last time.
    pub(crate) fn take_relieved(&mut self) -> Vec<WorkerId> {
        std::mem::take(&mut self.relieved)
    }

    /// Takes back what a stuck worker has not read, if somebody else can have it.
    fn rescue(&mut self, id: WorkerId) {
        let was_blocked = self.is_blocked(id);
        self.block(id);
        if !self.anybody_has_room() {
            if !was_blocked {
                self.unblock(id);
            }
            return;
        }
        let Some(intake) = self.intakes.get_mut(&id) else {
            return;
        };
        let before = intake.back;
        take_back(intake, &mut self.waiting);
        intake.idle_since = None;
        intake.rescued = true;
        let back = intake.back - before;
        self.relieved.push(id);
        self.released(id, back);
        tracing::warn!(worker = %id, connections = back, "takes nothing: its connections go to other workers");
    }
}

/// Empties an intake into `waiting`.
pub(super) fn take_back(intake: &mut Intake, waiting: &mut VecDeque<Conn>) {
    while let Some(batch) = intake.sender.take_back() {
        intake.back += (batch.conns.len() + batch.lost) as u64;
        if batch.lost > 0 {
            tracing::error!(
                connections = batch.lost,
                "lost in hand-over: the primary is out of descriptors"
            );
        }
        waiting.extend(batch.conns);
    }
}
