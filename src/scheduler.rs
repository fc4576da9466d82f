//! Who gets the next connection: ids and numbers only.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};

use crate::id::WorkerId;
use crate::settings::Scheduling;

/// The members of the rotation and their loads.
///
/// A member's load is what [`pick`](Self::pick) gave it less what was [`released`](Self::released): every pick counts as
/// assigned at once, so that a burst spreads before the first connection arrives, and a hand-over that failed is released
/// like a connection that closed. Blocked members keep their load and their turn.
#[derive(Debug)]
pub(crate) struct Scheduler {
    members: BTreeMap<WorkerId, Member>,
    choice: Choice,
}

#[derive(Debug, Default)]
struct Member {
    load: u64,
    /// The number of its last pick.
    picked: u64,
    blocked: bool,
}

/// Holds exactly the members that are not blocked, in the order that finds the next one fastest.
#[derive(Debug)]
enum Choice {
    RoundRobin(Ring),
    LeastConnections { queue: BTreeSet<Rank>, picks: u64 },
    IpHash(Ring),
}

/// Load, then last pick: least loaded first, longest passed over first among equals.
type Rank = (u64, u64, WorkerId);

impl Scheduler {
    pub(crate) fn new(scheduling: Scheduling) -> Self {
        let choice = match scheduling {
            // What workers do not accept themselves is the rare rest.
            Scheduling::RoundRobin | Scheduling::Shared => Choice::RoundRobin(Ring::default()),
            Scheduling::LeastConnections => Choice::LeastConnections {
                queue: BTreeSet::new(),
                picks: 0,
            },
            Scheduling::IpHash => Choice::IpHash(Ring::default()),
        };
        Self {
            members: BTreeMap::new(),
            choice,
        }
    }

    /// Takes a worker in, not blocked and without load. One that is in stays as it is.
    pub(crate) fn add(&mut self, id: WorkerId) {
        if let Entry::Vacant(vacant) = self.members.entry(id) {
            self.choice.insert(id, vacant.insert(Member::default()));
        }
    }

    /// Takes a worker out and forgets its load.
    pub(crate) fn remove(&mut self, id: WorkerId) {
        if let Some(member) = self.members.remove(&id) {
            self.choice.remove(id, &member);
        }
    }

    /// Its intake is full, or it was rescued: it is not picked until [`unblock`](Self::unblock).
    pub(crate) fn block(&mut self, id: WorkerId) {
        if let Some(member) = self.members.get_mut(&id).filter(|member| !member.blocked) {
            self.choice.remove(id, member);
            member.blocked = true;
        }
    }

    pub(crate) fn unblock(&mut self, id: WorkerId) {
        if let Some(member) = self.members.get_mut(&id).filter(|member| member.blocked) {
            member.blocked = false;
            self.choice.insert(id, member);
        }
    }

    pub(crate) fn is_blocked(&self, id: WorkerId) -> bool {
        self.members.get(&id).is_some_and(|member| member.blocked)
    }

    /// Whether [`pick`](Self::pick) would find somebody.
    pub(crate) fn has_room(&self) -> bool {
        match &self.choice {
            Choice::RoundRobin(ring) | Choice::IpHash(ring) => !ring.members.is_empty(),
            Choice::LeastConnections { queue, .. } => !queue.is_empty(),
        }
    }

    /// Assigns one connection. `None`: nobody has room.
    pub(crate) fn pick(&mut self, peer: Option<IpAddr>) -> Option<WorkerId> {
        let (id, turn) = match &mut self.choice {
            Choice::RoundRobin(ring) => (ring.next()?, 0),
            Choice::IpHash(ring) => match peer {
                Some(peer) => (ring.nearest(peer)?, 0),
                None => (ring.next()?, 0),
            },
            Choice::LeastConnections { queue, picks } => {
                let &(.., id) = queue.first()?;
                *picks += 1;
                (id, *picks)
            }
        };
        self.reload(id, |member| {
            member.load += 1;
            member.picked = turn;
        });
        Some(id)
    }

