//! Listeners that workers asked for: each is handed only to those who listen there.

use std::collections::{BTreeSet, VecDeque};

use super::{Dispatch, Intake, Tally, Way};
use crate::{id::WorkerId, ipc::intake::Conn, scheduler::Scheduler, wanted::is_asked_for};

/// Who takes the connections of one listener.
#[derive(Debug)]
pub(super) struct Pool {
    scheduler: Scheduler,
    members: BTreeSet<WorkerId>,
    /// Members whose programs do not keep up with accepting here.
    full: BTreeSet<WorkerId>,
    /// Accepted, and none of them has room.
    waiting: VecDeque<Conn>,
}

impl Pool {
    fn remove(&mut self, id: WorkerId) {
        self.members.remove(&id);
        self.full.remove(&id);
        self.scheduler.remove(id);
    }

    pub(super) fn released(&mut self, id: WorkerId, n: u64) {
        self.scheduler.released(id, n);
    }
}

impl Dispatch {
    /// Begins to hand out connections of a listener, to nobody yet.
    pub(crate) fn open_pool(&mut self, listener: u16) {
        let pool = Pool {
            scheduler: Scheduler::new(self.scheduling),
            members: BTreeSet::new(),
            full: BTreeSet::new(),
            waiting: VecDeque::new(),
        };
        self.pools.insert(listener, pool);
    }

    /// Nobody listens there any more: what waits is closed.
    pub(crate) fn close_pool(&mut self, listener: u16) {
        self.pools.remove(&listener);
        self.place_waiting();
    }

    /// A worker takes connections of this listener, or has room for them again.
    pub(crate) fn accepts(&mut self, listener: u16, id: WorkerId, way: impl FnOnce() -> Way) {
        let intake = self
            .intakes
            .entry(id)
            .or_insert_with(|| Intake::new(way(), Tally::default()));
        let Some(pool) = self.pools.get_mut(&listener).filter(|_| !intake.retired) else {
            return;
        };
        pool.full.remove(&id);
        if pool.members.insert(id) {
            pool.scheduler.add(id);
            // What it has already counts, wherever that came by.
            (0..intake.open()).for_each(|_| pool.scheduler.assigned(id));
        }
        if intake.blocked {
            pool.scheduler.block(id);
        } else {
            pool.scheduler.unblock(id);
        }
        self.place_waiting();
    }

    /// Whether a worker would be given connections of this listener.
    pub(crate) fn takes_there(&self, listener: u16, id: WorkerId) -> bool {
        let pool = self.pools.get(&listener);
        pool.is_some_and(|pool| pool.members.contains(&id) && !pool.full.contains(&id))
    }

    /// A worker's program does not keep up with accepting there.
    pub(crate) fn is_full(&mut self, listener: u16, id: WorkerId) {
        if let Some(pool) = self.pools.get_mut(&listener)
            && pool.members.contains(&id)
        {
            pool.full.insert(id);
            pool.scheduler.block(id);
        }
    }

    /// A worker does not listen there any more.
    pub(crate) fn leaves(&mut self, listener: u16, id: WorkerId) {
        if let Some(pool) = self.pools.get_mut(&listener) {
            pool.remove(id);
        }
    }

    /// Takes a worker out of every choice.
    pub(super) fn withdraw(&mut self, id: WorkerId) {
        self.choice.remove(id);
        for pool in self.pools.values_mut() {
            pool.remove(id);
        }
    }

    /// Its intake is full, or nobody reads it.
    pub(super) fn block(&mut self, id: WorkerId) {
        self.choice.block(id);
        if let Some(intake) = self.intakes.get_mut(&id) {
            intake.blocked = true;
        }
        for pool in self.pools.values_mut() {
            pool.scheduler.block(id);
        }
    }

