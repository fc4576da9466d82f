//! A cluster of numbers: workers give back what they are asked for, and it goes to the emptiest.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Worker {
    open: u64,
    /// Of these, connections that cannot move: busy ones, WebSockets.
    fixed: u64,
    given_back: u64,
    has_room: bool,
}

struct Cluster {
    machine: Rebalance,
    workers: Vec<Worker>,
    now: Instant,
    moved: u64,
    orders: u64,
}

impl Cluster {
    fn of(open: &[u64]) -> Self {
        let worker = |&open: &u64| Worker {
            open,
            fixed: 0,
            given_back: 0,
            has_room: true,
        };
        Self {
            machine: Rebalance::default(),
            workers: open.iter().map(worker).collect(),
            now: Instant::now(),
            moved: 0,
            orders: 0,
        }
    }

    fn open(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.open).collect()
    }

    fn loads(&self) -> Vec<Load> {
        let load = |(n, worker): (usize, &Worker)| Load {
            id: WorkerId::new(n as u64),
            open: worker.open,
            given_back: worker.given_back,
            has_room: worker.has_room,
        };
        self.workers.iter().enumerate().map(load).collect()
    }

    /// One look, and what comes of it. Says how many were asked for.
    fn look(&mut self) -> u64 {
        self.now += LOOK_EVERY;
        let orders = self.machine.look(self.now, &self.loads());
        let asked = orders.iter().map(|&(_, n)| u64::from(n)).sum();
        assert!(asked <= MOST, "{orders:?}");
        self.orders += asked;
        for (id, n) in orders {
            let giver = &mut self.workers[id.get() as usize];
            let given = u64::from(n).min(giver.open.saturating_sub(giver.fixed));
            giver.open -= given;
            giver.given_back += given;
            self.moved += given;
            for _ in 0..given {
                let free = self.workers.iter_mut().filter(|worker| worker.has_room);
                free.min_by_key(|worker| worker.open).unwrap().open += 1;
            }
        }
        asked
    }

    fn looks(&mut self, n: u64) {
        for _ in 0..n {
            self.look();
        }
    }

    /// Whether each is within a fifth of its share.
    fn is_fair(&self) -> bool {
        let total: u64 = self.open().iter().sum();
        let share = total as f64 / self.workers.len() as f64;
        let mut open = self.open().into_iter();
        open.all(|open| (open as f64 - share).abs() <= (share / 5.0).max(1.0))
    }
}

#[test]
fn a_new_worker_gets_its_share_within_two_seconds_and_then_nothing_moves() {
    for open in [[100, 100, 0], [150, 150, 0], [300, 0, 0], [0, 10, 290]] {
        let mut cluster = Cluster::of(&open);
        cluster.looks(20);
        assert!(cluster.is_fair(), "{open:?}: {:?}", cluster.open());
        let moved = cluster.moved;
        cluster.looks(1000);
        assert_eq!(cluster.moved, moved, "{open:?}");
    }
}

#[test]
fn nothing_moves_before_the_imbalance_has_lasted() {
    let mut cluster = Cluster::of(&[100, 100, 0]);
    cluster.looks(5);
    assert_eq!(cluster.orders, 0);
    // For a moment all is well: the time begins anew.
    cluster.workers[2].open = 100;
    cluster.looks(1);
    cluster.workers[2].open = 0;
    cluster.looks(5);
    assert_eq!(cluster.orders, 0);
    cluster.looks(2);
    assert!(cluster.orders > 0);
}

#[test]
fn a_small_or_common_difference_is_left_alone() {
    for open in [[8, 0, 0], [50, 40, 45], [110, 90, 100], [12, 0, 12]] {
        let mut cluster = Cluster::of(&open);
        cluster.looks(100);
        assert_eq!(cluster.moved, 0, "{open:?}");
    }
    let mut alone = Cluster::of(&[1000]);
    alone.looks(100);
    assert_eq!(alone.orders, 0);
}

#[test]
fn a_look_asks_for_no_more_than_is_gentle_and_looks_are_a_tenth_of_a_second_apart() {
    let mut cluster = Cluster::of(&[3000, 3000, 0]);
    cluster.looks(6);
    assert_eq!(cluster.look(), MOST);
    cluster.now -= LOOK_EVERY / 2;
    assert_eq!(cluster.look(), 0, "50 ms after the last one");
}

