//! Random inputs, honest and not, against the invariants in the module's story.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What the fake world knows of a process.
#[derive(Clone, Debug)]
struct Process {
    slot: Slot,
    stage: Stage,
    /// The order of these two is random.
    exited: bool,
    disconnected: bool,
    retired: bool,
    aborted: bool,
    killed: bool,
    /// A successor makes room for one retirement only.
    replaced_someone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Ordered,
    Spawned,
    Online,
    Listening,
}

impl Process {
    fn lives(&self) -> bool {
        self.stage > Stage::Ordered && !self.exited
    }

    fn serves(&self) -> bool {
        self.stage == Stage::Listening
            && !self.exited
            && !self.disconnected
            && !self.retired
            && !self.aborted
            && !self.killed
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// Some worker does the next thing it may: boot, end when ordered to.
    Progress(usize),
    SpawnFails(usize),
    /// Some worker dies or loses its channel, whatever it was doing.
    Crash(usize),
    CloseChannel(usize),
    Leaving(usize),
    Recycle(usize),
    /// The program asks for a worker's end, in one of the three ways.
    Ask(usize),
    Beats,
    Restart(u64),
    Succeed,
    Scale(u32),
    Shutdown,
    ShutdownNow,
    /// News that cannot be.
    Nonsense(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let who = any::<usize>;
    prop_oneof![
        200 => prop_oneof![6 => 1..300_u64, 2 => 300..2000_u64, 1 => 2000..40_000_u64].prop_map(Step::Wait),
        600 => who().prop_map(Step::Progress),
        20 => who().prop_map(Step::SpawnFails),
        60 => who().prop_map(Step::Crash),
        20 => who().prop_map(Step::CloseChannel),
        40 => who().prop_map(Step::Leaving),
        40 => who().prop_map(Step::Recycle),
        40 => who().prop_map(Step::Ask),
        40 => Just(Step::Beats),
        60 => prop_oneof![Just(0), 1..1500_u64].prop_map(Step::Restart),
        40 => Just(Step::Succeed),
        30 => (0..5_u32).prop_map(Step::Scale),
        6 => Just(Step::Shutdown),
        2 => Just(Step::ShutdownNow),
        60 => (who(), any::<u8>()).prop_map(|(who, what)| Step::Nonsense(who, what)),
    ]
}

struct World {
    supervisor: Supervisor,
    now: Instant,
    processes: BTreeMap<WorkerId, Process>,
    stopping: bool,
    finished: bool,
    last_restart: Generation,
}

impl World {
    fn new(workers: u32, jitter: u64) -> Self {
        let policy = Policy {
            workers,
            jitter,
            boot_deaths: 4,
            ..Policy::default()
        };
        let now = Instant::now();
        Self {
            supervisor: Supervisor::new(policy, now),
            now,
            processes: BTreeMap::new(),
            stopping: false,
            finished: false,
            last_restart: Generation::new(1),
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Wait(time) => {
                // In a driver's rhythm, or in one gap as after SIGSTOP.
                for _ in 0..time / 1500 {
                    self.now += ms(1500);
                    self.send(Input::Tick);
                }
                self.now += ms(time % 1500);
                self.send(Input::Tick);
            }
            Step::Progress(who) => self.progress(who),
            Step::SpawnFails(who) => {
                if let Some(id) = self.some(who, |process| process.stage == Stage::Ordered) {
                    self.processes.remove(&id);
                    self.send(Input::SpawnFailed(id));
                }
            }
            Step::Crash(who) => {
                if let Some(id) = self.some(who, Process::lives) {
                    self.end(id, who % 3 == 0);
                }
            }
            Step::CloseChannel(who) => {
                if let Some(id) = self.some(who, |process| process.lives() && !process.disconnected)
                {
                    self.end(id, true);
                }
            }
            Step::Leaving(who) => {
                if let Some(id) = self.some(who, Process::lives) {
                    self.send(Input::Leaving(id));
                }
            }
            Step::Recycle(who) => {
                if let Some(id) = self.some(who, Process::lives) {
                    self.send(Input::Recycle(id));
                }
            }
            Step::Ask(who) => {
                if let Some(id) = self.some(who / 3, Process::lives) {
                    let ask = [Input::Disconnect, Input::DisconnectAndEnd, Input::End][who % 3];
                    self.send(ask(id));
                }
            }
            Step::Beats => {
                let living: Vec<_> = self
                    .processes
                    .iter()
                    .filter(|(_, p)| p.lives())
                    .map(|(&id, _)| id)
                    .collect();
                living.into_iter().for_each(|id| self.send(Input::Beat(id)));
            }
            Step::Restart(min_up) => self.send(Input::Restart { min_up: ms(min_up) }),
            Step::Succeed => {
                if let Some(legacy) = self.supervisor.legacy() {
                    let told = serde_json::to_vec(&legacy).unwrap();
                    let legacy = serde_json::from_slice(&told).unwrap();
                    let policy = self.supervisor.policy.clone();
                    self.supervisor = Supervisor::adopt(policy, &legacy, self.now);
                    self.send(Input::Tick);
                }
            }
            Step::Scale(workers) => self.send(Input::Scale(workers)),
            Step::Shutdown => self.send(Input::Shutdown),
            Step::ShutdownNow => self.send(Input::ShutdownNow),
            Step::Nonsense(who, what) => self.nonsense(who, what),
        }
    }

    /// One worker makes its next move; one that was ordered to end ends.
    fn progress(&mut self, who: usize) {
        let Some(id) = self.some(who, |process| !process.exited || !process.disconnected) else {
            return;
        };
        let process = self.processes.get_mut(&id).unwrap();
        let ends = process.retired
            || process.killed
            || process.aborted
            || process.exited
            || process.disconnected;
        let input = match process.stage {
            Stage::Ordered => Input::Spawned(id),
            _ if ends => return self.end(id, who.is_multiple_of(2)),
            Stage::Spawned => Input::Online(id),
            Stage::Online => Input::Listening(id),
            Stage::Listening => Input::Beat(id),
        };
        process.stage = match process.stage {
            Stage::Ordered => Stage::Spawned,
            Stage::Spawned => Stage::Online,
            _ => Stage::Listening,
        };
        self.send(input);
    }

    fn end(&mut self, id: WorkerId, channel_first: bool) {
        let process = self.processes.get_mut(&id).unwrap();
        if (channel_first || process.exited) && !process.disconnected {
            process.disconnected = true;
            self.send(Input::Disconnected(id));
        } else if !process.exited {
            process.exited = true;
            self.send(Input::Exited(id));
        }
    }

    fn nonsense(&mut self, who: usize, what: u8) {
        let stranger = WorkerId::new([0, 1_000_000 + who as u64 % 7][who % 2]);
        let gone = self
            .some(who, |process| process.exited && process.disconnected)
            .unwrap_or(stranger);
        let booting = self
            .some(who, |process| process.stage == Stage::Spawned)
            .unwrap_or(stranger);
        let up = self
            .some(who, |process| process.stage >= Stage::Online)
            .unwrap_or(stranger);
        self.send(match what % 17 {
            0 => Input::Start,
            1 => Input::Listening(booting),
            2 => Input::Spawned(up),
            3 => Input::Online(up),
            4 => Input::SpawnFailed(up),
            5 => Input::SpawnFailed(booting),
            6 => Input::Exited(gone),
            7 => Input::Disconnected(gone),
            8 => Input::Online(gone),
            9 => Input::Beat(booting),
            10 => Input::Leaving(gone),
            11 => Input::Recycle(gone),
            12 => Input::Ending,
            13 => Input::Disconnect(gone),
            14 => Input::DisconnectAndEnd(gone),
            15 => Input::End(gone),
            _ => Input::Exited(stranger),
        });
    }

    fn some(&self, who: usize, fits: impl Fn(&Process) -> bool) -> Option<WorkerId> {
        let fitting: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, process)| fits(process))
            .map(|(&id, _)| id)
            .collect();
        (!fitting.is_empty()).then(|| fitting[who % fitting.len()])
    }

