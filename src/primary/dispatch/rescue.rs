//! Connections in an intake that nobody reads: taken back, and given to others.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Dispatch, Intake};
use crate::{id::WorkerId, ipc::intake::Conn};

/// A worker that has taken nothing for so long, with connections waiting, is stuck. Two ticks, less what they come early: counted from
/// the first look that found something waiting, it is relieved after 100 to 150 ms, and earlier where more connections come.
const STUCK: Duration = Duration::from_millis(95);

/// The same on trial: it has one connection, and most likely stands still again.
const STUCK_AGAIN: Duration = Duration::from_millis(45);

/// One that has taken nothing for so long is behind: a descheduled thread is not, a handler that blocks is.
const BEHIND: Duration = Duration::from_millis(20);

/// As long as connections come, intakes are looked at so often; else on every tick, which come every 50 ms.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a look at an intake found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// Its worker takes connections again; comes first, for it may get what others are relieved of.
    Back,
    /// Its worker says itself that it takes no more for now.
    Full,
    /// Nobody has read it for a while.
    Behind,
    /// Nobody reads it.
    Stuck,
}

impl Intake {
    fn look(&mut self, now: Instant) -> Option<Found> {
        let (taken, heartbeat) = (self.row.taken(), self.row.heartbeat());
        let moved = std::mem::replace(&mut self.taken, taken) != taken;
        let beats = std::mem::replace(&mut self.heartbeat, heartbeat) != heartbeat;
        self.end_trial_in_time(now);
        let paused = self.row.is_paused();
        if paused && !self.rescued && !self.retired {
            return Some(Found::Full);
        }
        if self.queued() == 0 {
            self.idle_since = None;
        } else if moved {
            self.idle_since = Some(now);
        } else {
            let idle = now.duration_since(*self.idle_since.get_or_insert(now));
            let patience = if self.trial.is_some() {
                STUCK_AGAIN
            } else {
                STUCK
            };
            if idle >= patience {
                return Some(Found::Stuck);
            }
            if idle >= BEHIND && !self.blocked {
                return Some(Found::Behind);
            }
        }
        (self.rescued && !paused && (moved || beats)).then_some(Found::Back)
    }
}

impl Dispatch {
    /// Looks after intakes as connections come.
    pub(crate) fn look(&mut self, now: Instant) {
        if self.next_look.is_none_or(|next| now >= next) {
            self.tick(now);
        }
    }

    /// Looks after intakes that nobody reads: called on every tick.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.next_look = Some(now + LOOK_EVERY);
        self.hear_who_caught_up();
        let look = |(&id, intake): (&WorkerId, &mut Intake)| Some((id, intake.look(now)?));
        let mut found: Vec<_> = self.intakes.iter_mut().filter_map(look).collect();
        found.sort_by_key(|&(_, found)| found);
        for (id, found) in found {
            match found {
                Found::Back => self.is_back(id, now),
                Found::Full => self.pass_over(id),
                Found::Behind => self.falls_behind(id),
                Found::Stuck => self.rescue(id, now),
            }
        }
        self.place_waiting();
    }

    fn is_back(&mut self, id: WorkerId, now: Instant) {
        let Some(intake) = self.intakes.get_mut(&id) else {
            return;
        };
        tracing::info!(worker = %id, "takes connections again");
        intake.rescued = false;
        if intake.trial.is_some() {
            intake.begin_trial(now);
        }
        if !intake.retired {
            self.unblock(id);
        }
    }

    /// Workers whose connections were given to others since the last time.
    pub(crate) fn take_relieved(&mut self) -> Vec<WorkerId> {
        std::mem::take(&mut self.relieved)
    }

    fn pass_over(&mut self, id: WorkerId) {
        if let Some(connections) = self.relieve(id) {
            tracing::info!(worker = %id, connections, "is full: connections go to other workers");
        }
    }

    fn rescue(&mut self, id: WorkerId, now: Instant) {
        let Some(connections) = self.relieve(id) else {
            return;
        };
        // Clients that belong to a worker stay with it as long as it is not stuck.
        if !self.choice.is_sticky()
            && let Some(intake) = self.intakes.get_mut(&id)
        {
            intake.begin_trial(now);
        }
        tracing::warn!(worker = %id, connections, "takes nothing: its connections go to other workers");
    }

    /// Takes back what a worker has not read, if somebody else can have it, and keeps it out of the choice until it shows life.
    /// How many these were.
    fn relieve(&mut self, id: WorkerId) -> Option<u64> {
        let was_blocked = self.is_blocked(id);
        self.block(id);
        if !self.anybody_has_room() {
            if !was_blocked {
                self.unblock(id);
            }
            return None;
        }
        let intake = self.intakes.get_mut(&id)?;
        let before = intake.back;
        take_back(intake, &mut self.waiting);
        intake.idle_since = None;
        intake.rescued = true;
        let back = intake.back - before;
        self.relieved.push(id);
        self.released(id, back);
        Some(back)
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