#[test]
fn who_cannot_give_is_asked_ever_more_seldom() {
    let mut cluster = Cluster::of(&[500, 0, 0]);
    cluster.workers[0].fixed = 500;
    let mut asked_at = Vec::new();
    for look in 0..6000 {
        if cluster.look() > 0 {
            asked_at.push(look);
        }
    }
    let gaps: Vec<_> = asked_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.is_sorted(), "{gaps:?}");
    assert!(asked_at.len() < 20, "{} times", asked_at.len());
    cluster.workers[0].fixed = 0;
    cluster.looks(700);
    assert!(
        cluster.is_fair(),
        "once they are idle: {:?}",
        cluster.open()
    );
}

#[test]
fn a_full_worker_gives_and_is_given_nothing() {
    let mut cluster = Cluster::of(&[0, 300, 150]);
    cluster.workers[0].has_room = false;
    cluster.looks(100);
    assert_eq!(cluster.workers[0].open, 0);
    let mut full = Cluster::of(&[300, 0]);
    full.workers[0].has_room = false;
    full.looks(100);
    assert_eq!(full.open(), [150, 150]);
}

#[test]
fn a_plan_ends_with_its_worker_and_with_a_reset() {
    let mut cluster = Cluster::of(&[3000, 0]);
    cluster.looks(7);
    assert!(cluster.orders > 0);
    cluster.machine.reset();
    assert_eq!(cluster.look(), 0, "found anew, so it has to last anew");
    cluster.machine.gone(WorkerId::new(0));
    assert!(cluster.machine.asked.is_empty());
}

// Connections come in rotation, live for some seconds and go by chance: the case in which moving would never end.
#[test]
fn a_busy_cluster_moves_next_to_nothing() {
    for (workers, each, life) in [(4, 16, 50), (4, 60, 100), (8, 200, 30)] {
        let mut cluster = Cluster::of(&vec![each; workers]);
        let (mut dice, mut next, mut come) = (7_u64, 0, 0);
        let mut roll = |below: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % below
        };
        for _ in 0..20_000 {
            for worker in &mut cluster.workers {
                worker.open -= (0..worker.open).filter(|_| roll(life) == 0).count() as u64;
            }
            let coming = each * workers as u64 / life;
            for _ in 0..coming + u64::from(roll(life) < each * workers as u64 % life) {
                cluster.workers[next % workers].open += 1;
                next += 1;
                come += 1;
            }
            cluster.look();
        }
        assert!(cluster.moved * 200 <= come, "{} of {come}", cluster.moved);
    }
}

proptest! {
    #[test]
    fn it_ends_in_balance_and_moves_no_more_than_was_too_much(open in prop::collection::vec(0..2000_u64, 1..12)) {
        let mut cluster = Cluster::of(&open);
        let total: u64 = open.iter().sum();
        let share = total.div_ceil(open.len() as u64);
        let surplus: u64 = open.iter().map(|open| open.saturating_sub(share)).sum();
        cluster.looks(surplus / MOST + 100);
        prop_assert!(cluster.moved <= surplus);
        prop_assert_eq!(cluster.open().iter().sum::<u64>(), total);
        let loads = cluster.loads();
        if let Some(share) = Share::of(&loads) {
            prop_assert!(!loads.iter().any(|load| share.is_far_from(load)), "{:?}", cluster.open());
        }
        let moved = cluster.moved;
        cluster.looks(100);
        prop_assert_eq!(cluster.moved, moved);
    }

    // Whatever comes and goes: nobody is ever asked for what would bring it below its share, nor for more than others lack.
    #[test]
    fn nobody_is_asked_for_too_much(
        looks in prop::collection::vec((prop::collection::vec((0..300_u64, any::<bool>(), 0..300_u64), 1..6), 1..5_u32), 1..60),
    ) {
        let mut machine = Rebalance::default();
        let mut now = Instant::now();
        for (workers, steps) in looks {
            for _ in 0..steps {
                now += LOOK_EVERY;
                let loads: Vec<_> = workers
                    .iter()
                    .enumerate()
                    .map(|(n, &(open, has_room, given_back))| Load { id: WorkerId::new(n as u64), open, given_back, has_room })
                    .collect();
                let orders = machine.look(now, &loads);
                let Some(share) = Share::of(&loads) else {
                    prop_assert!(orders.is_empty());
                    continue;
                };
                let asked: u64 = orders.iter().map(|&(_, n)| u64::from(n)).sum();
                prop_assert!(asked <= MOST.min(loads.iter().map(|load| share.lack(load)).sum()));
                for (id, n) in orders {
                    let load = loads[id.get() as usize];
                    prop_assert!(n > 0 && u64::from(n) <= share.surplus(&load));
                }
            }
        }
    }
}