    /// The members with room and their loads, in the order of their ids.
    pub(crate) fn free(&self) -> impl Iterator<Item = (WorkerId, u64)> {
        self.members
            .iter()
            .filter(|(_, member)| !member.blocked)
            .map(|(&id, member)| (id, member.load))
    }

    /// A connection was assigned by other means than [`pick`](Self::pick).
    pub(crate) fn assigned(&mut self, id: WorkerId) {
        self.reload(id, |member| member.load += 1);
    }

    /// `n` connections of this worker closed, were given back or rescued, or never reached it.
    pub(crate) fn released(&mut self, id: WorkerId, n: u64) {
        self.reload(id, |member| member.load = member.load.saturating_sub(n));
    }

    /// Connections assigned and not released; 0 for a worker that is not in.
    #[cfg(test)]
    pub(crate) fn load(&self, id: WorkerId) -> u64 {
        self.members.get(&id).map_or(0, |member| member.load)
    }

    /// Changes what a member is ranked by, and its rank with it.
    fn reload(&mut self, id: WorkerId, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let before = member.rank(id);
        change(member);
        if let Choice::LeastConnections { queue, .. } = &mut self.choice
            && !member.blocked
        {
            queue.remove(&before);
            queue.insert(member.rank(id));
        }
    }
}

impl Member {
    fn rank(&self, id: WorkerId) -> Rank {
        (self.load, self.picked, id)
    }
}

impl Choice {
    fn insert(&mut self, id: WorkerId, member: &Member) {
        match self {
            Self::RoundRobin(ring) | Self::IpHash(ring) => ring.members.insert(id),
            Self::LeastConnections { queue, .. } => queue.insert(member.rank(id)),
        };
    }

    fn remove(&mut self, id: WorkerId, member: &Member) {
        match self {
            Self::RoundRobin(ring) | Self::IpHash(ring) => ring.members.remove(&id),
            Self::LeastConnections { queue, .. } => queue.remove(&member.rank(id)),
        };
    }
}

/// Ids in rising order and the one whose turn was last, which need not be a member any more: so the order survives every
/// coming and going.
#[derive(Debug, Default)]
struct Ring {
    members: BTreeSet<WorkerId>,
    last: Option<WorkerId>,
}

impl Ring {
    fn next(&mut self) -> Option<WorkerId> {
        let after = self.last.map_or(Unbounded, Excluded);
        let next = self
            .members
            .range((after, Unbounded))
            .next()
            .or_else(|| self.members.first());
        self.last = next.copied().or(self.last);
        next.copied()
    }

    /// The member that scores highest with this address. Without it, only its own addresses go elsewhere.
    fn nearest(&self, peer: IpAddr) -> Option<WorkerId> {
        let address = match peer.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 ^ mix(v6.to_bits() as u64),
        };
        let address = mix(address);
        self.members
            .iter()
            .copied()
            .max_by_key(|id| mix(address ^ mix(id.get())))
    }
}

