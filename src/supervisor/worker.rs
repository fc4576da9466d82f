//! One worker's life, as the primary sees it.

use std::time::{Duration, Instant};

use super::Policy;
use super::legacy::{Survives, Survivor};
use crate::id::{Generation, Slot};

/// The states of a worker.
///
/// ```text
///  Starting ──▶ Online ──▶ Listening ──▶ Draining          Retire also takes Online to Draining
///     └───────────┴────────────┴────────────┤
///                      channel closed       │  process reaped
///                   ┌───────────────────────┴───────────────────┐
///                   ▼                                           ▼
///              Disconnected ── process reaped ─▶ gone ◀─ channel closed ── Dead
/// ```
///
/// "Disconnected and dead, in either order": only both together remove a worker from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Ordered, spawned or booting.
    Starting,
    /// Said hello.
    Online,
    /// Serves.
    Listening,
    /// Was ordered to retire.
    Draining,
    /// Its channel closed; its process lives.
    Disconnected,
    /// Its process was reaped; its channel has not been read to its end.
    Dead,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    life: Life,
    pub(super) force: Force,
    /// The program wants it to end by a signal, once it has had its time to leave.
    pub(super) is_to_end: bool,
    /// From when on it is to be replaced, because it asked to leave or has served enough.
    pub(super) leaving: Option<Instant>,
}

/// [`State`] with what belongs to each.
#[derive(Debug)]
enum Life {
    /// Until the driver has `spawned` it there is no process to send a signal to.
    Starting {
        since: Instant,
        spawned: bool,
    },
    /// `since` the order to spawn: saying hello does not buy time.
    Online {
        since: Instant,
    },
    Listening {
        since: Instant,
        beat: Instant,
    },
    /// `since` the order to retire.
    Draining {
        since: Instant,
        beat: Instant,
    },
    /// `since` it has been going: from the order to retire, or without one from now. `listened` up to now, unless it
    /// was retired or never did.
    Disconnected {
        since: Instant,
        listened: Option<Duration>,
    },
    Dead,
}

/// What has been done to end it. Only ever moves down this list, so every signal is sent at most once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Force {
    None,
    /// By SIGABRT, or by the signal that the program named.
    Aborted {
        since: Instant,
    },
    /// To be killed as soon as there is a process.
    KillOnceSpawned,
    Killed,
}

/// Which patience ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overdue {
    Boot,
    Drain,
    End,
    Beat,
    Abort,
}

impl Worker {
    pub(super) fn new(slot: Slot, generation: Generation, now: Instant) -> Self {
        let life = Life::Starting {
            since: now,
            spawned: false,
        };
        Self {
            slot,
            generation,
            life,
            force: Force::None,
            is_to_end: false,
            leaving: None,
        }
    }

    /// Taken over from the program before: in this state since then, and its heart has just been heard.
    pub(super) fn survivor(survivor: &Survivor, since: Instant, now: Instant) -> Self {
        let life = match survivor.life {
            Survives::Listening => Life::Listening { since, beat: now },
            Survives::Draining => Life::Draining { since, beat: now },
            Survives::Disconnected => Life::Disconnected {
                since,
                listened: None,
            },
        };
        Self {
            slot: survivor.slot,
            generation: survivor.generation,
            life,
            force: Force::None,
            is_to_end: false,
            leaving: None,
        }
    }

