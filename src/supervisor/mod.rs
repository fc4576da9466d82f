//! Who has to run: a pure machine that decides on spawning, retiring and killing workers.
//!
//! It holds ids, instants and numbers; no process, no descriptor, no clock. The driver tells it what happened
//! ([`Supervisor::handle`]) and carries out what it answers ([`Supervisor::poll`]).
//!
//! What holds whatever happens, and is tested with random inputs:
//!
//! - A worker in the way of a restart, one that asked to leave or that is recycled, is retired only when its successor listens. So a
//!   restart never lowers the number of listening workers.
//! - At most one replacement is under way: at most one worker more than wanted is not yet on its way out.
//! - Ids are never reused; each is aborted, killed and retired at most once, and never named after it exited.
//! - After a shutdown nothing is spawned, and [`Action::Finished`] comes exactly once, after the last exit.
//! - Inputs that make no sense (unknown ids, late news) change nothing.
//!
//! # Layout
//!
//! `io` inputs and actions · `policy` numbers · `worker` one worker's life · `slot` keeping the places filled · `backoff`
//! waiting after deaths · `rollout` replacing one worker at a time · `endings` how one worker leaves or is ended · `deadlines` how long
//! each is waited for · `clock` time without the primary's own stops · `legacy` from one program to the next

mod backoff;
mod clock;
mod deadlines;
mod endings;
mod io;
mod legacy;
mod policy;
mod rollout;
mod slot;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use self::backoff::Jitter;
use self::clock::Clock;
use self::rollout::{Replacement, Restart};
use self::slot::Place;
use self::worker::Worker;
use crate::id::{Generation, Slot, WorkerId};

pub(crate) use self::io::{Action, Input, Note};
pub(crate) use self::legacy::{Legacy, Survives, Survivor};
pub(crate) use self::policy::Policy;
pub(crate) use self::worker::State;

/// The machine. See the [module](self).
#[derive(Debug)]
pub(crate) struct Supervisor {
    policy: Policy,
    clock: Clock,
    phase: Phase,
    reached: Milestone,
    /// Every worker that has not both exited and disconnected.
    workers: BTreeMap<WorkerId, Worker>,
    /// The wanted slots, by number; none before the start and after a shutdown, so that then nothing is spawned.
    places: Vec<Place>,
    /// The one replacement under way.
    replacement: Option<Replacement>,
    restart: Option<Restart>,
    /// `min_up` of the restart that follows the current one.
    queued_restart: Option<Duration>,
    /// The generation that serves: of the last restart that succeeded, or what an abandoned one left.
    serving: Generation,
    /// The highest generation ever ordered.
    newest: Generation,
    next_id: WorkerId,
    jitter: Jitter,
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Running,
    Stopping,
    Finished,
}

/// How far the cluster has ever come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Milestone {
    Booting,
    /// Some worker has listened.
    Served,
    /// All have.
    Ready,
}

impl Supervisor {
    pub(crate) fn new(policy: Policy, now: Instant) -> Self {
        Self {
            clock: Clock::new(now),
            phase: Phase::Idle,
            reached: Milestone::Booting,
            workers: BTreeMap::new(),
            places: Vec::new(),
            replacement: None,
            restart: None,
            queued_restart: None,
            serving: FIRST,
            newest: FIRST,
            next_id: WorkerId::new(1),
            jitter: Jitter::new(policy.jitter),
            actions: VecDeque::new(),
            policy,
        }
    }

