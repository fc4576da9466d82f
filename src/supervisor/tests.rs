//! A test a rule; random inputs are in `random`.

mod asked;
mod legacy;
mod random;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;

/// A supervisor with a clock of milliseconds; every worker's heart beats unless it is silenced.
struct Rig {
    supervisor: Supervisor,
    now: Instant,
    silent: BTreeSet<u64>,
}

fn id(n: u64) -> WorkerId {
    WorkerId::new(n)
}

fn slot(n: u32) -> Slot {
    Slot::new(n)
}

fn generation(n: u64) -> Generation {
    Generation::new(n)
}

fn spawn(n: u64, s: u32, g: u64) -> Action {
    Action::Spawn {
        id: id(n),
        slot: slot(s),
        generation: generation(g),
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const RESTART: Input = Input::Restart {
    min_up: Duration::ZERO,
};

impl Rig {
    fn new(workers: u32) -> Self {
        let now = Instant::now();
        let supervisor = Supervisor::new(
            Policy {
                workers,
                ..Policy::default()
            },
            now,
        );
        Self {
            supervisor,
            now,
            silent: BTreeSet::new(),
        }
    }

    /// With all workers listening.
    fn serving(workers: u32) -> Self {
        let mut rig = Self::new(workers);
        rig.on(Input::Start);
        (1..=u64::from(workers)).for_each(|n| drop(rig.up(n)));
        rig
    }

    fn on(&mut self, input: Input) -> Vec<Action> {
        self.supervisor.handle(self.now, input);
        std::iter::from_fn(|| self.supervisor.poll()).collect()
    }

    fn all(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Action> {
        inputs
            .into_iter()
            .flat_map(|input| self.on(input))
            .collect()
    }

    fn up(&mut self, n: u64) -> Vec<Action> {
        self.all([
            Input::Spawned(id(n)),
            Input::Online(id(n)),
            Input::Listening(id(n)),
        ])
    }

    fn die(&mut self, n: u64) -> Vec<Action> {
        self.all([Input::Disconnected(id(n)), Input::Exited(id(n))])
    }

    /// Ticks for so long, in steps of 50 ms.
    fn wait(&mut self, time: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        for _ in 0..time.as_millis() / 50 {
            self.now += ms(50);
            let beating: Vec<_> = self.supervisor.workers().map(|(id, ..)| id).collect();
            let beating = beating
                .into_iter()
                .filter(|id| !self.silent.contains(&id.get()));
            let beats: Vec<_> = beating.map(Input::Beat).collect();
            actions.extend(self.all(beats.into_iter().chain([Input::Tick])));
        }
        actions
    }

    fn state(&self, n: u64) -> Option<State> {
        self.supervisor.state_of(id(n))
    }
}

fn spawned(actions: &[Action]) -> Vec<u64> {
    let ids = actions.iter().filter_map(|action| match action {
        Action::Spawn { id, .. } => Some(id.get()),
        _ => None,
    });
    ids.collect()
}

#[test]
fn a_start_fills_every_slot_and_ready_comes_once() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.on(Input::Start), [spawn(1, 0, 1), spawn(2, 1, 1)]);
    assert_eq!(rig.on(Input::Start), []);
    assert_eq!(rig.up(1), []);
    assert_eq!(rig.up(2), [Action::Note(Note::Ready)]);
    assert_eq!(
        (rig.supervisor.listening(), rig.supervisor.target()),
        (2, 2)
    );
    assert_eq!(rig.die(1), [spawn(3, 0, 1)]);
    assert_eq!(rig.up(3), []);
}

#[test]
fn a_worker_is_gone_when_it_is_disconnected_and_dead_in_either_order() {
    let mut rig = Rig::serving(2);
    rig.on(Input::Disconnected(id(1)));
    assert_eq!(rig.state(1), Some(State::Disconnected));
    assert_eq!(rig.on(Input::Exited(id(1))), [spawn(3, 0, 1)]);
    assert_eq!(rig.state(1), None);
    assert_eq!(rig.on(Input::Exited(id(2))), [spawn(4, 1, 1)]);
    assert_eq!(rig.state(2), Some(State::Dead));
    assert_eq!(
        rig.all([
            Input::Exited(id(2)),
            Input::Online(id(2)),
            Input::Beat(id(2))
        ]),
        []
    );
    rig.on(Input::Disconnected(id(2)));
    assert_eq!(rig.state(2), None);
}

#[test]
fn a_restart_replaces_slot_by_slot_successor_first() {
    let mut rig = Rig::serving(2);
    assert_eq!(rig.on(RESTART), [spawn(3, 0, 2)]);
    assert_eq!(rig.supervisor.restarting(), Some(generation(2)));
    assert_eq!(rig.all([Input::Spawned(id(3)), Input::Online(id(3))]), []);
    let next = [Action::Retire(id(1)), spawn(4, 1, 2)];
    assert_eq!(
        rig.on(Input::Listening(id(3))),
        next,
        "does not wait for the drain"
    );
    let done = Note::Restarted {
        generation: generation(2),
        replaced: 2,
        took: Duration::ZERO,
    };
    assert_eq!(rig.up(4), [Action::Retire(id(2)), Action::Note(done)]);
    assert_eq!(rig.state(1), Some(State::Draining));
    assert_eq!(
        rig.all([Input::Exited(id(1)), Input::Disconnected(id(1))]),
        []
    );
    assert_eq!(
        (rig.supervisor.generation(), rig.supervisor.restarting()),
        (generation(2), None)
    );
    assert!(rig.supervisor.needs(generation(1)), "2 still drains");
    rig.die(2);
    assert!(!rig.supervisor.needs(generation(1)));
}

#[test]
fn a_successor_is_on_trial_for_min_up() {
    let mut rig = Rig::serving(1);
    rig.on(Input::Restart { min_up: ms(1000) });
    assert_eq!(rig.up(2), []);
    assert_eq!(rig.wait(ms(950)), []);
    assert_eq!(rig.wait(ms(50))[0], Action::Retire(id(1)));
}

#[test]
fn restarts_asked_for_during_a_restart_become_one_more() {
    let mut rig = Rig::serving(1);
    rig.on(RESTART);
    assert_eq!(rig.all([RESTART, RESTART, RESTART]), []);
    assert!(rig.up(2).ends_with(&[spawn(3, 0, 3)]));
    assert!(spawned(&rig.up(3)).is_empty());
    assert_eq!(rig.supervisor.generation(), generation(3));
}

#[test]
fn a_restart_is_abandoned_when_its_successor_fails() {
    let abandoned = |id| {
        Action::Note(Note::RestartAbandoned {
            generation: generation(2),
            slot: slot(0),
            id,
        })
    };
    let mut died = Rig::serving(2);
    died.on(RESTART);
    assert_eq!(died.on(Input::Spawned(id(3))), []);
    assert_eq!(
        died.die(3),
        [Action::Kill(id(3)), abandoned(id(3))],
        "killed for having lost its channel"
    );
    assert_eq!(
        died.on(RESTART),
        [spawn(4, 0, 3)],
        "with a still higher generation"
    );

    let mut failed = Rig::serving(2);
    failed.on(RESTART);
    assert_eq!(failed.on(Input::SpawnFailed(id(3))), [abandoned(id(3))]);
    assert_eq!(
        failed.die(2),
        [spawn(4, 1, 1)],
        "the generation that still serves"
    );

    let mut slow = Rig::serving(2);
    slow.all([RESTART, Input::Spawned(id(3))]);
    let timeout = Action::Note(Note::BootTimeout(id(3)));
    assert_eq!(
        slow.wait(Duration::from_secs(60)),
        [timeout, Action::Kill(id(3)), abandoned(id(3))]
    );
    assert_eq!(slow.die(3), []);
    assert_eq!(slow.supervisor.listening(), 2);
}

#[test]
fn a_crash_during_a_restart_takes_the_new_generation_once_it_serves() {
    let mut rig = Rig::serving(3);
    rig.on(RESTART);
    assert_eq!(
        rig.die(3),
        [spawn(5, 2, 1)],
        "nobody of generation 2 serves yet"
    );
    assert_eq!(spawned(&rig.up(4)), [6]);
    let died = rig.die(5);
    assert!(
        matches!(died[..], [Action::Note(Note::BackOff { .. })]),
        "never listened: {died:?}"
    );
    assert_eq!(rig.die(4), [spawn(7, 0, 2)], "was replaced already");
    rig.up(7);
    assert_eq!(rig.wait(ms(150)), [spawn(8, 2, 2)]);
    let done = Note::Restarted {
        generation: generation(2),
        replaced: 2,
        took: ms(150),
    };
    assert_eq!(
        rig.up(6),
        [Action::Retire(id(2)), Action::Note(done)],
        "slot 2 needs no replacing any more"
    );
}

#[test]
fn a_successor_takes_over_from_an_incumbent_that_crashed() {
    let mut rig = Rig::serving(1);
    rig.on(RESTART);
    assert_eq!(rig.die(1), [], "its successor is on the way");
    let done = Note::Restarted {
        generation: generation(2),
        replaced: 1,
        took: Duration::ZERO,
    };
    assert_eq!(rig.up(2), [Action::Note(done)]);
}

#[test]
fn a_restart_does_not_wait_for_the_back_off_of_a_broken_program() {
    let mut rig = Rig::new(1);
    rig.on(Input::Start);
    assert!(spawned(&rig.on(Input::SpawnFailed(id(1)))).is_empty());
    assert_eq!(rig.on(RESTART), [spawn(2, 0, 2)]);
    let actions = rig.on(Input::SpawnFailed(id(2)));
    assert!(matches!(
        actions[..],
        [
            Action::Note(Note::RestartAbandoned { .. }),
            Action::Note(Note::BackOff { .. })
        ]
    ));
    assert_eq!(rig.wait(ms(250)), [spawn(3, 0, 1)]);
}

#[test]
fn a_leaving_worker_is_replaced_after_a_grace() {
    let mut rig = Rig::serving(2);
    assert_eq!(rig.all([Input::Leaving(id(2)), Input::Leaving(id(1))]), []);
    assert_eq!(rig.wait(ms(200)), []);
    assert_eq!(
        rig.wait(ms(50)),
        [spawn(3, 0, 1)],
        "one at a time, the same generation"
    );
    assert_eq!(rig.up(3), [Action::Retire(id(1)), spawn(4, 1, 1)]);
    let failed = rig.on(Input::SpawnFailed(id(4)));
    assert!(
        matches!(failed[..], [Action::Note(Note::BackOff { .. })]),
        "2 serves on: {failed:?}"
    );
    assert_eq!(rig.wait(ms(150)), [spawn(5, 1, 1)]);
    assert_eq!(rig.up(5), [Action::Retire(id(2))]);

    let mut stopped = Rig::serving(1);
    stopped.on(Input::Leaving(id(1)));
    assert_eq!(stopped.on(Input::Shutdown), [Action::Retire(id(1))]);
}

#[test]
fn a_recycled_worker_is_replaced_at_once_and_stays_until_its_successor_listens() {
    let mut rig = Rig::serving(2);
    assert_eq!(rig.on(Input::Recycle(id(2))), [spawn(3, 1, 1)]);
    assert_eq!(rig.on(Input::Recycle(id(1))), [], "one at a time");
    let failed = rig.on(Input::SpawnFailed(id(3)));
    assert!(
        matches!(
            failed[..],
            [
                Action::Note(Note::BackOff { .. }),
                Action::Spawn { id: _, .. }
            ]
        ),
        "2 serves on, and is tried again after a while; 1 is next: {failed:?}"
    );
    assert_eq!(rig.up(4), [Action::Retire(id(1))]);
    assert_eq!(rig.wait(ms(150)), [spawn(5, 1, 1)]);
    assert_eq!(rig.up(5), [Action::Retire(id(2))]);
    assert_eq!(rig.supervisor.listening(), 2);
    let mut gone = Rig::serving(1);
    assert_eq!(gone.all([Input::Recycle(id(9)), Input::Tick]), []);
}

#[test]
fn a_restart_replaces_who_was_to_be_recycled() {
    let mut rig = Rig::serving(2);
    rig.on(RESTART);
    assert_eq!(rig.on(Input::Recycle(id(2))), []);
    rig.up(3);
    assert!(rig.up(4).contains(&Action::Retire(id(2))));
    assert_eq!(rig.wait(ms(500)), [], "no second successor");
}

#[test]
fn scaling_fills_new_slots_and_empties_the_highest() {
    let mut rig = Rig::serving(2);
    assert_eq!(rig.on(Input::Scale(4)), [spawn(3, 2, 1), spawn(4, 3, 1)]);
    rig.all([
        Input::Spawned(id(3)),
        Input::Online(id(3)),
        Input::Spawned(id(4)),
    ]);
    let down = [
        Action::Kill(id(4)),
        Action::Kill(id(3)),
        Action::Retire(id(2)),
    ];
    assert_eq!(rig.on(Input::Scale(1)), down);
    assert_eq!(rig.on(Input::Scale(0)), []);
    assert_eq!((2..=4).flat_map(|n| rig.die(n)).collect::<Vec<_>>(), []);
    assert_eq!(rig.on(Input::Scale(2)), [spawn(5, 1, 1)]);
}

#[test]
fn scaling_away_the_slot_under_replacement_ends_its_successor() {
    let mut rig = Rig::serving(2);
    rig.on(RESTART);
    rig.up(3);
    assert_eq!(
        rig.all([Input::Scale(1), Input::Spawned(id(4))])[0],
        Action::Retire(id(2))
    );
    assert_eq!(rig.supervisor.generation(), generation(2));
}

#[test]
fn a_kill_waits_until_there_is_a_process() {
    let mut rig = Rig::serving(1);
    rig.on(Input::Scale(2));
    assert_eq!(rig.on(Input::Scale(1)), []);
    assert_eq!(rig.on(Input::Spawned(id(2))), [Action::Kill(id(2))]);
    assert_eq!(
        rig.all([
            Input::Spawned(id(2)),
            Input::Online(id(2)),
            Input::ShutdownNow
        ]),
        [Action::Kill(id(1))]
    );
}

#[test]
fn deaths_before_ready_wait_ever_longer_and_the_first_boot_gives_up() {
    let mut rig = Rig::new(4);
    let began = rig.now;
    let mut ids = spawned(&rig.on(Input::Start));
    let mut delays = Vec::new();
    let end = loop {
        let deaths: Vec<_> = ids.iter().map(|&n| Input::SpawnFailed(id(n))).collect();
        let actions = rig.all(deaths);
        delays.extend(actions.iter().filter_map(|action| match action {
            Action::Note(Note::BackOff { delay, slot }) if slot.get() == 0 => Some(*delay),
            _ => None,
        }));
        if actions.contains(&Action::Note(Note::GiveUp { id: id(61) })) {
            break actions;
        }
        ids = spawned(&rig.wait(ms(1150)));
        assert!(!ids.is_empty(), "delays: {delays:?}");
    };
    assert_eq!(delays.len(), 15);
    for (delay, least) in delays.iter().zip([100, 200, 400, 800, 1000, 1000]) {
        assert!(
            (ms(least)..=ms(least * 11 / 10)).contains(delay),
            "{delays:?}"
        );
    }
    let total: Duration = delays.iter().sum();
    assert!((ms(12_500)..=ms(13_750)).contains(&total), "{total:?}");
    assert!(rig.now - began < Duration::from_secs(18));
    assert_eq!(end.last(), Some(&Action::Finished));
}

#[test]
fn nobody_gives_up_once_a_worker_has_listened() {
    let mut rig = Rig::serving(2);
    let mut n = spawned(&rig.die(1))[0];
    for _ in 0..40 {
        rig.on(Input::SpawnFailed(id(n)));
        n = spawned(&rig.wait(Duration::from_secs(34)))[0];
    }
}

#[test]
fn deaths_after_ready_are_mended_at_once_while_there_is_credit() {
    let mut rig = Rig::serving(1);
    let mut n = 1;
    for _ in 0..80 {
        rig.wait(ms(250));
        rig.wait(ms(250));
        n = spawned(&rig.die(n))[0];
        rig.up(n);
    }
}

#[test]
fn a_worker_that_dies_right_after_listening_does_not_spin() {
    let mut rig = Rig::serving(1);
    let mut n = 1;
    for _ in 0..12 {
        n = spawned(&rig.die(n))[0];
        rig.up(n);
    }
    assert!(matches!(
        rig.die(n)[..],
        [Action::Note(Note::BackOff { .. })]
    ));
    n = spawned(&rig.wait(ms(150)))[0];
    rig.up(n);
    rig.wait(Duration::from_secs(30));
    assert_eq!(spawned(&rig.die(n)), [n + 1], "healthy again");
}

#[test]
fn a_boot_timeout_kills_once() {
    let mut rig = Rig::new(1);
    rig.all([Input::Start, Input::Spawned(id(1))]);
    rig.wait(Duration::from_secs(30));
    rig.on(Input::Online(id(1)));
    let actions = rig.wait(Duration::from_secs(60));
    assert_eq!(
        actions,
        [Action::Note(Note::BootTimeout(id(1))), Action::Kill(id(1))]
    );
    assert!(matches!(
        rig.die(1)[..],
        [Action::Note(Note::BackOff { .. })]
    ));
}

#[test]
fn a_hung_worker_is_aborted_then_killed() {
    let mut rig = Rig::serving(2);
    rig.silent.insert(1);
    assert_eq!(rig.wait(ms(29_950)), []);
    assert_eq!(
        rig.wait(ms(50)),
        [Action::Note(Note::Hung(id(1))), Action::Abort(id(1))]
    );
    assert_eq!(rig.wait(ms(950)), []);
    assert_eq!(rig.wait(ms(5000)), [Action::Kill(id(1))]);
    assert_eq!(rig.die(1), [spawn(3, 0, 1)]);
}

#[test]
fn nobody_is_killed_for_the_primarys_own_stop() {
    let mut rig = Rig::serving(1);
    rig.all([Input::Scale(2), Input::Spawned(id(2))]);
    rig.wait(ms(100));
    rig.now += Duration::from_secs(3600);
    assert_eq!(rig.on(Input::Tick), []);
    assert_eq!(rig.wait(Duration::from_secs(59)), []);
    assert_eq!(
        rig.wait(Duration::from_secs(1))[0],
        Action::Note(Note::BootTimeout(id(2)))
    );
}

#[test]
fn a_driver_that_only_sleeps_until_the_deadline_sees_every_one() {
    let mut rig = Rig::serving(1);
    let began = rig.now;
    while rig.on(Input::Tick).is_empty() {
        rig.now = rig.supervisor.deadline().unwrap();
    }
    assert_eq!(rig.now - began, Duration::from_secs(30), "hung");
}

#[test]
fn a_shutdown_drains_and_then_kills() {
    let mut rig = Rig::serving(2);
    rig.all([Input::Scale(3), Input::Spawned(id(3)), RESTART]);
    let orders = [
        Action::Retire(id(1)),
        Action::Retire(id(2)),
        Action::Kill(id(3)),
    ];
    assert_eq!(rig.on(Input::Shutdown), orders, "4 is not spawned yet");
    assert_eq!(
        rig.all([Input::Shutdown, RESTART, Input::Scale(9), Input::Start]),
        []
    );
    assert_eq!([rig.die(1), rig.die(3)].concat(), []);
    let late = rig.wait(Duration::from_secs(30));
    assert_eq!(
        late,
        [
            Action::Note(Note::DeadlinePassed(id(2))),
            Action::Kill(id(2))
        ]
    );
    assert_eq!(rig.on(Input::Exited(id(2))), []);
    assert_eq!(rig.on(Input::SpawnFailed(id(4))), [Action::Finished]);
    assert_eq!(
        rig.all([Input::Tick, Input::ShutdownNow, Input::Disconnected(id(2))]),
        []
    );
    assert_eq!(rig.supervisor.deadline(), None);
}

#[test]
fn a_shutdown_now_kills_whoever_lives() {
    let mut rig = Rig::serving(2);
    rig.on(Input::Shutdown);
    assert_eq!(
        rig.on(Input::ShutdownNow),
        [Action::Kill(id(1)), Action::Kill(id(2))]
    );
    assert_eq!(rig.on(Input::ShutdownNow), []);
    assert_eq!([rig.die(1), rig.die(2)].concat(), [Action::Finished]);
    assert_eq!(
        Rig::new(3).on(Input::Shutdown),
        [Action::Finished],
        "before the start"
    );
}
