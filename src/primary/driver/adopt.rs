//! Taking over a running cluster from the program that ran in this process before.

use std::{sync::Arc, time::Duration};

use super::{
    Driver,
    children::{Wires, apps},
    shared::give_listeners,
};
use crate::{
    error::{Error, Result},
    frame::Frame,
    ipc::{
        channel::{Channel, Consumption},
        intake::IntakeSender,
        outbox::Outbox,
    },
    listeners::Bound,
    primary::{
        acceptor::Acceptor,
        dispatch::Way,
        handle::WorkerHandle,
        process::Process,
        succession::{Ends, Estate, KeptWorker},
    },
    scoreboard::Row,
    settings::{Scheduling, Settings},
    supervisor::{Input, Survives, Survivor},
};

impl Driver {
    pub(super) fn adopt(&mut self, estate: Estate) -> Result<()> {
        let Estate {
            description,
            workers,
            asked_for,
            ..
        } = estate;
        self.shared.resume(
            description.dead,
            description.hook_panics,
            description.upgrades,
        );
        for (kept, ends) in description.workers.into_iter().zip(workers) {
            let survivors = description.legacy.workers();
            let survivor = survivors.iter().find(|survivor| survivor.id == kept.id);
            let survivor = survivor.ok_or(Error::Protocol("a worker that is not described"))?;
            self.adopt_worker(*survivor, kept, ends)
                .map_err(|source| Error::System {
                    doing: "take over a worker from the program before",
                    source,
                })?;
        }
        for (kept, fd) in description.asked_for.into_iter().zip(asked_for) {
            self.adopt_asked(kept, fd)?;
        }
        tracing::info!(
            workers = self.children.len(),
            "took over from the program before"
        );
        // What a worker is told once, at its start, it was told by the program before.
        if told(&description.settings) != told(&self.settings) {
            self.tell(Input::Restart {
                min_up: Duration::ZERO,
            });
        }
        Ok(())
    }

    fn adopt_worker(
        &mut self,
        survivor: Survivor,
        kept: KeptWorker,
        ends: Ends<std::os::fd::OwnedFd>,
    ) -> std::io::Result<()> {
        let connected = survivor.life != Survives::Disconnected;
        let outbox = Arc::new(Outbox::resumed(kept.unconsumed, kept.latest_request));
        if !connected {
            outbox.close();
        }
        if kept.latest_asked > 0 {
            // Whoever was to answer them is gone. Those that come from now on this program answers.
            outbox.order(&Frame::NoReplies(kept.latest_asked));
        }
        let row = Arc::new(Row::open(std::os::fd::AsFd::as_fd(&ends.page))?);
        let intake = IntakeSender::resumed(ends.intake, ends.worker_end);
        let wires = Wires {
            process: Process::resumed(kept.pid, ends.pidfd)?,
            channel: Channel::new(ends.channel)?,
            handbacks: intake.handbacks()?,
            intake,
            page: ends.page,
            consumption: Consumption::resumed(outbox.clone(), kept.outstanding),
        };
        let Survivor {
            id,
            slot,
            generation,
            life,
            ..
        } = survivor;
        let handle = WorkerHandle::new(
            id,
            slot,
            generation,
            kept.pid,
            outbox,
            row.clone(),
            self.shared.commands(),
        );
        handle.resume(kept.served, !connected);
        if kept.retired {
            handle.retire();
        }
        self.shared.born(handle.clone());
        self.attend(wires, handle, None, connected);
        let apps = apps(&self.acceptors, &kept.asked);
        let mut accepts = kept.accepts;
        if let Some(child) = self.children.get_mut(&id) {
            child.latest_asked.set(kept.latest_asked);
            child.served = kept.served;
            child.parcel = kept.parcel;
            child.asked = kept.asked;
            if life == Survives::Listening && self.settings.scheduling == Scheduling::Shared {
                accepts.extend(give_listeners(child, &self.acceptors, &accepts));
            }
            child.accepts = accepts.into();
            let way = Way {
                sender: child.intake.clone(),
                row,
                apps,
                accepts: child.accepts.clone(),
            };
            let leaves = life != Survives::Listening;
            self.dispatch
                .borrow_mut()
                .resume(id, generation, way, kept.tally, leaves);
        }
        Ok(())
    }

    /// Accepts what still waits at listeners that this program does not have, and closes them.
    pub(super) fn accept_last(&mut self, dropped: Vec<Bound>) {
        for bound in dropped {
            Acceptor::new(bound).accept_rest(&self.dispatch);
        }
        self.dispatch.borrow_mut().place_waiting();
    }
}

/// Of the settings those that workers go by.
fn told(settings: &Settings) -> Settings {
    Settings {
        // Who accepts is for workers to know, whom the primary chooses is not.
        scheduling: match settings.scheduling {
            Scheduling::Shared => Scheduling::Shared,
            _ => Scheduling::default(),
        },
        backlog: 0,
        boot_timeout: Duration::ZERO,
        hang_timeout: Duration::ZERO,
        ..settings.clone()
    }
}
