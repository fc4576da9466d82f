//! Workers as the loop knows them: started, listening, retired, ended.

use std::{cell::RefCell, process::ExitStatus, rc::Rc, sync::Arc};

use rustix::process::Signal;
use tokio::task::{AbortHandle, spawn_local};

use super::Driver;
use crate::{
    birth::Welcome,
    error::{Error, Result},
    event::Exit,
    id::{Generation, Slot, WorkerId},
    ipc::{
        channel::{self, Channel},
        intake::{Batch, CROWDED, Handbacks, IntakeSender},
        limits,
        outbox::Outbox,
    },
    primary::{
        dispatch::Dispatch, handle::WorkerHandle, hooks::Event, link::Link, process::Process,
    },
    scoreboard::Row,
    supervisor::Input,
};

const BOOT_TIMEOUT: &str = "it was not ready within the boot timeout";

/// Connections that come back are placed in lots of this size, so that accepting has its turn in between.
const TOGETHER: usize = 64;

/// What the loop knows of one worker.
pub(super) struct Child {
    pub(super) handle: WorkerHandle,
    process: Rc<Process>,
    intake: Rc<IntakeSender>,
    handbacks: Rc<Handbacks>,
    reading: AbortHandle,
    pub(super) heartbeat: u64,
    pub(super) served: bool,
    pub(super) boot_timeout: bool,
}

/// The end of a worker that had not served.
pub(super) struct Death {
    pub(super) id: WorkerId,
    pub(super) status: Option<ExitStatus>,
    pub(super) cause: String,
}

