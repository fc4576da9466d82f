//! Who gets a connection: among all workers for a new one, among the newest generation for one that comes back.
//!
//! A connection that an old worker gives back during a restart would be given back again by the next old worker: so it goes to a worker
//! that stays.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    id::{Generation, WorkerId},
    schedule::Custom,
    scheduler::Scheduler,
    settings::Scheduling,
};

#[derive(Debug)]
pub(super) struct Choice {
    scheduling: Scheduling,
    /// The program's own.
    custom: Option<Custom>,
    all: Scheduler,
    /// Those of the newest generation that has a member. Loads are kept in `all` only.
    newest: Scheduler,
    newest_generation: Option<Generation>,
    members: BTreeMap<WorkerId, Generation>,
}

impl Choice {
    pub(super) fn new(scheduling: Scheduling, custom: Option<Custom>) -> Self {
        Self {
            scheduling,
            custom,
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
    pub(super) fn pick(&mut self, peer: Option<SocketAddr>) -> Option<WorkerId> {
        if let Some(custom) = &mut self.custom
            && let Some(id) = custom.choose(peer, self.all.free())
        {
            self.all.assigned(id);
            return Some(id);
        }
        self.all.pick(peer.map(|peer| peer.ip()))
    }

    /// Whether a client may belong to its worker: what comes back is not simply the emptiest one's.
    pub(super) fn is_sticky(&self) -> bool {
        self.scheduling == Scheduling::IpHash || self.custom.is_some()
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
    pub(super) fn pick_newest(&mut self, peer: Option<SocketAddr>) -> Option<WorkerId> {
        if let Some(custom) = &mut self.custom {
            let (members, newest) = (&self.members, self.newest_generation);
            let stays = |&(id, _): &(WorkerId, u64)| members.get(&id).copied() == newest;
            if let Some(id) = custom.choose(peer, self.all.free().filter(stays)) {
                self.all.assigned(id);
                return Some(id);
            }
        }
        let id = self.newest.pick(peer.map(|peer| peer.ip()))?;
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
    use crate::schedule::Candidate;

    fn id(n: u64) -> WorkerId {
        WorkerId::new(n)
    }

    #[test]
    fn what_comes_back_goes_to_the_newest_generation() {
        let mut choice = Choice::new(Scheduling::RoundRobin, None);
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

    fn with_workers(custom: Custom) -> Choice {
        let mut choice = Choice::new(Scheduling::RoundRobin, Some(custom));
        (1..=3).for_each(|n| choice.add(id(n), Generation::new(0)));
        choice
    }

    #[test]
    fn the_program_chooses_by_ids_loads_and_peer_and_never_sees_who_has_no_room() {
        let peer = "127.0.0.1:7".parse().unwrap();
        let mut choice = with_workers(Custom::new(
            move |from: Option<SocketAddr>, candidates: &[Candidate]| {
                assert_eq!(from, Some(peer));
                assert!(candidates.iter().all(|candidate| candidate.id != id(2)));
                let last = candidates.last().unwrap();
                (last.connections < 5).then_some(last.id)
            },
        ));
        choice.block(id(2));
        let picked: Vec<_> = (0..5).filter_map(|_| choice.pick(Some(peer))).collect();
        assert_eq!(picked, [id(3); 5], "what it was given counts at once");
        assert_eq!(
            choice.pick(Some(peer)),
            Some(id(1)),
            "no choice is the rotation's"
        );
        choice.add(id(4), Generation::new(1));
        assert_eq!(
            choice.pick_newest(Some(peer)),
            Some(id(4)),
            "it is shown only those who stay"
        );
        (1..=4).for_each(|n| choice.block(id(n)));
        assert_eq!(
            choice.pick(Some(peer)),
            None,
            "and is not asked for nothing"
        );
    }

    #[test]
    fn a_panic_and_a_stranger_fall_back_to_rotation() {
        let mut times = 0;
        let mut choice = with_workers(Custom::new(
            move |_: Option<SocketAddr>, _: &[Candidate]| {
                times += 1;
                assert!(times > 3, "on purpose");
                Some(id(99))
            },
        ));
        let picked: Vec<_> = (0..6).filter_map(|_| choice.pick(None)).collect();
        assert_eq!(picked, [1, 2, 3, 1, 2, 3].map(id));
    }
}
