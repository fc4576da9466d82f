//! When connections move for the sake of balance, and how many.
//!
//! A machine: it is shown how many connections each worker holds and says how many each should give back; whoever carries that out
//! gives them to the emptiest worker. What holds whatever it is shown:
//!
//! - Nothing moves while every worker is near its share, by what chance alone can do to a busy cluster and a little more.
//! - An imbalance is planned for once: a plan asks for what is too much at its beginning and never for more, so it ends, whatever
//!   comes and goes meanwhile. The next one has to be found anew.
//! - Who does not give what it was asked for (its connections are WebSockets, or busy) is asked ever more seldom.
//! - Nobody is asked for what would bring it below its share, nor for more than others lack.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::id::WorkerId;

/// One look at a worker that stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) id: WorkerId,
    /// Connections assigned to it and not ended or given back.
    pub(crate) open: u64,
    /// Connections that it has given back so far.
    pub(crate) given_back: u64,
    /// Whether it can be given more.
    pub(crate) has_room: bool,
}

/// The machine. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Rebalance {
    next_look: Option<Instant>,
    /// Since when every look found an imbalance.
    off_since: Option<Instant>,
    /// What is still to be asked of whom.
    plan: BTreeMap<WorkerId, u64>,
    asked: BTreeMap<WorkerId, Asked>,
}

/// What was asked of a worker last.
#[derive(Clone, Copy, Debug)]
struct Asked {
    connections: u64,
    /// Given back in all when it has done so.
    goal: u64,
    at: Instant,
    pending: bool,
    /// How often in a row it gave less than half.
    fruitless: u32,
    /// Not to be planned for before.
    not_before: Instant,
}

impl Rebalance {
    /// Takes a look at every worker of the newest generation that stays, at most every 100 ms, and says whom to ask for how many.
    pub(crate) fn look(&mut self, now: Instant, loads: &[Load]) -> Vec<(WorkerId, u32)> {
        if self.next_look.is_some_and(|next| now < next) {
            return Vec::new();
        }
        self.next_look = Some(now + LOOK_EVERY);
        self.hear_answers(now, loads);
        let Some(share) = Share::of(loads) else {
            self.reset();
            return Vec::new();
        };
        if self.plan.is_empty() && !self.begins(now, loads, &share) {
            return Vec::new();
        }
        self.ask(now, loads, &share)
    }

    /// This is no time to move anything: a plan is dropped.
    pub(crate) fn reset(&mut self) {
        self.off_since = None;
        self.plan.clear();
    }

    /// Its process has ended.
    pub(crate) fn gone(&mut self, id: WorkerId) {
        self.asked.remove(&id);
        self.plan.remove(&id);
    }

    fn hear_answers(&mut self, now: Instant, loads: &[Load]) {
        for Load { id, given_back, .. } in loads {
            let Some(asked) = self.asked.get_mut(id).filter(|asked| asked.pending) else {
                continue;
            };
            let missing = asked.goal.saturating_sub(*given_back);
            if missing == 0 {
                asked.pending = false;
                asked.fruitless = 0;
            } else if now >= asked.at + PATIENCE {
                asked.pending = false;
                self.plan.remove(id);
                if missing * 2 > asked.connections {
                    asked.not_before =
                        now + (FIRST_PAUSE * (1 << asked.fruitless)).min(LONGEST_PAUSE);
                    asked.fruitless = (asked.fruitless + 1).min(16);
                }
            }
        }
    }

    /// Makes a plan if there has been reason for one for long enough.
    fn begins(&mut self, now: Instant, loads: &[Load], share: &Share) -> bool {
        if !loads.iter().any(|load| share.is_far_from(load)) {
            self.off_since = None;
            return false;
        }
        if now < *self.off_since.get_or_insert(now) + SETTLE {
            return false;
        }
        self.off_since = None;
        let may_be_asked = |load: &&Load| {
            let asked = self.asked.get(&load.id);
            asked.is_none_or(|asked| asked.not_before <= now)
        };
        let givers = loads.iter().filter(may_be_asked);
        self.plan = givers
            .map(|load| (load.id, share.surplus(load)))
            .filter(|&(_, surplus)| surplus > 0)
            .collect();
        !self.plan.is_empty()
    }

    fn ask(&mut self, now: Instant, loads: &[Load], share: &Share) -> Vec<(WorkerId, u32)> {
        let on_their_way: u64 = loads
            .iter()
            .filter_map(|load| Some((self.asked.get(&load.id)?, load.given_back)))
            .filter(|(asked, _)| asked.pending)
            .map(|(asked, given_back)| asked.goal.saturating_sub(given_back))
            .sum();
        let lacking: u64 = loads.iter().map(|load| share.lack(load)).sum();
        let mut room = lacking.saturating_sub(on_their_way).min(MOST);
        if lacking == 0 {
            self.plan.clear();
        }
        self.plan
            .retain(|id, _| loads.iter().any(|load| load.id == *id));
        let mut orders = Vec::new();
        let mut givers = self.plan.len() as u64;
        for load in loads {
            let Some(planned) = self.plan.get_mut(&load.id) else {
                continue;
            };
            let before = self.asked.get(&load.id);
            let part = room.div_ceil(givers.max(1));
            givers -= 1;
            if before.is_some_and(|asked| asked.pending) {
                continue;
            }
            *planned = share.surplus(load).min(*planned);
            let connections = part.min(*planned);
            *planned -= connections;
            if *planned == 0 {
                self.plan.remove(&load.id);
            }
            if connections == 0 {
                continue;
            }
            room -= connections;
            let asked = Asked {
                connections,
                goal: load.given_back + connections,
                at: now,
                pending: true,
                fruitless: before.map_or(0, |asked| asked.fruitless),
                not_before: now,
            };
            self.asked.insert(load.id, asked);
            orders.push((load.id, connections as u32)); // at most `MOST`
        }
        orders
    }
}

/// What each worker should hold: between `least` and `most`, which differ by one at the most.
struct Share {
    least: u64,
    most: u64,
}

impl Share {
    /// `None` where there is nobody to share with.
    fn of(loads: &[Load]) -> Option<Self> {
        let workers = loads.len() as u64;
        let total: u64 = loads.iter().map(|load| load.open).sum();
        (workers > 1).then(|| Self {
            least: total / workers,
            most: total.div_ceil(workers),
        })
    }

    fn surplus(&self, load: &Load) -> u64 {
        load.open.saturating_sub(self.most)
    }

    fn lack(&self, load: &Load) -> u64 {
        if load.has_room {
            self.least.saturating_sub(load.open)
        } else {
            0
        }
    }

    /// By more than a fifth, more than a handful, and more than three times what chance makes of a busy cluster's connections.
    fn is_far_from(&self, load: &Load) -> bool {
        let tolerated = (self.most / 5).max(HANDFUL).max(3 * self.most.isqrt());
        self.surplus(load).max(self.lack(load)) > tolerated
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An imbalance shorter than this is none: workers have just come or gone, connections are just being placed.
const SETTLE: Duration = Duration::from_millis(500);

/// Connections asked for in one look, of all workers: a few per cent of a core.
const MOST: u64 = 64;

/// Not worth moving.
const HANDFUL: u64 = 8;

/// Idle connections come back at once; who has not given them after this has none.
const PATIENCE: Duration = Duration::from_secs(1);

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
