//! The primary's loop: carries out what the supervisor decides and tells it what happened. It decides nothing itself.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    process::ExitStatus,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle, spawn_local},
};

use super::{
    Command, Shared,
    acceptor::Acceptor,
    dispatch::{self, Dispatch},
    handle::WorkerHandle,
    hooks::{Event, Events},
    image::{Image, Origin},
    link::{Link, Seen},
    process::Process,
};
use crate::{
    birth::Welcome,
    error::{Error, Result},
    event::Exit,
    id::{Generation, Slot, WorkerId},
    ipc::{
        channel::{self, Channel},
        intake::{CROWDED, Handbacks, IntakeSender},
        limits,
        outbox::Outbox,
    },
    scoreboard::Row,
    settings::Settings,
    signals::{Order, PrimarySignals},
    sockets::Listener,
    supervisor::{Action, Input, Note, Policy, Supervisor},
};

/// How often intakes and heartbeats are looked at. A stuck worker's connections are with another after three of these at the most.
const TICK: Duration = Duration::from_millis(50);

/// Ordered to end at its deadline, a worker ends by itself and says what it cut; the primary kills it only some time after.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);

/// At a graceful end, the longest that accepted connections may wait for a worker with room before workers are retired.
const LAST_PLACING: Duration = Duration::from_secs(1);

/// A second TERM this soon after the first is the same one, sent to the group and to the process.
const SECOND_STOP: Duration = Duration::from_millis(500);

/// Everything the primary's loop is started with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    pub(crate) image: Image,
    pub(crate) origin: Origin,
    /// With the app that serves what comes in there.
    pub(crate) listeners: Vec<(Listener, u16)>,
    pub(crate) secret: Vec<u8>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) events: Events,
}

/// What the loop knows of one worker.
struct Child {
    handle: WorkerHandle,
    process: Rc<Process>,
    intake: Rc<IntakeSender>,
    handbacks: Rc<Handbacks>,
    reading: AbortHandle,
    heartbeat: u64,
    served: bool,
    boot_timeout: bool,
}

/// A graceful end that has begun.
struct Closing {
    since: Instant,
    /// The supervisor has been told: workers are being retired.
    told: bool,
}

