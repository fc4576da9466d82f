//! Rolling restarts: who asked for them, and what they run.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Driver;
use crate::{error::Result, event::Restarted, supervisor::Input};

/// How long the first worker of a program that is new has to stay up before the others follow.
const TRIAL: Duration = Duration::from_secs(1);

impl Driver {
    /// Answers those who asked for the restart that has ended; those who asked during it are next.
    pub(super) fn restart_ended(&mut self, outcome: impl Fn() -> Result<Restarted>) {
        let [now, next] = &mut self.restarts;
        for asked in std::mem::replace(now, std::mem::take(next)) {
            // Who dropped the ticket does not want to know.
            let _ = asked.send(outcome());
        }
        let (images, supervisor) = (&mut self.images.by_generation, &self.supervisor);
        images.retain(|&generation, _| supervisor.needs(generation));
    }

    pub(super) fn restart(&mut self, asked: Option<oneshot::Sender<Result<Restarted>>>) {
        let running = self.supervisor.restarting().is_some();
        self.restarts[usize::from(running)].extend(asked);
        // A program that is new has to show that it stays up.
        let min_up = if self.images.is_current(self.supervisor.generation()) {
            Duration::ZERO
        } else {
            TRIAL
        };
        self.tell(Input::Restart { min_up });
    }
}
