//! Rolling restarts: who asked for them, and what they run.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Driver;
use crate::{
    error::{Error, Result},
    event::Restarted,
    id::{Generation, Slot, WorkerId},
    primary::hooks::{Concerned, Event},
    supervisor::Input,
};

/// How long the first worker of a program that is new has to stay up before the others follow.
const TRIAL: Duration = Duration::from_secs(1);

type Asker = oneshot::Sender<Result<Restarted>>;

/// A restart that was given up. Who asked is told when the worker that did not come up has been reaped: only then is it known why.
pub(super) struct Abandoned {
    generation: Generation,
    slot: Slot,
    id: WorkerId,
    askers: Vec<Asker>,
    upgrade_askers: Vec<oneshot::Sender<Result<()>>>,
}

impl Driver {
    pub(super) fn restarted(&mut self, restarted: Restarted) {
        self.rolled(restarted.generation);
        for asker in self.next_restart() {
            // Who dropped the ticket does not want to know.
            let _ = asker.send(Ok(restarted));
        }
    }

    pub(super) fn restart_abandoned(&mut self, generation: Generation, slot: Slot, id: WorkerId) {
        let abandoned = Abandoned {
            generation,
            slot,
            id,
            askers: self.next_restart(),
            upgrade_askers: self.not_rolled(),
        };
        self.abandoned.push(abandoned);
        if !self.children.contains_key(&id) {
            self.tell_abandoned(id);
        }
    }

    /// Says why a restart was given up, if it was because of this worker.
    pub(super) fn tell_abandoned(&mut self, id: WorkerId) {
        let at = self.abandoned.iter().position(|it| it.id == id);
        let Some(abandoned) = at.map(|at| self.abandoned.swap_remove(at)) else {
            return;
        };
        let (cause, slot) = (self.end_of(id), abandoned.slot);
        tracing::error!(generation = %abandoned.generation, %slot, worker = %id, "restart abandoned, the old workers stay: {cause}");
        let error = || Error::RestartAbandoned {
            slot,
            cause: cause.clone(),
        };
        self.events
            .send(Event::Error(Concerned::slot(slot), error()));
        for asker in abandoned.askers {
            let _ = asker.send(Err(error()));
        }
        for asker in abandoned.upgrade_askers {
            let _ = asker.send(Err(error()));
        }
    }

    /// Who asked for the restart that has ended; those who asked during it are next.
    fn next_restart(&mut self) -> Vec<Asker> {
        let [now, next] = &mut self.restarts;
        let askers = std::mem::replace(now, std::mem::take(next));
        let (images, supervisor) = (&mut self.images.by_generation, &self.supervisor);
        images.retain(|&generation, _| supervisor.needs(generation));
        askers
    }

    pub(super) fn restart(&mut self, asked: Option<oneshot::Sender<Result<Restarted>>>) {
        let running = self.supervisor.restarting().is_some();
        self.restarts[usize::from(running)].extend(asked);
        // A program that is new has to show that it stays up.
        let (generation, program) = (self.supervisor.generation(), self.next_program());
        let min_up = if self.images.is_current(generation, program) {
            Duration::ZERO
        } else {
            TRIAL
        };
        self.tell(Input::Restart { min_up });
    }
}