impl Driver {
    pub(super) fn spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) {
        match self.try_spawn(id, slot, generation) {
            Ok(()) => self.tell(Input::Spawned(id)),
            Err(error) => {
                tracing::error!(worker = %id, error = ?error, "cannot start a worker");
                self.last_death = Some(Death {
                    id,
                    status: None,
                    cause: format!("{error:?}"),
                });
                self.events.send(Event::Error(error));
                self.tell(Input::SpawnFailed(id));
            }
        }
    }

    fn try_spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) -> Result<()> {
        let image = self.images.of(generation)?;
        let failed = |source| Error::Spawn {
            program: image.path().to_owned(),
            source,
        };
        let (ours, theirs) = channel::pair().map_err(failed)?;
        let channel = Rc::new(Channel::new(ours).map_err(failed)?);
        let intake = Rc::new(IntakeSender::new().map_err(failed)?);
        let handbacks = Rc::new(intake.handbacks().map_err(failed)?);
        let (row, page) = Row::create().map_err(failed)?;
        let process = Rc::new(Process::spawn(&image, &self.origin, id, slot, theirs)?);
        let outbox = Arc::new(Outbox::default());
        let handle = WorkerHandle::new(id, slot, generation, process.pid(), outbox, Arc::new(row));
        tracing::info!(worker = %id, %slot, pid = process.pid(), "worker started");
        self.shared.born(handle.clone());
        self.events.send(Event::Fork(handle.clone()));
        let child = Child {
            handle: handle.clone(),
            process: process.clone(),
            intake: intake.clone(),
            reading: spawn_local(read_handbacks(
                id,
                handbacks.clone(),
                self.dispatch.clone(),
                process.clone(),
            ))
            .abort_handle(),
            handbacks,
            heartbeat: 0,
            served: false,
            boot_timeout: false,
        };
        self.children.insert(id, child);
        let welcome = Welcome {
            generation,
            settings: self.settings.clone(),
            secret: self.secret.clone(),
        };
        let link = Link {
            handle,
            process,
            channel,
            intake,
            page,
            welcome,
            seen: self.seen.clone(),
            events: self.events.clone(),
            shared: self.shared.clone(),
        };
        spawn_local(link.run());
        Ok(())
    }

    pub(super) fn retire(&mut self, id: WorkerId) {
        if let Some(child) = self.children.get(&id) {
            child.handle.retire();
            self.dispatch.borrow_mut().retire(id);
            // Its connections move to the others, unless the whole cluster ends. The order stands before the intake ends.
            child.handle.row().order_to_leave(self.closing.is_none());
            child.intake.finish();
        }
    }

    /// A worker whose channel has closed gets no more connections, whether its process ends or not.
    pub(super) fn disconnected(&mut self, id: WorkerId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        self.events.send(Event::Disconnect(child.handle.clone()));
        self.dispatch.borrow_mut().retire(id);
        child.handle.row().order_to_leave(self.closing.is_none());
        child.intake.finish();
    }

    pub(super) fn signal(&mut self, id: WorkerId, signal: Signal) {
        if let Some(child) = self.children.get(&id) {
            child.process.signal(signal);
        }
    }

    pub(super) fn listening(&mut self, id: WorkerId) {
        if let Some(child) = self.children.get_mut(&id)
            && !child.served
        {
            tracing::info!(worker = %id, slot = %child.handle.slot(), pid = child.handle.pid(), "worker listening");
            child.served = true;
            if !child.handle.is_retired() {
                self.dispatch.borrow_mut().add(
                    id,
                    child.handle.generation(),
                    child.intake.clone(),
                    child.handle.row().clone(),
                );
            }
        }
    }

    pub(super) fn exited(&mut self, id: WorkerId, status: ExitStatus) {
        let Some(child) = self.children.remove(&id) else {
            return;
        };
        let handle = child.handle;
        child.reading.abort();
        let open_connections = {
            let mut dispatch = self.dispatch.borrow_mut();
            while let Some(batch) = child.handbacks.rest() {
                dispatch.take_returned(id, batch);
            }
            dispatch.remove(id)
        };
        let exit = Exit {
            status,
            in_flight: handle.row().read().in_flight,
            open_connections,
            after_disconnect: handle.is_retired(),
        };
        handle.died();
        self.shared.died(&handle);
        let cause = match (child.served, child.boot_timeout) {
            (_, true) => BOOT_TIMEOUT,
            (true, _) => "it had served",
            (false, _) => {
                "it ended before it reached `serve`, or while `serve` set up its app; what it said itself stands above"
            }
        };
        self.last_death = Some(Death {
            id,
            status: Some(status),
            cause: cause.to_owned(),
        });
        if exit.after_disconnect {
            tracing::info!(worker = %id, %status, "worker ended");
        } else {
            tracing::warn!(worker = %id, %status, in_flight = exit.in_flight, open_connections, "worker died: {cause}");
        }
        self.events.send(Event::Exit(handle, exit));
        self.tell(Input::Exited(id));
    }

    /// Why a worker that was to serve did not.
    pub(super) fn cause_of(&self, id: WorkerId) -> String {
        match (&self.last_death, self.children.get(&id)) {
            (_, Some(child)) if child.boot_timeout => BOOT_TIMEOUT.to_owned(),
            (Some(death), _) if death.id == id => death.cause.clone(),
            _ => "it did not stay up".to_owned(),
        }
    }
}

/// Reads what a worker gives back, always: a worker that leaves waits for it, and it for nobody.
async fn read_handbacks(
    id: WorkerId,
    handbacks: Rc<Handbacks>,
    dispatch: Rc<RefCell<Dispatch>>,
    process: Rc<Process>,
) {
    let broken = loop {
        match handbacks.receive().await {
            Ok(Some(mut batch)) => {
                let full = |batch: &Batch| batch.conns.iter().any(|conn| limits::is_full(&conn.fd));
                // What has come meanwhile shares its datagrams.
                while batch.conns.len() < TOGETHER
                    && !full(&batch)
                    && let Some(more) = handbacks.rest()
                {
                    batch.lost += more.lost;
                    batch.conns.extend(more.conns);
                }
                let full = full(&batch);
                if !dispatch.borrow_mut().take_returned(id, batch) {
                    break "gave back more than it was given";
                }
                while full && dispatch.borrow().waiting() > 0 {
                    tokio::time::sleep(CROWDED).await;
                }
            }
            Ok(None) => break "shut its intake",
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                break "gave back what is no connection";
            }
            // A peer that closed with something unread: not the end of what it said.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => {
                tracing::error!(worker = %id, %error, "cannot read what a worker gives back");
                return;
            }
        }
    };
    tracing::error!(worker = %id, "{broken}: it is replaced");
    process.signal(Signal::KILL);
}