    /// Hands an input in and holds every answer against the invariants.
    fn send(&mut self, input: Input) {
        self.supervisor.handle(self.now, input);
        let asked_to_shrink = matches!(
            input,
            Input::Scale(_) | Input::Disconnect(_) | Input::DisconnectAndEnd(_)
        );
        self.stopping |= matches!(input, Input::Shutdown | Input::ShutdownNow);
        while let Some(action) = self.supervisor.poll() {
            assert!(!self.finished, "{action:?} after the last action");
            self.carry_out(&action, asked_to_shrink);
        }
        assert!(
            self.supervisor.deadline().is_none_or(|at| at > self.now),
            "a driver would spin"
        );
        let kept = self
            .processes
            .values()
            .filter(|p| p.lives() && !p.disconnected && !p.retired && !p.killed);
        let surplus = kept.count().saturating_sub(self.supervisor.target());
        assert!(self.stopping || surplus <= 1, "{surplus} more than wanted");
        let serving = self
            .processes
            .values()
            .filter(|process| process.serves())
            .count();
        assert_eq!(self.supervisor.listening(), serving);
    }

    fn carry_out(&mut self, action: &Action, asked_to_shrink: bool) {
        match *action {
            Action::Spawn { id, slot, .. } => {
                assert!(!self.stopping, "spawned while stopping");
                assert!(self.processes.keys().all(|&other| other < id), "id reused");
                assert!((slot.get() as usize) < self.supervisor.target());
                let process = Process {
                    slot,
                    stage: Stage::Ordered,
                    exited: false,
                    disconnected: false,
                    retired: false,
                    aborted: false,
                    killed: false,
                    replaced_someone: false,
                };
                self.processes.insert(id, process);
            }
            Action::Retire(id) => {
                let process = self.processes.get_mut(&id).unwrap();
                assert!(process.lives() && !process.retired && !process.killed);
                process.retired = true;
                let slot = process.slot;
                if !self.stopping && !asked_to_shrink {
                    let mut younger = self
                        .processes
                        .range_mut(id.next()..)
                        .map(|(_, process)| process);
                    let successor =
                        younger.find(|p| p.slot == slot && p.serves() && !p.replaced_someone);
                    successor
                        .expect("retired before a successor listens")
                        .replaced_someone = true;
                }
            }
            Action::End(id) | Action::Abort(id) => {
                let process = self.processes.get_mut(&id).unwrap();
                assert!(process.lives() && !process.aborted && !process.killed);
                process.aborted = true;
            }
            Action::Kill(id) => {
                let process = self.processes.get_mut(&id).unwrap();
                assert!(process.lives() && !process.killed);
                process.killed = true;
            }
            Action::Note(Note::GiveUp { .. }) => {
                let ever = self
                    .processes
                    .values()
                    .any(|process| process.stage == Stage::Listening);
                assert!(!ever, "gave up though a worker has listened");
                self.stopping = true;
            }
            Action::Note(
                Note::Restarted { generation, .. } | Note::RestartAbandoned { generation, .. },
            ) => {
                assert!(
                    generation > self.last_restart,
                    "two restarts at once, or one told twice"
                );
                self.last_restart = generation;
            }
            Action::Note(Note::BackOff { delay, .. }) => {
                assert!(delay >= ms(100) && delay <= ms(33_000))
            }
            Action::Note(_) => {}
            Action::Finished => {
                assert!(self.stopping && !self.processes.values().any(Process::lives));
                self.finished = true;
            }
        }
    }

