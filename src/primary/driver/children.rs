//! Workers as the loop knows them: started, listening, retired, ended.

use std::{cell::Cell, os::fd::OwnedFd, process::ExitStatus, rc::Rc, sync::Arc};

use rustix::process::Signal;
use tokio::task::{AbortHandle, JoinHandle, spawn_local};

use super::handbacks::read_handbacks;
use super::{Driver, shared::give_listeners};
use crate::{
    birth::Welcome,
    error::{Error, Result},
    event::{Cuts, Exit},
    frame::Frame,
    id::{Generation, Slot, WorkerId},
    ipc::{
        channel::{self, Channel, Consumption},
        intake::{Handbacks, IntakeSender},
        outbox::Outbox,
    },
    listeners::{Asked, app_of},
    primary::{
        acceptor::Acceptor,
        dispatch::Way,
        fork::ForkOptions,
        handle::WorkerHandle,
        hooks::{Concerned, Event},
        link::Link,
        process::Process,
    },
    scoreboard::Row,
    settings::Scheduling,
    supervisor::Input,
};

const BOOT_TIMEOUT: &str = "it was not ready within the boot timeout";

/// What the loop knows of one worker.
pub(super) struct Child {
    pub(super) handle: WorkerHandle,
    pub(super) process: Rc<Process>,
    pub(super) channel: Rc<Channel>,
    pub(super) intake: Rc<IntakeSender>,
    pub(super) page: Rc<OwnedFd>,
    pub(super) consumption: Arc<Consumption>,
    handbacks: Rc<Handbacks>,
    reading: AbortHandle,
    pub(super) heartbeat: u64,
    /// The number of the latest request that it has made.
    pub(super) latest_asked: Rc<Cell<u64>>,
    /// What its program asked to listen on.
    pub(super) asked: Asked,
    /// The listeners at which it accepts itself.
    pub(super) accepts: Rc<[u16]>,
    /// The version of a parcel that its program reads.
    pub(super) parcel: u32,
    /// Addresses of its program that are still being bound.
    pub(super) binding: usize,
    pub(super) served: bool,
    pub(super) boot_timeout: bool,
    /// The signal that the program wants it to end by.
    pub(super) end_by: crate::signal::Signal,
    /// It was killed, and says perhaps that it listens before it dies of that.
    killed: bool,
    /// Why it is killed although nothing is wrong with it as a worker.
    pub(super) refused: Option<String>,
    /// What it had to cut at its drain deadline.
    cuts: Cuts,
}

/// What leads to one worker's process.
pub(super) struct Wires {
    pub(super) process: Process,
    pub(super) channel: Channel,
    pub(super) intake: IntakeSender,
    pub(super) handbacks: Handbacks,
    /// Of the scoreboard.
    pub(super) page: OwnedFd,
    pub(super) consumption: Consumption,
}

/// The end of a worker that had not served.
pub(super) struct Death {
    pub(super) id: WorkerId,
    pub(super) status: Option<ExitStatus>,
    /// Not because this primary killed it.
    by_itself: bool,
    pub(super) cause: String,
}