    pub(super) fn unblock(&mut self, id: WorkerId) {
        self.choice.unblock(id);
        if let Some(intake) = self.intakes.get_mut(&id) {
            intake.blocked = false;
        }
        for pool in self.pools.values_mut() {
            if !pool.full.contains(&id) {
                pool.scheduler.unblock(id);
            }
        }
    }

    pub(super) fn is_blocked(&self, id: WorkerId) -> bool {
        self.intakes.get(&id).is_some_and(|intake| intake.blocked)
    }

    /// So many connections of this worker are closed, or never reached it.
    pub(super) fn released(&mut self, id: WorkerId, n: u64) {
        self.choice.released(id, n);
        for pool in self.pools.values_mut() {
            pool.released(id, n);
        }
    }

    /// One that was chosen elsewhere is a load here too.
    pub(super) fn assigned_in_pools(&mut self, id: WorkerId) {
        for pool in self.pools.values_mut() {
            pool.scheduler.assigned(id);
        }
    }

    /// Gives a connection to one who listens there, or keeps it waiting.
    pub(super) fn place_in_pool(&mut self, conn: Conn) {
        self.hear_who_caught_up();
        let mut picked = self.pick_in_pool(&conn);
        if picked.is_none() && self.pass_over_nobody() {
            picked = self.pick_in_pool(&conn);
        }
        let Some(id) = picked else {
            // Without a pool: its listener is closed, and so is it.
            if let Some(pool) = self.pools.get_mut(&conn.listener) {
                pool.waiting.push_back(conn);
            }
            return;
        };
        self.choice.assigned(id);
        self.assigned_in_pools(id);
        self.hand(id, conn);
    }

    fn pick_in_pool(&mut self, conn: &Conn) -> Option<WorkerId> {
        if self.crowded.is_some() {
            return None;
        }
        let pool = self.pools.get_mut(&conn.listener)?;
        let id = pool.scheduler.pick(conn.peer.map(|peer| peer.ip()))?;
        // Counted with those that are chosen elsewhere.
        pool.scheduler.released(id, 1);
        Some(id)
    }

    /// Places what waits for those who listen somewhere.
    pub(super) fn place_pools(&mut self) {
        let asked_for = |conn: &Conn| is_asked_for(conn.listener);
        let taken_back: Vec<_> = [&mut self.waiting, &mut self.returned]
            .into_iter()
            .filter(|queue| queue.iter().any(asked_for))
            .flat_map(|queue| {
                let (theirs, rest) = queue.drain(..).partition::<Vec<_>, _>(asked_for);
                queue.extend(rest);
                theirs
            })
            .collect();
        taken_back
            .into_iter()
            .for_each(|conn| self.place_in_pool(conn));
        let listeners: Vec<_> = self.pools.keys().copied().collect();
        for listener in listeners {
            while self.crowded.is_none()
                && let Some(pool) = self.pools.get_mut(&listener)
                && pool.scheduler.has_room()
                && let Some(conn) = pool.waiting.pop_front()
            {
                self.place_in_pool(conn);
            }
        }
    }

    /// Whether some worker would take a connection that is waiting in an intake.
    pub(super) fn anybody_has_room(&self) -> bool {
        let mut pools = self.pools.values();
        self.choice.has_room() || pools.any(|pool| pool.scheduler.has_room())
    }

    pub(super) fn a_pool_has_room(&self) -> bool {
        let mut listeners = self.pools.keys();
        listeners.any(|&listener| self.has_room_for(listener))
    }

    /// Whether accepting there makes sense.
    pub(crate) fn has_room_for(&self, listener: u16) -> bool {
        if !is_asked_for(listener) {
            return self.has_room();
        }
        let has_room = |pool: &Pool| {
            pool.waiting.is_empty() && (pool.scheduler.has_room() || !self.behind.is_empty())
        };
        !self.held && self.crowded.is_none() && self.pools.get(&listener).is_some_and(has_room)
    }

    pub(super) fn waiting_in_pools(&self) -> usize {
        self.pools.values().map(|pool| pool.waiting.len()).sum()
    }
}
