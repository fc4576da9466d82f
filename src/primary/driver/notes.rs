//! What the supervisor wants people to know.

use super::{Driver, Policy};
use crate::{error::Error, event::Restarted, primary::hooks::Event, supervisor::Note};

impl Driver {
    pub(super) fn note(&mut self, note: &Note) {
        match *note {
            Note::Ready => {
                self.shared.tell_addresses(self.supervisor.target());
                self.events.send(Event::Ready);
            }
            Note::BackOff { slot, delay } => {
                tracing::warn!(%slot, ?delay, "a worker is started again after a while")
            }
            Note::BootTimeout(id) => {
                tracing::error!(worker = %id, after = ?self.settings.boot_timeout, "was not ready in time: killed");
                if let Some(child) = self.children.get_mut(&id) {
                    child.boot_timeout = true;
                }
            }
            Note::Hung(id) => {
                tracing::error!(worker = %id, after = ?self.settings.hang_timeout, "its heartbeat stopped: aborted")
            }
            Note::DeadlinePassed(id) => tracing::warn!(worker = %id, "did not end in time: killed"),
            Note::Restarted {
                generation,
                replaced,
                took,
            } => {
                tracing::info!(%generation, replaced, ?took, "restarted");
                self.restarted(Restarted {
                    generation,
                    replaced,
                    took,
                });
            }
            Note::RestartAbandoned {
                generation,
                slot,
                id,
            } => self.restart_abandoned(generation, slot, id),
            Note::GiveUp { id } => {
                self.failure = Some(Error::NeverReady {
                    program: self.images.program.clone(),
                    status: self.last_death.as_ref().and_then(|death| death.status),
                    deaths: Policy::default().boot_deaths,
                    cause: self.cause_of(id),
                });
                self.close_listeners();
            }
        }
    }
}