/// Spreads a number over all bits (SplitMix64's finaliser): the same in every process and every build, which std's
/// hashers do not promise.
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> WorkerId {
        WorkerId::new(n)
    }

    fn with_workers(kind: Scheduling, n: u64) -> Scheduler {
        let mut scheduler = Scheduler::new(kind);
        (1..=n).for_each(|n| scheduler.add(id(n)));
        scheduler
    }

    fn picks(scheduler: &mut Scheduler, n: usize) -> Vec<u64> {
        (0..n)
            .map(|_| scheduler.pick(None).unwrap().get())
            .collect()
    }

    fn client(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn round_robin_is_exact() {
        let mut scheduler = with_workers(Scheduling::RoundRobin, 4);
        let picked = picks(&mut scheduler, 400);
        for worker in 1..=4 {
            assert_eq!(picked.iter().filter(|&&n| n == worker).count(), 100);
            assert_eq!(scheduler.load(id(worker)), 100);
        }
    }

    #[test]
    fn rotation_survives_coming_and_going() {
        let mut scheduler = with_workers(Scheduling::RoundRobin, 4);
        assert_eq!(picks(&mut scheduler, 2), [1, 2]);
        scheduler.block(id(3));
        assert_eq!(picks(&mut scheduler, 1), [4]);
        scheduler.unblock(id(3));
        scheduler.remove(id(4));
        scheduler.add(id(5));
        assert_eq!(picks(&mut scheduler, 5), [5, 1, 2, 3, 5]);
    }

    #[test]
    fn nobody_has_room() {
        for kind in [
            Scheduling::RoundRobin,
            Scheduling::LeastConnections,
            Scheduling::IpHash,
        ] {
            let mut scheduler = with_workers(kind, 2);
            scheduler.block(id(1));
            scheduler.remove(id(2));
            assert_eq!(scheduler.pick(client(1)), None);
            assert_eq!(scheduler.pick(None), None);
            scheduler.unblock(id(1));
            assert_eq!(scheduler.pick(client(1)), Some(id(1)));
        }
    }

    // R-4, K-12: the load is what is open.
    #[test]
    fn least_connections_fills_the_gap_and_rotates_among_equals() {
        let mut scheduler = with_workers(Scheduling::LeastConnections, 3);
        assert_eq!(picks(&mut scheduler, 6), [1, 2, 3, 1, 2, 3]);
        scheduler.released(id(2), 2);
        assert_eq!(picks(&mut scheduler, 2), [2, 2]);
        for worker in [3, 1, 2] {
            scheduler.released(id(worker), 1);
        }
        assert_eq!(
            picks(&mut scheduler, 3),
            [1, 3, 2],
            "longest passed over first"
        );
    }

    #[test]
    fn a_load_is_kept_while_blocked_and_forgotten_when_removed() {
        let mut scheduler = with_workers(Scheduling::LeastConnections, 1);
        picks(&mut scheduler, 5);
        scheduler.block(id(1));
        scheduler.released(id(1), 2);
        scheduler.unblock(id(1));
        scheduler.add(id(1));
        assert_eq!(scheduler.load(id(1)), 3);
        scheduler.released(id(1), 9);
        assert_eq!(scheduler.load(id(1)), 0, "never below nothing");
        picks(&mut scheduler, 1);
        scheduler.remove(id(1));
        assert_eq!(scheduler.load(id(1)), 0);
    }

    #[test]
    fn ip_hash_is_the_same_in_every_process() {
        let mut scheduler = with_workers(Scheduling::IpHash, 8);
        let answers: Vec<_> = (0..8)
            .map(|n| scheduler.pick(client(n)).unwrap().get())
            .collect();
        assert_eq!(
            answers,
            [5, 8, 2, 3, 4, 7, 6, 5],
            "a change here sends every client elsewhere at an upgrade"
        );
        let mapped = "::ffff:1.2.3.4".parse().unwrap();
        assert_eq!(
            scheduler.pick(Some(mapped)),
            scheduler.pick(Some("1.2.3.4".parse().unwrap()))
        );
    }

    #[test]
    fn ip_hash_spreads_and_rotates_without_an_address() {
        let mut scheduler = with_workers(Scheduling::IpHash, 4);
        assert_eq!(picks(&mut scheduler, 5), [1, 2, 3, 4, 1]);
        (0..4000).for_each(|n| assert!(scheduler.pick(client(n)).is_some()));
        for worker in 1..=4 {
            assert!(
                (900..=1100).contains(&scheduler.load(id(worker))),
                "{scheduler:?}"
            );
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64),
        Remove(u64),
        Block(u64),
        Unblock(u64),
        Pick(u32),
        Released(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let worker = 1..8_u64;
        prop_oneof![
            1 => worker.clone().prop_map(Step::Add),
            1 => worker.clone().prop_map(Step::Remove),
            1 => worker.clone().prop_map(Step::Block),
            1 => worker.clone().prop_map(Step::Unblock),
            6 => any::<u32>().prop_map(Step::Pick),
            1 => (worker, 0..4_u64).prop_map(|(worker, n)| Step::Released(worker, n)),
        ]
    }

    fn kind() -> impl Strategy<Value = Scheduling> {
        prop_oneof![
            Just(Scheduling::RoundRobin),
            Just(Scheduling::LeastConnections),
            Just(Scheduling::IpHash)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn only_members_with_room_are_picked(kind in kind(), steps in prop::collection::vec(step(), 0..60)) {
            let mut scheduler = Scheduler::new(kind);
            // Blocked or not, and load.
            let mut model = BTreeMap::<u64, (bool, u64)>::new();
            for step in steps {
                match step {
                    Step::Add(n) => { scheduler.add(id(n)); model.entry(n).or_default(); }
                    Step::Remove(n) => { scheduler.remove(id(n)); model.remove(&n); }
                    Step::Block(n) => { scheduler.block(id(n)); model.entry(n).and_modify(|m| m.0 = true); }
                    Step::Unblock(n) => { scheduler.unblock(id(n)); model.entry(n).and_modify(|m| m.0 = false); }
                    Step::Released(n, by) => {
                        scheduler.released(id(n), by);
                        model.entry(n).and_modify(|m| m.1 = m.1.saturating_sub(by));
                    }
                    Step::Pick(peer) => {
                        let free = |m: &&mut (bool, u64)| !m.0;
                        let least = model.values_mut().filter(free).map(|m| m.1).min();
                        let picked = scheduler.pick(client(peer));
                        prop_assert_eq!(picked.is_some(), least.is_some());
                        if let Some(picked) = picked {
                            let member = model.get_mut(&picked.get()).unwrap();
                            prop_assert!(!member.0);
                            prop_assert!(kind != Scheduling::LeastConnections || Some(member.1) == least);
                            member.1 += 1;
                        }
                    }
                }
                for (&n, &(_, load)) in &model {
                    prop_assert_eq!(scheduler.load(id(n)), load);
                }
            }
        }

        #[test]
        fn bursts_are_spread_evenly(least in any::<bool>(), workers in 1..20_u64, burst in 0..300_usize) {
            let kind = if least { Scheduling::LeastConnections } else { Scheduling::RoundRobin };
            let mut scheduler = with_workers(kind, workers);
            picks(&mut scheduler, burst);
            let loads = (1..=workers).map(|n| scheduler.load(id(n)));
            let spread = loads.clone().max().unwrap() - loads.min().unwrap();
            prop_assert!(spread <= u64::from(!(burst as u64).is_multiple_of(workers)));
        }

        #[test]
        fn ip_hash_moves_only_the_clients_of_the_lost_worker(
            workers in 2..10_u64, lost in 1..10_u64, clients in prop::collection::vec(any::<u32>(), 1..50),
        ) {
            let mut scheduler = with_workers(Scheduling::IpHash, workers);
            let before: Vec<_> = clients.iter().map(|&n| scheduler.pick(client(n)).unwrap()).collect();
            scheduler.block(id(lost));
            for (&n, &before) in clients.iter().zip(&before) {
                let after = scheduler.pick(client(n)).unwrap();
                prop_assert!(after != id(lost) && (after == before || before == id(lost)));
            }
        }
    }

    /// A simulation, for this many processes hardly run anywhere: `cargo test --release --lib a_pick_costs -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout, reason = "its result")]
    fn what_a_pick_costs() {
        const PICKS: u32 = 1_000_000;
        let peer = Some(IpAddr::from([127, 0, 0, 1]));
        for kind in [
            Scheduling::RoundRobin,
            Scheduling::LeastConnections,
            Scheduling::IpHash,
        ] {
            for workers in [2, 8, 64, 512] {
                let mut scheduler = with_workers(kind, workers);
                let begun = std::time::Instant::now();
                for _ in 0..PICKS {
                    let id = scheduler.pick(peer).unwrap();
                    scheduler.released(id, 1);
                }
                let each = begun.elapsed() / PICKS;
                println!("{kind:?}, {workers} workers: {each:?} a pick and a release");
            }
        }
    }
}