struct Driver {
    settings: Settings,
    image: Image,
    origin: Origin,
    secret: Vec<u8>,
    shared: Arc<Shared>,
    events: Events,
    supervisor: Supervisor,
    dispatch: Rc<RefCell<Dispatch>>,
    acceptors: Vec<(Rc<Acceptor>, JoinHandle<()>)>,
    children: BTreeMap<WorkerId, Child>,
    seen: mpsc::UnboundedSender<Seen>,
    closing: Option<Closing>,
    last_death: Option<(WorkerId, Option<ExitStatus>, &'static str)>,
    failure: Option<Error>,
}

/// Runs the primary until its last worker has ended. Needs a `LocalSet`.
pub(crate) async fn run(setup: Setup) -> Result<()> {
    limits::raise();
    let mut signals = PrimarySignals::catch().map_err(|source| Error::System { doing: "catch signals", source })?;
    let (seen, mut sightings) = mpsc::unbounded_channel();
    let mut commands = setup.commands;
    let policy = Policy {
        workers: setup.settings.workers,
        boot_timeout: setup.settings.boot_timeout,
        hang_timeout: setup.settings.hang_timeout,
        drain_deadline: setup.settings.drain_deadline + DEADLINE_GRACE,
        jitter: u64::from(std::process::id()),
        ..Policy::default()
    };
    let dispatch = Dispatch::new(setup.settings.scheduling);
    let mut driver = Driver {
        settings: setup.settings,
        image: setup.image,
        origin: setup.origin,
        secret: setup.secret,
        shared: setup.shared,
        events: setup.events,
        supervisor: Supervisor::new(policy, Instant::now()),
        dispatch: Rc::new(RefCell::new(dispatch)),
        acceptors: Vec::new(),
        children: BTreeMap::new(),
        seen,
        closing: None,
        last_death: None,
        failure: None,
    };
    let attendant = spawn_local(dispatch::attend(driver.dispatch.clone()));
    driver.accept_from(setup.listeners)?;
    driver.tell(Input::Start);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !driver.carry_out() {
        tokio::select! {
            biased;
            order = signals.next() => driver.obey(order),
            Some(command) = commands.recv() => driver.command(&command),
            Some(seen) = sightings.recv() => driver.saw(&seen),
            _ = tick.tick() => driver.tick(),
            () = until(driver.supervisor.deadline()) => driver.tell(Input::Tick),
        }
    }
    attendant.abort();
    driver.close_listeners();
    driver.failure.map_or(Ok(()), Err)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads what a worker gives back, always: a worker that leaves waits for it, and it for nobody.
async fn read_handbacks(handbacks: Rc<Handbacks>, dispatch: Rc<RefCell<Dispatch>>, process: Rc<Process>) {
    loop {
        match handbacks.receive().await {
            Ok(batch) => {
                let full = batch.conns.iter().any(|conn| limits::is_full(&conn.fd));
                dispatch.borrow_mut().take_returned(batch);
                while full && dispatch.borrow().waiting() > 0 {
                    tokio::time::sleep(CROWDED).await;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                tracing::error!(pid = process.pid(), %error, "a worker gave back what is no connection: it is replaced");
                return process.signal(Signal::KILL);
            }
            // A peer that closed with something unread: not the end of what it said.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => {
                tracing::error!(pid = process.pid(), %error, "cannot read what a worker gives back");
                return;
            }
        }
    }
}

impl Driver {
    fn tell(&mut self, input: Input) {
        self.supervisor.handle(Instant::now(), input);
    }

    fn accept_from(&mut self, listeners: Vec<(Listener, u16)>) -> Result<()> {
        for (listener, app) in listeners {
            let acceptor = Acceptor::new(listener, app).map_err(|source| Error::System { doing: "watch a listening socket", source })?;
            let acceptor = Rc::new(acceptor);
            let (running, dispatch) = (acceptor.clone(), self.dispatch.clone());
            self.acceptors.push((acceptor, spawn_local(async move { running.run(dispatch).await })));
        }
        Ok(())
    }

    /// Carries out every action that is due; true when the cluster has ended.
    fn carry_out(&mut self) -> bool {
        while let Some(action) = self.supervisor.poll() {
            match action {
                Action::Spawn { id, slot, generation } => self.spawn(id, slot, generation),
                Action::Retire(id) => self.retire(id),
                Action::Abort(id) => self.signal(id, Signal::ABORT),
                Action::Kill(id) => self.signal(id, Signal::KILL),
                Action::Note(note) => self.note(&note),
                Action::Finished => return true,
            }
        }
        false
    }

    fn spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) {
        match self.try_spawn(id, slot, generation) {
            Ok(()) => self.tell(Input::Spawned(id)),
            Err(error) => {
                tracing::error!(worker = %id, error = ?error, "cannot start a worker");
                self.last_death = Some((id, None, "it could not be started"));
                self.events.send(Event::Error(error));
                self.tell(Input::SpawnFailed(id));
            }
        }
    }

    fn try_spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) -> Result<()> {
        let failed = |source| Error::Spawn { program: self.image.path().to_owned(), source };
        let (ours, theirs) = channel::pair().map_err(failed)?;
        let channel = Rc::new(Channel::new(ours).map_err(failed)?);
        let intake = Rc::new(IntakeSender::new().map_err(failed)?);
        let handbacks = Rc::new(intake.handbacks().map_err(failed)?);
        let (row, page) = Row::create().map_err(failed)?;
        let process = Rc::new(Process::spawn(&self.image, &self.origin, id, slot, theirs)?);
        let outbox = Arc::new(Outbox::default());
        let handle = WorkerHandle::new(id, slot, generation, process.pid(), outbox, Arc::new(row));
        tracing::info!(worker = %id, %slot, pid = process.pid(), "worker started");
        self.shared.born(handle.clone());
        self.events.send(Event::Fork(handle.clone()));
        let child = Child {
            handle: handle.clone(),
            process: process.clone(),
            intake: intake.clone(),
            reading: spawn_local(read_handbacks(handbacks.clone(), self.dispatch.clone(), process.clone())).abort_handle(),
            handbacks,
            heartbeat: 0,
            served: false,
            boot_timeout: false,
        };
        self.children.insert(id, child);
        let welcome = Welcome { generation, settings: self.settings.clone(), secret: self.secret.clone() };
        let link = Link { handle, process, channel, intake, page, welcome, seen: self.seen.clone(), events: self.events.clone() };
        spawn_local(link.run());
        Ok(())
    }