    /// Every process ends, some at once, some only when killed.
    fn wind_down(&mut self, stubborn: bool) {
        self.send(Input::Shutdown);
        for round in 0..200 {
            if self.finished {
                return;
            }
            self.now += ms(1000);
            self.send(Input::Tick);
            if let Some(id) = self.some(round, |process| process.stage == Stage::Ordered) {
                self.processes.get_mut(&id).unwrap().stage = Stage::Spawned;
                self.send(Input::Spawned(id));
            }
            let ends = |process: &Process| {
                process.lives()
                    && (process.killed || process.aborted || (process.retired && !stubborn))
            };
            if let Some(id) = self.some(round, ends) {
                self.end(id, round % 3 == 0);
            }
        }
        panic!("never finished: {:#?}", self.supervisor);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn the_invariants_hold(
        workers in 1..5_u32,
        jitter in any::<u64>(),
        up in any::<bool>(),
        steps in prop::collection::vec(step(), 0..40),
        stubborn in prop::bool::weighted(0.2),
    ) {
        let mut world = World::new(workers, jitter);
        world.send(Input::Start);
        // Half of the cases begin where most of a cluster's life takes place.
        (0..if up { workers * 3 } else { 0 }).for_each(|who| world.progress(who as usize / 3));
        steps.iter().for_each(|step| world.run(step));
        world.wind_down(stubborn);
    }

    #[test]
    fn back_off_grows_while_deaths_go_on(jitter in any::<u64>(), lives in prop::collection::vec(0..3_u64, 1..30)) {
        let mut rig = Rig::serving(2);
        rig.supervisor.jitter = Jitter::new(jitter);
        let mut n = spawned(&rig.die(1))[0];
        let mut longest = Duration::ZERO;
        for life in lives {
            let actions = if life == 0 { rig.on(Input::SpawnFailed(id(n))) } else { rig.up(n); rig.die(n) };
            let delay = actions.iter().find_map(|action| match action {
                Action::Note(Note::BackOff { delay, .. }) => Some(*delay),
                _ => None,
            });
            if let Some(delay) = delay {
                // At the limit only the jitter is left to change.
                prop_assert!(delay >= longest.mul_f64(1.8).min(ms(30_000)) && delay <= ms(33_000));
                longest = delay;
            }
            let mut next = spawned(&actions);
            while next.is_empty() {
                let beats = [Input::Beat(id(2)), Input::Tick];
                rig.now += ms(1900);
                next = spawned(&rig.all(beats));
            }
            n = next[0];
        }
    }
}