impl Driver {
    pub(super) fn spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) {
        let (options, asker) = match self.forking.take() {
            Some(order) => (Some(order.options), Some(order.reply)),
            None => (None, None),
        };
        match self.try_spawn(id, slot, generation, options) {
            Ok(handle) => {
                self.tell(Input::Spawned(id));
                if let Some(asker) = asker {
                    let _ = asker.send(Ok(handle));
                }
            }
            Err(error) if asker.is_some() => {
                self.tell(Input::SpawnFailed(id));
                if let Some(asker) = asker {
                    let _ = asker.send(Err(error));
                }
            }
            Err(error) => {
                tracing::error!(worker = %id, error = ?error, "cannot start a worker");
                self.last_death = Some(Death {
                    id,
                    status: None,
                    by_itself: true,
                    cause: format!("{error:?}"),
                });
                self.events.send(Event::Error(Concerned::slot(slot), error));
                self.tell(Input::SpawnFailed(id));
            }
        }
    }

    fn try_spawn(
        &mut self,
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        options: Option<ForkOptions>,
    ) -> Result<WorkerHandle> {
        let image = self.images.of(generation)?;
        let failed = |source| Error::Spawn {
            program: image.path().to_owned(),
            source,
        };
        let (ours, theirs) = channel::pair().map_err(failed)?;
        let channel = Channel::new(ours).map_err(failed)?;
        let intake = IntakeSender::new().map_err(failed)?;
        let handbacks = intake.handbacks().map_err(failed)?;
        let (row, page) = Row::create().map_err(failed)?;
        if self.ending.is_some() {
            row.order_unready();
        }
        let (process, pipes) = Process::spawn(&image, &self.origin, id, slot, theirs, options)?;
        let outbox = Arc::new(Outbox::default());
        let consumption = Consumption::new(outbox.clone());
        let commands = self.shared.commands();
        let handle = WorkerHandle::new(
            id,
            slot,
            generation,
            process.pid(),
            outbox,
            Arc::new(row),
            commands,
        );
        *handle.pipes() = pipes;
        tracing::info!(worker = %id, %slot, pid = process.pid(), "worker started");
        self.shared.born(handle.clone());
        self.events.send(Event::Fork(handle.clone()));
        let welcome = Welcome {
            generation,
            settings: self.settings.clone(),
            secret: self.secret.clone(),
            prepare: !self.prepared.contains(&generation),
        };
        self.attend(
            Wires {
                process,
                channel,
                intake,
                handbacks,
                page,
                consumption,
            },
            handle.clone(),
            Some(welcome),
            true,
        );
        Ok(handle)
    }

    /// From here on somebody listens to the worker, and reads what it gives back.
    pub(super) fn attend(
        &mut self,
        wires: Wires,
        handle: WorkerHandle,
        welcome: Option<Welcome>,
        connected: bool,
    ) {
        let (process, channel) = (Rc::new(wires.process), Rc::new(wires.channel));
        let (intake, handbacks) = (Rc::new(wires.intake), Rc::new(wires.handbacks));
        let (page, consumption) = (Rc::new(wires.page), Arc::new(wires.consumption));
        let id = handle.id();
        let reading = read_handbacks(
            id,
            handbacks.clone(),
            self.dispatch.clone(),
            process.clone(),
        );
        let child = Child {
            handle: handle.clone(),
            process: process.clone(),
            channel: channel.clone(),
            intake: intake.clone(),
            page: page.clone(),
            consumption: consumption.clone(),
            reading: spawn_local(reading).abort_handle(),
            handbacks,
            heartbeat: 0,
            latest_asked: Rc::default(),
            asked: Asked::new(),
            accepts: Rc::default(),
            parcel: 0,
            binding: 0,
            served: false,
            boot_timeout: false,
            end_by: Default::default(),
            killed: false,
            refused: None,
            cuts: Cuts::default(),
        };
        let latest_asked = child.latest_asked.clone();
        self.children.insert(id, child);
        let link = Link {
            handle,
            process,
            channel,
            intake,
            page,
            consumption,
            latest_asked,
            welcome,
            connected,
            has_cut: false,
            gate: self.gate.clone(),
            seen: self.seen.clone(),
            events: self.events.clone(),
            shared: self.shared.clone(),
        };
        spawn_local(link.run());
    }

    pub(super) fn retire(&mut self, id: WorkerId) {
        if let Some(child) = self.children.get(&id) {
            child.handle.retire();
            self.dispatch.borrow_mut().retire(id);
            // The order stands before the intake ends.
            child.handle.row().order_to_leave(self.takes_back());
            child.intake.finish();
            // One that does not serve does not look there.
            child.handle.outbox().order(&Frame::Leave);
        }
    }

    /// Whether connections of those that leave move to others: not where the whole cluster ends.
    fn takes_back(&self) -> bool {
        !self.is_closing() && self.settings.handback
    }

    /// A worker whose channel has closed gets no more connections, whether its process ends or not.
    pub(super) fn disconnected(&mut self, id: WorkerId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        self.events.send(Event::Disconnect(child.handle.clone()));
        self.dispatch.borrow_mut().retire(id);
        child.handle.row().order_to_leave(self.takes_back());
        child.intake.finish();
    }

    pub(super) fn signal(&mut self, id: WorkerId, signal: Signal) {
        if let Some(child) = self.children.get_mut(&id) {
            child.killed |= signal == Signal::KILL;
            child.process.signal(signal);
        }
    }

    /// The worker serves, and what else has to be there for its program is there.
    pub(super) fn listening(&mut self, id: WorkerId) {
        if let Some(child) = self.children.get_mut(&id)
            && !child.served
            && child.binding == 0
            && !child.killed
            && child.refused.is_none()
        {
            let apps = apps(&self.acceptors, &child.asked);
            self.prepared.insert(child.handle.generation());
            tracing::info!(worker = %id, slot = %child.handle.slot(), pid = child.handle.pid(), "worker listening");
            child.served = true;
            if self.settings.scheduling == Scheduling::Shared && !child.handle.is_retired() {
                child.accepts = give_listeners(child, &self.acceptors, &[]).into();
            }
            if !child.handle.is_retired() {
                self.dispatch.borrow_mut().add(
                    id,
                    child.handle.generation(),
                    Way {
                        sender: child.intake.clone(),
                        row: child.handle.row().clone(),
                        apps,
                        accepts: child.accepts.clone(),
                    },
                );
            }
            self.tell(Input::Listening(id));
        }
    }

    /// A worker has cut what was not done at its drain deadline.
    pub(super) fn cut(&mut self, id: WorkerId, cuts: Cuts) {
        cuts.log(id);
        if let Some(child) = self.children.get_mut(&id) {
            child.cuts = cuts;
        }
    }

    pub(super) fn exited(&mut self, id: WorkerId, status: ExitStatus) {
        let Some(child) = self.children.remove(&id) else {
            return;
        };
        self.recycling.gone(id);
        self.balance.gone(id);
        self.listens_no_more(id);
        let handle = child.handle;
        child.reading.abort();
        let open_connections = {
            let mut dispatch = self.dispatch.borrow_mut();
            while let Some(batch) = child.handbacks.rest() {
                dispatch.take_returned(id, batch);
            }
            dispatch.remove(id)
        };
        self.accept_for(id);
        let exit = Exit {
            status,
            in_flight: handle.row().read().in_flight,
            open_connections,
            given_back: handle.row().given_back(),
            after_disconnect: handle.is_retired(),
            requests_cut: child.cuts.total,
            cut: child.cuts.oldest,
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
            by_itself: child.refused.is_none() && !child.boot_timeout,
            cause: child.refused.unwrap_or_else(|| cause.to_owned()),
        });
        if exit.after_disconnect {
            tracing::info!(worker = %id, %status, "worker ended");
        } else {
            tracing::warn!(worker = %id, %status, in_flight = exit.in_flight, open_connections, "worker died: {cause}");
        }
        self.events.send(Event::Exit(handle, exit));
        self.tell_abandoned(id);
        self.tell(Input::Exited(id));
    }

    /// Why a worker that was to serve did not.
    pub(super) fn cause_of(&self, id: WorkerId) -> String {
        match &self.last_death {
            Some(death) if death.id == id => death.cause.clone(),
            _ => "it did not stay up".to_owned(),
        }
    }

    /// How a worker ended that was to serve, and why.
    pub(super) fn end_of(&self, id: WorkerId) -> String {
        let cause = self.cause_of(id);
        match &self.last_death {
            Some(Death {
                status: Some(status),
                by_itself: true,
                ..
            }) => format!("{status}: {cause}"),
            _ => cause,
        }
    }
}

/// The app of a worker behind each listener, by the listener's number.
pub(super) fn apps(listeners: &[(Rc<Acceptor>, JoinHandle<()>)], asked: &Asked) -> Rc<[u16]> {
    let mut apps = Vec::new();
    for (acceptor, _) in listeners {
        let number = usize::from(acceptor.number);
        apps.resize(apps.len().max(number + 1), 0);
        apps[number] = app_of(asked, &acceptor.name, acceptor.app);
    }
    apps.into()
}