    fn retire(&mut self, id: WorkerId) {
        if let Some(child) = self.children.get(&id) {
            child.handle.retire();
            self.dispatch.borrow_mut().retire(id);
            // Its connections move to the others, unless the whole cluster ends. The order stands before the intake ends.
            child.handle.row().order_to_leave(self.closing.is_none());
            child.intake.finish();
        }
    }

    fn signal(&mut self, id: WorkerId, signal: Signal) {
        if let Some(child) = self.children.get(&id) {
            child.process.signal(signal);
        }
    }

    fn note(&mut self, note: &Note) {
        match *note {
            Note::Ready => {
                tracing::info!(workers = self.supervisor.target(), "ready");
                self.events.send(Event::Ready);
            }
            Note::BackOff { slot, delay } => tracing::warn!(%slot, ?delay, "a worker is started again after a while"),
            Note::BootTimeout(id) => {
                tracing::error!(worker = %id, after = ?self.settings.boot_timeout, "was not ready in time: killed");
                if let Some(child) = self.children.get_mut(&id) {
                    child.boot_timeout = true;
                }
            }
            Note::Hung(id) => tracing::error!(worker = %id, after = ?self.settings.hang_timeout, "its heartbeat stopped: aborted"),
            Note::DeadlinePassed(id) => tracing::warn!(worker = %id, "did not end in time: killed"),
            Note::Restarted { generation, replaced, took } => tracing::info!(%generation, replaced, ?took, "restarted"),
            Note::RestartAbandoned { generation, slot, id } => {
                tracing::error!(%generation, %slot, worker = %id, "restart abandoned: the new worker did not come up; the old ones stay");
            }
            Note::GiveUp { .. } => {
                let (status, cause) = self.last_death.map_or((None, "unknown"), |(_, status, cause)| (status, cause));
                self.failure = Some(Error::NeverReady {
                    program: self.image.path().to_owned(),
                    status,
                    deaths: Policy::default().boot_deaths,
                    cause: cause.to_owned(),
                });
                self.close_listeners();
            }
        }
    }

    fn saw(&mut self, seen: &Seen) {
        match *seen {
            Seen::Input(input) => {
                match input {
                    Input::Listening(id) => self.listening(id),
                    Input::Disconnected(id) => {
                        if let Some(child) = self.children.get(&id) {
                            self.events.send(Event::Disconnect(child.handle.clone()));
                        }
                    }
                    _ => {}
                }
                self.tell(input);
            }
            Seen::Exited(id, status) => self.exited(id, status),
        }
    }

    fn listening(&mut self, id: WorkerId) {
        if let Some(child) = self.children.get_mut(&id)
            && !child.served
        {
            tracing::info!(worker = %id, slot = %child.handle.slot(), pid = child.handle.pid(), "worker listening");
            child.served = true;
            if !child.handle.is_retired() {
                self.dispatch.borrow_mut().add(id, child.handle.generation(), child.intake.clone(), child.handle.row().clone());
            }
        }
    }