    /// Takes one input. Afterwards [`poll`](Self::poll) until it returns `None`.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        let now = self.clock.advance(now);
        if self.phase == Phase::Finished {
            return;
        }
        self.take(now, input);
        // After a stop of the primary many heartbeats are due: nobody is judged before all of them are told, and time passes.
        if !matches!(input, Input::Beat(_)) {
            self.enforce_deadlines(now);
        }
        // From here on what to do follows from how things are, not from what came in.
        self.advance_replacement(now);
        self.fill_places(now);
        self.begin_replacement(now);
        self.notice_milestones();
    }

    /// The next thing to do.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// `None`: never existed, or has both exited and disconnected.
    #[cfg(test)]
    pub(crate) fn state_of(&self, id: WorkerId) -> Option<State> {
        self.workers.get(&id).map(Worker::state)
    }

    /// Workers wanted; 0 before the start and after a shutdown.
    pub(crate) fn target(&self) -> usize {
        self.places.len()
    }

    /// Workers that listen and are not being ended by force, successors on trial included.
    pub(crate) fn listening(&self) -> usize {
        self.workers
            .values()
            .filter(|worker| worker.serving_since().is_some())
            .count()
    }

    /// The generation that serves; during a restart the one that is being replaced.
    pub(crate) fn generation(&self) -> Generation {
        self.serving
    }

    /// The generation that a restart under way brings.
    pub(crate) fn restarting(&self) -> Option<Generation> {
        self.restart.as_ref().map(|restart| restart.generation)
    }

    /// Whether a worker of this generation runs or may yet be spawned: until then its image has to be kept.
    pub(crate) fn needs(&self, generation: Generation) -> bool {
        let places = self.places.iter().map(|place| place.generation);
        let workers = self.workers.values().map(|worker| worker.generation);
        let orders = [self.serving].into_iter().chain(self.restarting());
        orders
            .chain(places)
            .chain(workers)
            .any(|needed| needed == generation)
    }

    /// Every worker in the table, by id.
    #[cfg(test)]
    pub(crate) fn workers(&self) -> impl Iterator<Item = (WorkerId, Slot, Generation, State)> + '_ {
        self.workers
            .iter()
            .map(|(&id, worker)| (id, worker.slot, worker.generation, worker.state()))
    }

    fn take(&mut self, now: Instant, input: Input) {
        match input {
            Input::Start => self.start(),
            Input::Fork => self.fork(now),
            Input::Spawned(id) => self.confirm(id),
            Input::SpawnFailed(id) => self.spawn_failed(id, now),
            Input::Exited(id) => self.exited(id, now),
            Input::Online(id) => {
                self.confirm(id);
                self.with(id, Worker::online);
            }
            Input::Listening(id) => {
                if self.with(id, |worker| worker.listening(now)) == Some(true) {
                    self.reached = self.reached.max(Milestone::Served);
                }
            }
            Input::Beat(id) => {
                self.with(id, |worker| worker.beat(now));
            }
            Input::Disconnected(id) => {
                self.confirm(id);
                if self.with(id, |worker| worker.disconnected(now)) == Some(true) {
                    self.workers.remove(&id);
                }
            }
            // Nobody takes its place.
            Input::Leaving(id) if !self.policy.supervised => self.disconnect(id, now),
            Input::Leaving(id) => self.replace_at(id, now + self.policy.leave_grace),
            Input::Recycle(id) => self.replace_at(id, now),
            Input::Disconnect(id) => self.disconnect(id, now),
            Input::DisconnectAndEnd(id) => self.disconnect_and_end(id, now),
            Input::End(id) => self.end(id, now),
            Input::Restart { min_up } => self.request_restart(min_up),
            Input::Scale(workers) => self.scale(workers, now),
            Input::Ending => self.workers.values_mut().for_each(|it| it.leaving = None),
            Input::Shutdown => self.stop(now),
            Input::ShutdownNow => {
                // In this order, so that nobody is ordered to drain and killed in one breath.
                for id in self.every_id() {
                    self.kill(id);
                }
                self.stop(now);
            }
            Input::Tick => {}
        }
    }

    fn start(&mut self) {
        if self.phase == Phase::Idle {
            self.phase = Phase::Running;
            if self.policy.supervised {
                self.places
                    .resize_with(self.policy.workers.max(1) as usize, || Place::new(FIRST));
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Idle | Phase::Running) {
            self.phase = Phase::Stopping;
            self.restart = None;
            self.queued_restart = None;
            self.replacement = None;
            self.places.clear();
            for id in self.every_id() {
                self.dismiss(id, now);
            }
        }
    }

    /// There is a process now. If it was to be killed before there was one, this is the time.
    fn confirm(&mut self, id: WorkerId) {
        if self.with(id, Worker::spawned) == Some(true) {
            self.kill(id);
        }
    }

    fn spawn_failed(&mut self, id: WorkerId, now: Instant) {
        let worker = self.workers.get(&id);
        if let Some(slot) = worker
            .filter(|worker| !worker.is_spawned())
            .map(|worker| worker.slot)
        {
            self.workers.remove(&id);
            if !self.policy.supervised && self.next_id == id.next() {
                // Who asked for it is told, and nobody has heard of the id.
                self.next_id = id;
            }
            self.vacate(slot, id, None, now);
        }
    }

    fn exited(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state() == State::Dead {
            return;
        }
        let (slot, listened) = (worker.slot, worker.listened(now));
        if worker.exited() {
            self.workers.remove(&id);
        }
        self.vacate(slot, id, listened, now);
    }

    fn notice_milestones(&mut self) {
        match self.phase {
            Phase::Running
                if self.policy.supervised
                    && self.reached < Milestone::Ready
                    && self.listening() >= self.target() =>
            {
                self.reached = Milestone::Ready;
                self.note(Note::Ready);
            }
            Phase::Stopping if self.nobody_lives() => {
                self.phase = Phase::Finished;
                self.actions.push_back(Action::Finished);
            }
            _ => {}
        }
    }

    fn spawn(&mut self, slot: Slot, generation: Generation, now: Instant) -> WorkerId {
        let id = self.next_id;
        self.next_id = id.next();
        self.workers.insert(id, Worker::new(slot, generation, now));
        self.actions.push_back(Action::Spawn {
            id,
            slot,
            generation,
        });
        id
    }

    fn nobody_lives(&self) -> bool {
        let mut states = self.workers.values().map(Worker::state);
        states.all(|state| state == State::Dead)
    }

    fn note(&mut self, note: Note) {
        self.actions.push_back(Action::Note(note));
    }

    fn with<T>(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        self.workers.get_mut(&id).map(change)
    }

    /// A snapshot, because what is done to each changes the table.
    fn every_id(&self) -> Vec<WorkerId> {
        self.workers.keys().copied().collect()
    }
}

/// The generation that a cluster starts with.
pub(crate) const FIRST: Generation = Generation::new(1);
