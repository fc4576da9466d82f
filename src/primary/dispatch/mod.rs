//! Hand-over: from an accepted connection to a worker's intake, and back out of an intake that nobody reads.
//!
//! Invariant: a connection is in exactly one place: in the batch of a worker, in `waiting`, in an intake, or with a worker. Only what a
//! worker had taken can be lost with it.

mod balance;
mod behind;
mod handing;
mod pools;
mod rescue;
mod shared;

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub(super) use self::handing::attend;
use self::pools::Pool;
use super::choice::Choice;
use crate::{
    id::{Generation, WorkerId},
    ipc::intake::{Batch, Conn, IntakeSender},
    schedule::Custom,
    scoreboard::Row,
    settings::Scheduling,
};

/// The intakes of all workers, and the choice among them.
#[derive(Debug)]
pub(super) struct Dispatch {
    choice: Choice,
    /// Listeners that workers asked for.
    pools: BTreeMap<u16, Pool>,
    scheduling: Scheduling,
    intakes: BTreeMap<WorkerId, Intake>,
    /// Given back by workers that leave; placed first, and only on workers that stay.
    returned: VecDeque<Conn>,
    /// Accepted or rescued, and no worker has room. Placed before anything new is accepted.
    waiting: VecDeque<Conn>,
    /// Workers whose batch in hand is to be sent.
    dirty: Vec<WorkerId>,
    /// Descriptors in intakes, at the most: what was taken out since is counted only when this comes near the budget, so that a
    /// connection costs the same whatever the number of workers.
    in_flight: u64,
    /// The kernel refused, or would, more descriptors in flight; until when to leave it alone.
    crowded: Option<Instant>,
    /// How long it was left alone the last time; doubles as long as it does not help.
    crowd_delay: Duration,
    /// Workers that deal with their intake as none does.
    broken: Vec<WorkerId>,
    /// Workers out of the choice that are to be asked for a sign of life.
    relieved: Vec<WorkerId>,
    /// Out of the choice until they have taken what they were given.
    behind: Vec<WorkerId>,
    /// When intakes are to be looked at again, if connections come.
    next_look: Option<Instant>,
    /// Full windows that somebody must wait for.
    filled: Vec<(WorkerId, Rc<IntakeSender>)>,
    /// Nothing more is to be accepted for now.
    held: bool,
    news: Rc<Notify>,
    trouble: Rc<Notify>,
    syncs_loads: bool,
    /// Some worker accepts, or did.
    shares: bool,
}

/// The way to a worker.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) sender: Rc<IntakeSender>,
    pub(super) row: Arc<Row>,
    /// The worker's app behind each listener, by the listener's number.
    pub(super) apps: Rc<[u16]>,
    /// The listeners at which the worker accepts itself.
    pub(super) accepts: Rc<[u16]>,
}

#[derive(Debug)]
struct Intake {
    sender: Rc<IntakeSender>,
    row: Arc<Row>,
    /// The worker's app behind each listener, by the listener's number.
    apps: Rc<[u16]>,
    accepts: Rc<[u16]>,
    batch: Vec<Conn>,
    /// Connections sent, and of these taken back by the primary.
    sent: u64,
    back: u64,
    /// Connections given back by the worker.
    returned: u64,
    /// `taken` and `closed` as last looked at.
    taken: u64,
    closed: u64,
    heartbeat: u64,
    /// Since when nothing was taken although something waited.
    idle_since: Option<Instant>,
    /// Full, or not read: out of every choice for now.
    blocked: bool,
    /// Out of the choice until it shows life.
    rescued: bool,
    /// Until when each connection that it is given puts it behind.
    trial: Option<Instant>,
    retired: bool,
}

/// What the primary alone counts of an intake.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Connections sent, and of these taken back by the primary.
    sent: u64,
    back: u64,
    /// Connections given back by the worker.
    returned: u64,
}

