//! Who gets a connection: among all workers for a new one, among the newest generation for one that comes back.
//!
//! A connection that an old worker gives back during a restart would be given back again by the next old worker: so it goes to a worker
//! that stays.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    id::{Generation, WorkerId},
    scheduler::Scheduler,
    settings::Scheduling,
};

#[derive(Debug)]
pub(super) struct Choice {
    scheduling: Scheduling,
    all: Scheduler,
    /// Those of the newest generation that has a member. Loads are kept in `all` only.
    newest: Scheduler,
    newest_generation: Option<Generation>,
    members: BTreeMap<WorkerId, Generation>,
}

impl Choice {
    pub(super) fn new(scheduling: Scheduling) -> Self {
        Self {
            scheduling,
            all: Scheduler::new(scheduling),
            newest: Scheduler::new(scheduling),
            newest_generation: None,
            members: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, id: WorkerId, generation: Generation) {
        self.all.add(id);
        self.members.insert(id, generation);
        self.renew();
    }

    pub(super) fn remove(&mut self, id: WorkerId) {
        self.all.remove(id);
        self.newest.remove(id);
        if self.members.remove(&id).is_some() {
            self.renew();
        }
    }

    /// Brings `newest` in line with the members; a rotation that goes on is not disturbed.
    fn renew(&mut self) {
        let generation = self.members.values().max().copied();
        if generation != self.newest_generation {
            self.newest = Scheduler::new(self.scheduling);
            self.newest_generation = generation;
        }
        for (&id, _) in self.members.iter().filter(|&(_, g)| Some(*g) == generation) {
            self.newest.add(id);
            if self.all.is_blocked(id) {
                self.newest.block(id);
            }
        }
    }

    pub(super) fn block(&mut self, id: WorkerId) {
        self.all.block(id);
        self.newest.block(id);
    }

    pub(super) fn unblock(&mut self, id: WorkerId) {
        self.all.unblock(id);
        self.newest.unblock(id);
    }

    pub(super) fn is_blocked(&self, id: WorkerId) -> bool {
        self.all.is_blocked(id)
    }

    /// Somebody for a new connection.
    pub(super) fn pick(&mut self, peer: Option<IpAddr>) -> Option<WorkerId> {
        self.all.pick(peer)
    }

    /// Whether a client belongs to its worker.
    pub(super) fn is_sticky(&self) -> bool {
        self.scheduling == Scheduling::IpHash
    }

    /// A connection was given to this worker by other means than picking.
    pub(super) fn assigned(&mut self, id: WorkerId) {
        self.all.assigned(id);
    }

    /// Those who stay.
    pub(super) fn newest(&self) -> impl Iterator<Item = WorkerId> {
        let newest = |(_, generation): &(&WorkerId, &Generation)| {
            Some(**generation) == self.newest_generation
        };
        self.members.iter().filter(newest).map(|(&id, _)| id)
    }

    /// Somebody who stays, for a connection that comes back.
    pub(super) fn pick_newest(&mut self, peer: Option<IpAddr>) -> Option<WorkerId> {
        let id = self.newest.pick(peer)?;
        self.newest.released(id, 1);
        self.all.assigned(id);
        Some(id)
    }

    pub(super) fn has_room(&self) -> bool {
        self.all.has_room()
    }

    pub(super) fn newest_has_room(&self) -> bool {
        self.newest.has_room()
    }

    pub(super) fn released(&mut self, id: WorkerId, n: u64) {
        self.all.released(id, n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> WorkerId {
        WorkerId::new(n)
    }

    #[test]
    fn what_comes_back_goes_to_the_newest_generation() {
        let mut choice = Choice::new(Scheduling::RoundRobin);
        for n in 1..=3 {
            choice.add(id(n), Generation::new(0));
        }
        choice.add(id(4), Generation::new(1));
        assert!((0..10).all(|_| choice.pick_newest(None) == Some(id(4))));
        assert_eq!(
            (0..8).filter(|_| choice.pick(None) == Some(id(4))).count(),
            2,
            "new ones go to all"
        );
        choice.block(id(4));
        assert_eq!(choice.pick_newest(None), None);
        choice.remove(id(4));
        assert!(
            choice.pick_newest(None).is_some(),
            "the newest that is left"
        );
    }
}
