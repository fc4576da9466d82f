//! Loads: whom a connection that comes back goes to, and what rebalancing looks at.

use std::net::IpAddr;

use super::{Dispatch, Intake};
use crate::{id::WorkerId, rebalance::Load};

impl Dispatch {
    /// The emptiest worker that stays. So a restart leaves the cluster in balance, where a rotation would give the workers that come
    /// first the most; and what is given back for balance fills the gap. Where a client belongs to its worker, that one.
    pub(super) fn pick_returned(&mut self, peer: Option<IpAddr>) -> Option<WorkerId> {
        if self.choice.is_sticky() {
            return self.choice.pick_newest(peer);
        }
        let with_room = self
            .choice
            .newest()
            .filter(|&id| !self.choice.is_blocked(id));
        let id = with_room.min_by_key(|id| self.intakes.get(id).map(Intake::open))?;
        self.choice.assigned(id);
        Some(id)
    }

    /// The workers among which connections may move; nobody while connections wait for room.
    pub(crate) fn loads(&self) -> Vec<Load> {
        if self.waiting() > 0 {
            return Vec::new();
        }
        let load = |id| {
            let intake = self.intakes.get(&id)?;
            let has_room = !self.choice.is_blocked(id);
            // One that is behind is left alone; one that says itself that it is full may give.
            let load = Load {
                id,
                open: intake.open(),
                given_back: intake.returned,
                has_room,
            };
            (has_room || intake.row.is_paused()).then_some(load)
        };
        self.choice.newest().filter_map(load).collect()
    }
}

impl Intake {
    /// Connections assigned and not closed, given back or rescued.
    pub(super) fn open(&self) -> u64 {
        (self.sent + self.batch.len() as u64)
            .saturating_sub(self.back)
            .saturating_sub(self.row.done_with())
    }
}