impl Intake {
    fn new(way: Way, tally: Tally) -> Self {
        let Way {
            sender,
            row,
            apps,
            accepts,
        } = way;
        let (taken, closed, heartbeat) = (row.taken(), row.done_with(), row.heartbeat());
        let Tally {
            sent,
            back,
            returned,
        } = tally;
        Self {
            sender,
            row,
            apps,
            accepts,
            batch: Vec::new(),
            sent,
            back,
            returned,
            taken,
            closed,
            heartbeat,
            idle_since: None,
            blocked: false,
            rescued: false,
            trial: None,
            retired: false,
        }
    }

    fn queued(&self) -> u64 {
        self.sent
            .saturating_sub(self.back)
            .saturating_sub(self.row.taken())
    }
}

/// A quarter of the limit of descriptors may be in flight; the kernel's own budget is per user, and other programs use it too.
const CROWD_DIVISOR: u64 = 4;

/// The longest that a budget which stays used up is left alone.
const MAX_CROWDED: Duration = Duration::from_millis(40);

impl Dispatch {
    pub(super) fn new(scheduling: Scheduling, custom: Option<Custom>) -> Self {
        Self {
            syncs_loads: scheduling == Scheduling::LeastConnections || custom.is_some(),
            choice: Choice::new(scheduling, custom),
            pools: BTreeMap::new(),
            scheduling,
            returned: VecDeque::new(),
            intakes: BTreeMap::new(),
            waiting: VecDeque::new(),
            dirty: Vec::new(),
            in_flight: 0,
            crowded: None,
            crowd_delay: Duration::ZERO,
            broken: Vec::new(),
            relieved: Vec::new(),
            behind: Vec::new(),
            next_look: None,
            filled: Vec::new(),
            held: false,
            news: Rc::default(),
            trouble: Rc::default(),
            shares: false,
        }
    }

    /// Takes a worker into the choice.
    pub(super) fn add(&mut self, id: WorkerId, generation: Generation, way: Way) {
        self.shares |= !way.accepts.is_empty();
        // One that listens somewhere already is known.
        let known = self.intakes.remove(&id);
        let (apps, accepts) = (way.apps.clone(), way.accepts.clone());
        let mut intake = known.unwrap_or_else(|| Intake::new(way, Tally::default()));
        intake.apps = apps;
        intake.accepts = accepts;
        self.choice.add(id, generation);
        (0..intake.open()).for_each(|_| self.choice.assigned(id));
        if intake.blocked {
            self.choice.block(id);
        }
        self.intakes.insert(id, intake);
        self.place_waiting();
    }

    /// Goes on with the intake of a worker that an earlier program started. One that leaves is not taken into the choice.
    pub(super) fn resume(
        &mut self,
        id: WorkerId,
        generation: Generation,
        way: Way,
        tally: Tally,
        leaves: bool,
    ) {
        self.shares |= !way.accepts.is_empty();
        let mut intake = Intake::new(way, tally);
        intake.retired = leaves;
        let open = intake.open();
        self.intakes.insert(id, intake);
        if !leaves {
            self.choice.add(id, generation);
            (0..open).for_each(|_| self.choice.assigned(id));
        }
    }

    /// What was counted of a worker's intake; nothing once it is forgotten.
    pub(super) fn tally(&self, id: WorkerId) -> Tally {
        self.intakes
            .get(&id)
            .map(|intake| Tally {
                sent: intake.sent,
                back: intake.back,
                returned: intake.returned,
            })
            .unwrap_or_default()
    }