    /// Since when it has been in its state.
    pub(super) fn since(&self) -> Option<Instant> {
        match self.life {
            Life::Starting { since, .. }
            | Life::Online { since }
            | Life::Listening { since, .. }
            | Life::Draining { since, .. }
            | Life::Disconnected { since, .. } => Some(since),
            Life::Dead => None,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.life {
            Life::Starting { .. } => State::Starting,
            Life::Online { .. } => State::Online,
            Life::Listening { .. } => State::Listening,
            Life::Draining { .. } => State::Draining,
            Life::Disconnected { .. } => State::Disconnected,
            Life::Dead => State::Dead,
        }
    }

    pub(super) fn is_spawned(&self) -> bool {
        !matches!(self.life, Life::Starting { spawned: false, .. })
    }

    /// Whether a kill is on its way: such a worker goes no further up.
    fn is_doomed(&self) -> bool {
        self.force >= Force::KillOnceSpawned
    }

    /// Since when it has been serving, if it still does and nothing was done to end it.
    pub(super) fn serving_since(&self) -> Option<Instant> {
        match self.life {
            Life::Listening { since, .. } if self.force == Force::None => Some(since),
            _ => None,
        }
    }

    /// Whether it serves or may come to.
    pub(super) fn is_promising(&self) -> bool {
        matches!(
            self.state(),
            State::Starting | State::Online | State::Listening
        ) && self.force == Force::None
    }

    /// How long it listened before it died; not asked of those that were retired.
    pub(super) fn listened(&self, now: Instant) -> Option<Duration> {
        match self.life {
            Life::Listening { since, .. } => Some(now - since),
            Life::Disconnected { listened, .. } => listened,
            _ => None,
        }
    }

    /// Whether a kill has been waiting for this.
    pub(super) fn spawned(&mut self) -> bool {
        if let Life::Starting { spawned, .. } = &mut self.life {
            *spawned = true;
        }
        self.force == Force::KillOnceSpawned
    }

    pub(super) fn online(&mut self) {
        if let Life::Starting { since, .. } = self.life
            && !self.is_doomed()
        {
            self.life = Life::Online { since };
        }
    }

    /// Whether it began to listen just now.
    pub(super) fn listening(&mut self, now: Instant) -> bool {
        let begins = matches!(self.life, Life::Online { .. }) && !self.is_doomed();
        if begins {
            self.life = Life::Listening {
                since: now,
                beat: now,
            };
        }
        begins
    }

    pub(super) fn beat(&mut self, now: Instant) {
        if let Life::Listening { beat, .. } | Life::Draining { beat, .. } = &mut self.life {
            *beat = now;
        }
    }

    /// What was said first stands.
    pub(super) fn leave_at(&mut self, due: Instant) {
        self.leaving.get_or_insert(due);
    }

    /// Whether there is anyone to order: not before hello, not twice, not one that is going.
    pub(super) fn drain(&mut self, now: Instant) -> bool {
        let obeys = matches!(self.state(), State::Online | State::Listening) && !self.is_doomed();
        if obeys {
            self.life = Life::Draining {
                since: now,
                beat: now,
            };
        }
        obeys
    }

    /// As [`drain`](Self::drain), but of one that has not said hello too: it finds the order when it comes to serve.
    pub(super) fn retire(&mut self, now: Instant) -> bool {
        if self.force != Force::None {
            return false;
        }
        if matches!(self.life, Life::Starting { spawned: true, .. }) {
            self.life = Life::Online { since: now };
        }
        self.drain(now)
    }

    /// Whether it is gone for good.
    pub(super) fn disconnected(&mut self, now: Instant) -> bool {
        let since = match self.life {
            Life::Dead => return true,
            Life::Draining { since, .. } | Life::Disconnected { since, .. } => since,
            _ => now,
        };
        self.life = Life::Disconnected {
            since,
            listened: self.listened(now),
        };
        // Its channel is gone, so it cannot be told any more: it ends soon or is killed.
        if self.is_to_end && self.force == Force::None {
            self.force = Force::Aborted { since: now };
        }
        false
    }

    /// Whether it is gone for good.
    pub(super) fn exited(&mut self) -> bool {
        let gone = matches!(self.life, Life::Disconnected { .. });
        self.life = Life::Dead;
        gone
    }

    /// What its patience runs out for next, and when.
    ///
    /// After an abort only the kill is left: at the drain deadline that comes at most `abort_grace` late.
    pub(super) fn deadline(&self, policy: &Policy) -> Option<(Instant, Overdue)> {
        match (&self.force, &self.life) {
            (_, Life::Dead) | (Force::KillOnceSpawned | Force::Killed, _) => None,
            (Force::Aborted { since }, _) => Some((*since + policy.abort_grace, Overdue::Abort)),
            (Force::None, life) => Some(match *life {
                // How long what is none of a server's takes is its own affair.
                Life::Starting { .. } | Life::Online { .. } if !policy.supervised => return None,
                Life::Starting { since, .. } | Life::Online { since } => {
                    (since + policy.boot_timeout, Overdue::Boot)
                }
                Life::Listening { beat, .. } => (beat + policy.hang_timeout, Overdue::Beat),
                Life::Draining { since, beat } => {
                    let overdue = if self.is_to_end {
                        Overdue::End
                    } else {
                        Overdue::Drain
                    };
                    (since + policy.drain_deadline, overdue)
                        .min((beat + policy.hang_timeout, Overdue::Beat))
                }
                Life::Disconnected { since, .. } => (since + policy.drain_deadline, Overdue::Drain),
                Life::Dead => return None,
            }),
        }
    }
}