    fn exited(&mut self, id: WorkerId, status: ExitStatus) {
        let Some(child) = self.children.remove(&id) else { return };
        let handle = child.handle;
        child.reading.abort();
        let open_connections = {
            let mut dispatch = self.dispatch.borrow_mut();
            while let Some(batch) = child.handbacks.rest() {
                dispatch.take_returned(batch);
            }
            dispatch.remove(id)
        };
        let exit = Exit { status, in_flight: handle.row().read().in_flight, open_connections, after_disconnect: handle.is_retired() };
        handle.died();
        self.shared.died(&handle);
        let cause = match (child.served, child.boot_timeout) {
            (_, true) => "it was not ready within the boot timeout",
            (true, _) => "it had served",
            (false, _) => "it ended before it reached `serve`, or while `serve` set up its app",
        };
        self.last_death = Some((id, Some(status), cause));
        if exit.after_disconnect {
            tracing::info!(worker = %id, %status, "worker ended");
        } else {
            tracing::warn!(worker = %id, %status, in_flight = exit.in_flight, open_connections, "worker died: {cause}");
        }
        self.events.send(Event::Exit(handle, exit));
        self.tell(Input::Exited(id));
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.dispatch.borrow_mut().tick(now);
        let mut beats = Vec::new();
        for (&id, child) in &mut self.children {
            let heartbeat = child.handle.row().heartbeat();
            if heartbeat != child.heartbeat {
                child.heartbeat = heartbeat;
                beats.push(id);
            }
        }
        // The gap that tells of a stopped primary is seen with the first of these, before any heartbeat is missed.
        self.tell(Input::Tick);
        beats.into_iter().for_each(|id| self.tell(Input::Beat(id)));
        self.close_further();
    }

    fn obey(&mut self, order: Order) {
        tracing::info!(?order, "signal");
        match order {
            Order::Stop => match &self.closing {
                None => self.close(),
                Some(closing) if closing.since.elapsed() >= SECOND_STOP => self.close_now(),
                Some(_) => {}
            },
            Order::StopNow => self.close_now(),
            Order::Restart => self.tell(Input::Restart { min_up: Duration::ZERO }),
            Order::More => self.scale(1),
            Order::Fewer => self.scale(-1),
            Order::Reopen | Order::Upgrade => tracing::warn!(?order, "this version has no answer to this signal yet; nothing changes"),
        }
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Shutdown if self.closing.is_none() => self.close(),
            Command::Shutdown => {}
        }
    }

    fn scale(&mut self, by: i32) {
        let target = u32::try_from(self.supervisor.target()).unwrap_or(u32::MAX).saturating_add_signed(by);
        self.tell(Input::Scale(target.max(1)));
    }

    /// Begins a graceful end: what has come is still accepted and placed, then nothing more, then the workers drain.
    fn close(&mut self) {
        tracing::info!("ending gracefully");
        for (acceptor, running) in &self.acceptors {
            running.abort();
            acceptor.accept_rest(&self.dispatch);
        }
        self.closing = Some(Closing { since: Instant::now(), told: false });
        // Those that leave already find nobody any more who takes their connections.
        self.children.values().filter(|child| child.handle.is_retired()).for_each(|child| child.handle.row().order_to_leave(false));
        self.close_listeners();
        self.close_further();
    }

    /// Retires the workers once every accepted connection is with one of them.
    fn close_further(&mut self) {
        let Some(closing) = &mut self.closing else { return };
        let placed = self.dispatch.borrow().waiting() == 0;
        let hopeless = self.children.values().all(|child| !child.served) || closing.since.elapsed() >= LAST_PLACING;
        if !closing.told && (placed || hopeless) {
            closing.told = true;
            self.tell(Input::Shutdown);
        }
    }

    fn close_now(&mut self) {
        tracing::info!("ending at once");
        self.close_listeners();
        self.tell(Input::ShutdownNow);
    }

    /// Closes the listening sockets and removes the files of those that have one.
    fn close_listeners(&mut self) {
        for (_, running) in self.acceptors.drain(..) {
            running.abort();
        }
    }
}