    /// Makes every worker seem full, so that nothing more is accepted; or lets them be as they are again.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
        if !held {
            self.place_waiting();
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Takes a worker out of the choice. Its intake can be ended from here on: nothing more will be sent.
    pub(super) fn retire(&mut self, id: WorkerId) {
        self.flush();
        self.withdraw(id);
        if let Some(intake) = self.intakes.get_mut(&id) {
            intake.retired = true;
        }
        // Who waits for its turn to accept may have it now.
        self.news.notify_waiters();
    }

    /// Forgets a worker whose process has ended and places what it had not taken. Returns how many connections it held.
    pub(super) fn remove(&mut self, id: WorkerId) -> u64 {
        self.withdraw(id);
        let Some(mut intake) = self.intakes.remove(&id) else {
            return 0;
        };
        rescue::take_back(&mut intake, &mut self.waiting);
        self.waiting.extend(intake.batch.drain(..));
        self.place_waiting();
        intake.held()
    }

    /// Whether accepting makes sense: somebody has room and nothing waits already.
    pub(super) fn has_room(&self) -> bool {
        !self.held
            && self.returned.is_empty()
            && self.waiting.is_empty()
            && self.crowded.is_none()
            && self.could_choose()
    }

    /// Whether somebody would be found; if need be, among those who are behind.
    fn could_choose(&self) -> bool {
        self.choice.has_room() || !self.behind.is_empty()
    }

    /// Told whenever [`has_room`](Self::has_room) may have changed.
    pub(super) fn news(&self) -> Rc<Notify> {
        self.news.clone()
    }

    /// Connections that no worker has.
    pub(super) fn waiting(&self) -> usize {
        self.returned.len() + self.waiting.len() + self.waiting_in_pools()
    }

    /// Takes connections that a worker gives back, and places them before anything else.
    ///
    /// False when it gives back more than it was given: then these are none of ours, and are closed.
    pub(super) fn take_returned(&mut self, id: WorkerId, batch: Batch) -> bool {
        if let Some(intake) = self.intakes.get_mut(&id) {
            intake.returned += (batch.conns.len() + batch.lost) as u64;
            if intake.returned > intake.given() {
                return false;
            }
        }
        if batch.lost > 0 {
            tracing::error!(
                connections = batch.lost,
                "lost on their way back: the primary is out of descriptors"
            );
        }
        self.returned.extend(batch.conns);
        self.place_waiting();
        true
    }

    /// Workers that have to be replaced for what they did to their intakes.
    pub(super) fn take_broken(&mut self) -> Vec<WorkerId> {
        std::mem::take(&mut self.broken)
    }

    /// Told when there is a window to wait for, or a crowd; [`attend`] does.
    fn trouble(&self) -> Rc<Notify> {
        self.trouble.clone()
    }

    /// A window that was full has room.
    pub(super) fn opened(&mut self, id: WorkerId) {
        if self
            .intakes
            .get(&id)
            .is_some_and(|intake| !intake.rescued && !intake.retired)
        {
            self.unblock(id);
        }
        self.place_waiting();
    }

    /// Places what waits, and says that there may be room for more.
    pub(super) fn place_waiting(&mut self) {
        if self.crowded.is_some_and(|until| Instant::now() >= until) {
            self.crowded = None;
        }
        self.place_pools();
        for _ in 0..self.returned.len() {
            let nobody = !self.choice.newest_has_room() && self.behind.is_empty();
            if self.crowded.is_some() || nobody {
                break;
            }
            if let Some(conn) = self.returned.pop_front() {
                self.place(conn);
            }
        }
        for _ in 0..self.waiting.len() {
            if self.crowded.is_some() || !self.could_choose() {
                break;
            }
            if let Some(conn) = self.waiting.pop_front() {
                self.place(conn);
            }
        }
        self.flush();
        if self.has_room() || self.a_pool_has_room() {
            self.news.notify_waiters();
        }
    }

    /// Tells the scheduler of connections that closed, where it chooses by load.
    pub(super) fn sync_loads(&mut self) {
        if !self.syncs_loads {
            return;
        }
        for (&id, intake) in &mut self.intakes {
            let closed = intake.row.done_with();
            let newly = closed.saturating_sub(intake.closed);
            intake.closed = intake.closed.max(closed);
            self.choice.released(id, newly);
            for pool in self.pools.values_mut() {
                pool.released(id, newly);
            }
        }
    }
}
