//! Workers that are behind: passed over until they have taken what they were given, as long as somebody else has room.
//!
//! One is behind when it has taken nothing for a while although connections wait for it. And one that was stuck is on trial from its
//! return on, where each connection puts it behind: a program that blocks its thread now and then shows life in between, and would get
//! its full share, all of which would wait until it is relieved again.
//!
//! Four workers of which one is blocked 200 of every 210 ms, round robin at 70 % load: p99 is 2 ms, without both 141 ms.

use std::time::{Duration, Instant};

use super::{Dispatch, Intake};
use crate::id::WorkerId;

/// From its return on; one that blocks less often is found stuck anew.
const TRIAL: Duration = Duration::from_secs(2);

impl Intake {
    /// It was stuck, or is back.
    pub(super) fn begin_trial(&mut self, now: Instant) {
        self.trial = Some(now + TRIAL);
    }

    pub(super) fn end_trial_in_time(&mut self, now: Instant) {
        self.trial = self.trial.filter(|&until| self.rescued || now < until);
    }
}

impl Dispatch {
    /// It is out of the choice until it has taken everything. Where clients belong to workers it is not: they wait for theirs.
    pub(super) fn falls_behind(&mut self, id: WorkerId) {
        if !self.choice.is_sticky() && !self.is_blocked(id) {
            self.block(id);
            self.behind.push(id);
        }
    }

    /// Takes those into the choice again that have caught up.
    pub(super) fn hear_who_caught_up(&mut self) {
        if self.behind.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.behind) {
            match self.intakes.get(&id) {
                Some(intake) if intake.rescued || intake.retired => {}
                Some(intake) if intake.queued() > 0 => self.behind.push(id),
                Some(_) => self.unblock(id),
                None => {}
            }
        }
    }

    /// Nobody else has room, so they are as good as any. False: they were none.
    pub(super) fn pass_over_nobody(&mut self) -> bool {
        let behind = std::mem::take(&mut self.behind);
        for &id in &behind {
            if let Some(intake) = self.intakes.get_mut(&id) {
                intake.trial = None;
                self.unblock(id);
            }
        }
        !behind.is_empty()
    }
}
