//! From the choice of a worker into its intake.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{CROWD_DIVISOR, Dispatch, MAX_CROWDED};
use crate::{
    id::WorkerId,
    ipc::{
        intake::{self, BATCH, CROWDED, Conn, Handed},
        limits,
    },
    wanted::is_asked_for,
};

impl Dispatch {
    /// Gives a connection to a worker's batch, or keeps it waiting. [`flush`](Self::flush) sends the batches.
    pub(crate) fn place(&mut self, conn: Conn) {
        if is_asked_for(conn.listener) {
            return self.place_in_pool(conn);
        }
        let came_back = conn.moved.is_some();
        let picked = match self.crowded {
            Some(_) => None,
            None => self.pick(&conn),
        };
        let Some(id) = picked else {
            if came_back {
                &mut self.returned
            } else {
                &mut self.waiting
            }
            .push_back(conn);
            return;
        };
        self.assigned_in_pools(id);
        self.hand(id, conn);
    }

    fn pick(&mut self, conn: &Conn) -> Option<WorkerId> {
        self.hear_who_caught_up();
        let picked = self.pick_free(conn);
        if picked.is_some() || !self.pass_over_nobody() {
            return picked;
        }
        self.pick_free(conn)
    }

    fn pick_free(&mut self, conn: &Conn) -> Option<WorkerId> {
        match conn.moved {
            Some(_) => self.pick_returned(conn.peer),
            None => self.choice.pick(conn.peer),
        }
    }

    /// Puts a connection into the batch of the worker that was chosen.
    pub(super) fn hand(&mut self, id: WorkerId, mut conn: Conn) {
        if self
            .intakes
            .get(&id)
            .is_some_and(|intake| !intake::fits(&intake.batch, &conn))
        {
            self.send(id);
        }
        let Some(intake) = self.intakes.get_mut(&id) else {
            self.withdraw(id);
            return self.place(conn);
        };
        conn.app = intake
            .apps
            .get(usize::from(conn.listener))
            .copied()
            .unwrap_or_default();
        intake.batch.push(conn);
        match intake.batch.len() {
            _ if intake.trial.is_some() => {
                self.send(id);
                self.falls_behind(id);
            }
            1 => self.dirty.push(id),
            n if n >= BATCH => self.send(id),
            _ => {}
        }
    }

    /// Sends every batch in hand.
    pub(crate) fn flush(&mut self) {
        while let Some(id) = self.dirty.pop() {
            self.send(id);
        }
    }

    fn send(&mut self, id: WorkerId) {
        let Some(intake) = self.intakes.get_mut(&id) else {
            return;
        };
        if intake.batch.is_empty() {
            return;
        }
        let n = intake.batch.len() as u64;
        if self.in_flight + n > limits::ordinary() / CROWD_DIVISOR && !self.recount(n) {
            return self.crowd(id);
        }
        let Some(intake) = self.intakes.get_mut(&id) else {
            return;
        };
        match intake.sender.send(&intake.batch) {
            Handed::Sent => {
                intake.sent += n;
                self.in_flight += n;
                self.crowd_delay = Duration::ZERO;
                intake.batch.clear();
                return;
            }
            Handed::Full => {
                self.filled.push((id, intake.sender.clone()));
                self.block(id);
                self.trouble.notify_one();
            }
            Handed::TooManyInFlight => return self.crowd(id),
            Handed::Gone(error) => {
                tracing::error!(worker = %id, %error, "has shut its intake: it is replaced");
                self.withdraw(id);
                self.broken.push(id);
            }
        }
        let unsent = self.intakes.get_mut(&id);
        let batch = unsent.map(|intake| std::mem::take(&mut intake.batch));
        let batch = batch.unwrap_or_default();
        self.released(id, n);
        batch.into_iter().for_each(|conn| self.place(conn));
    }

    /// Reads every row and counts anew what is in flight; whether `n` more fit.
    fn recount(&mut self, n: u64) -> bool {
        self.in_flight = 0;
        for intake in self.intakes.values() {
            self.in_flight += intake.queued();
        }
        self.in_flight + n <= limits::ordinary() / CROWD_DIVISOR
    }

    /// Keeps everything in hand for a while.
    fn crowd(&mut self, id: WorkerId) {
        self.crowd_delay = (self.crowd_delay * 2).clamp(CROWDED, MAX_CROWDED);
        self.crowded = Some(Instant::now() + self.crowd_delay);
        if let Some(intake) = self.intakes.get_mut(&id) {
            let batch = std::mem::take(&mut intake.batch);
            self.released(id, batch.len() as u64);
            for conn in batch.into_iter().rev() {
                if conn.moved.is_some() {
                    &mut self.returned
                } else {
                    &mut self.waiting
                }
                .push_front(conn);
            }
        }
        self.trouble.notify_one();
    }
}

/// Waits for what hinders the hand-over: full windows, and the budget of descriptors in flight. Runs for the primary's whole life.
pub(in crate::primary) async fn attend(dispatch: Rc<RefCell<Dispatch>>) {
    let trouble = dispatch.borrow().trouble();
    loop {
        trouble.notified().await;
        let (filled, crowded) = {
            let mut dispatch = dispatch.borrow_mut();
            (std::mem::take(&mut dispatch.filled), dispatch.crowded)
        };
        for (id, sender) in filled {
            let dispatch = dispatch.clone();
            // Ends also when its worker dies: the primary then empties the intake, and an empty window has room.
            tokio::task::spawn_local(async move {
                sender.room().await;
                dispatch.borrow_mut().opened(id);
            });
        }
        if let Some(until) = crowded {
            tokio::time::sleep_until(until.into()).await;
            dispatch.borrow_mut().place_waiting();
        }
    }
}
