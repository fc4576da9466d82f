//! Upgrade in place: once every worker runs a new program, this process executes it too.

use std::{
    convert::Infallible,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use nix::sys::signal::SigSet;
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_local,
};

use super::Driver;
use crate::{
    error::{Error, Result},
    id::{Generation, WorkerId},
    ipc::parcel::PARCEL_VERSION,
    listeners::Bound,
    primary::{
        Command,
        hooks::{Event, Stand},
        image::Image,
        link::Seen,
        succession::{self, Description, Ends, KeptListener, KeptWorker},
    },
    signals::{self, Order, PrimarySignals},
    sockets::Listener,
};

/// The longest that hooks and messages under way may hold up the execution. Clients are served on meanwhile, new ones too.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether what is under way has arrived.
const LOOK: Duration = Duration::from_millis(1);

type Asker = oneshot::Sender<Result<()>>;

/// Upgrades that were asked for, and the one that is due.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// For the restart that runs, and for the one after it.
    orders: [Ordered; 2],
    due: Option<Due>,
    /// The program's path before the restart that runs, if that is for an upgrade that named another.
    before: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Ordered {
    /// Even if the program is the one that runs.
    forced: bool,
    /// Where the program stands from then on.
    program: Option<PathBuf>,
    askers: Vec<Asker>,
}

/// Every worker runs a generation that this process is to follow.
#[derive(Debug)]
struct Due {
    generation: Generation,
    /// Held, whatever becomes of the generation meanwhile.
    image: Rc<Image>,
    /// Even if the program is the one that runs.
    forced: bool,
    /// Those wait who asked for it.
    askers: Vec<Asker>,
    /// Hooks have come to what happened before it was due.
    caught_up: bool,
    /// It has been tried since then, and was put off again and again.
    tried: Option<Instant>,
}

/// Where news comes from while the loop itself stands.
pub(super) struct News<'a> {
    pub(super) signals: &'a mut PrimarySignals,
    pub(super) commands: &'a mut mpsc::UnboundedReceiver<Command>,
    pub(super) sightings: &'a mut mpsc::UnboundedReceiver<Seen>,
}

/// Why this program still runs.
enum Remains {
    /// Something happened that comes first; then it is tried again.
    Later,
    Order(Order),
    Command(Command),
    Failed(String),
}

impl From<io::Error> for Remains {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Driver {
    /// Begins an upgrade: a restart that is followed by the execution, whatever the program is.
    pub(super) fn upgrade(&mut self, program: Option<PathBuf>, asked: Option<Asker>) {
        if self.shared.forks().is_some() {
            tracing::info!("the program forks its workers itself: nothing to upgrade");
            return;
        }
        let running = self.supervisor.restarting().is_some();
        let order = &mut self.upgrade.orders[usize::from(running)];
        order.forced = true;
        order.program = program.or(order.program.take());
        order.askers.extend(asked);
        if !running {
            self.take_program();
        }
        self.restart(None);
    }

    /// From now on generations are of the program that the order names. A restart that runs keeps its own, whatever is asked for meanwhile.
    fn take_program(&mut self) {
        if let Some(program) = self.upgrade.orders[0].program.take() {
            let before = std::mem::replace(&mut self.images.program, program);
            self.upgrade.before.get_or_insert(before);
        }
    }

    /// Where the program stands that the next restart brings.
    pub(super) fn next_program(&self) -> &Path {
        let [now, next] = &self.upgrade.orders;
        let named = next.program.as_ref().or(now.program.as_ref());
        named.unwrap_or(&self.images.program)
    }

    /// Whether the execution follows the restart that brings this generation.
    fn is_upgrade(&self, generation: Generation) -> bool {
        // What was asked for before this restart began, and has not come to pass, still is to.
        let due = self.upgrade.due.as_ref().is_some_and(|due| due.forced);
        let forced = self.upgrade.orders[0].forced || due;
        (forced && self.images.own.is_some()) || self.images.is_new(generation)
    }

    /// Every worker runs this generation, and none runs what was due before: that must not be executed any more.
    pub(super) fn rolled(&mut self, generation: Generation) {
        let follows = self.is_upgrade(generation);
        let order = self.next_order();
        self.upgrade.before = None;
        self.take_program();
        let (mut forced, mut askers) = (order.forced, order.askers);
        if let Some(before) = self.upgrade.due.take() {
            forced |= before.forced;
            askers.extend(before.askers);
        }
        let image = self.images.by_generation.get(&generation);
        let Some(image) = image.filter(|_| follows).cloned() else {
            return answer(askers, || Ok(()));
        };
        self.upgrade.due = Some(Due {
            generation,
            image,
            forced,
            askers,
            caught_up: false,
            tried: None,
        });
        self.catch_up(generation);
    }

    /// Lets hooks come to what has happened so far, while everything goes on.
    fn catch_up(&self, generation: Generation) {
        let (reply, reached) = oneshot::channel();
        self.events.send(Event::CatchUp(reply));
        let seen = self.seen.clone();
        spawn_local(async move {
            let reached = tokio::time::timeout(PATIENCE, reached).await;
            let _ = seen.send(Seen::CaughtUp(generation, matches!(reached, Ok(Ok(())))));
        });
    }

    pub(super) fn caught_up(&mut self, generation: Generation, in_time: bool) {
        let due = self.upgrade.due.as_mut();
        let Some(due) = due.filter(|due| due.generation == generation) else {
            return;
        };
        if in_time {
            due.caught_up = true;
        } else {
            self.give_up(HOOKS_SLOW);
        }
    }

    /// Whether the execution is due, whatever it still waits for.
    pub(super) fn upgrade_is_due(&self) -> bool {
        self.upgrade.due.is_some()
    }

    /// The restart was abandoned, and with it what was to follow; says who asked for that.
    pub(super) fn not_rolled(&mut self) -> Vec<Asker> {
        let order = self.next_order();
        self.incoming.clear();
        if let Some(before) = self.upgrade.before.take() {
            self.images.program = before;
        }
        self.take_program();
        order.askers
    }

    fn next_order(&mut self) -> Ordered {
        let [now, next] = &mut self.upgrade.orders;
        std::mem::replace(now, std::mem::take(next))
    }

    /// A worker has said hello: one of a program that could not take over from this one is not wanted.
    pub(super) fn online(&mut self, id: WorkerId, parcel: u32) {
        let Some(generation) = self.children.get_mut(&id).map(|child| {
            child.parcel = parcel;
            child.handle.generation()
        }) else {
            return;
        };
        if parcel != PARCEL_VERSION && self.is_rolling(generation) {
            self.refuse(id, "its version of axum-cluster cannot take over from this one while it runs: stop the old program, then start the new one".to_owned());
        }
    }

    fn is_rolling(&self, generation: Generation) -> bool {
        self.supervisor.restarting() == Some(generation) && self.is_upgrade(generation)
    }

    fn refuse(&mut self, id: WorkerId, cause: String) {
        if let Some(child) = self.children.get_mut(&id) {
            child.refused = Some(cause);
            child.process.signal(Signal::KILL);
        }
    }

    /// Binds what the next program will listen on and this one does not, now that nothing is lost yet if it cannot be had.
    pub(super) fn bind_for_successor(&mut self, id: WorkerId) {
        let child = self.children.get(&id);
        let Some(child) = child.filter(|child| self.is_rolling(child.handle.generation())) else {
            return;
        };
        let mut number = self.next_listener_number();
        let mut binding = 0;
        for (name, app) in child.asked.clone() {
            let here = self.acceptors.iter().map(|(acceptor, _)| &acceptor.name);
            let known = here
                .chain(self.incoming.iter().map(|bound| &bound.name))
                .any(|known| *known == name);
            let Some(address) = name.address().filter(|_| !known) else {
                continue;
            };
            binding += 1;
            let (seen, backlog) = (self.seen.clone(), self.settings.backlog);
            let this = number;
            number = number.saturating_add(1);
            spawn_local(async move {
                let bound = Listener::bind(&address, backlog).await;
                let bound = bound.map(|listener| Bound {
                    number: this,
                    name,
                    app,
                    listener,
                });
                let _ = seen.send(Seen::Bound(id, bound.map_err(|error| format!("{error:?}"))));
            });
        }
        if let Some(child) = self.children.get_mut(&id) {
            child.binding = binding;
        }
    }

    fn next_listener_number(&self) -> u16 {
        let here = self.acceptors.iter().map(|(acceptor, _)| acceptor.number);
        let coming = self.incoming.iter().map(|bound| bound.number);
        here.chain(coming)
            .max()
            .map_or(0, |number| number.saturating_add(1))
    }

    pub(super) fn bound_for_successor(&mut self, id: WorkerId, bound: Result<Bound, String>) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.binding = child.binding.saturating_sub(1);
        let generation = child.handle.generation();
        match bound {
            // One that comes after the restart was abandoned is closed again.
            Ok(_) if !self.is_rolling(generation) => {}
            Ok(bound) => self.incoming.push(bound),
            Err(cause) => self.refuse(id, cause),
        }
    }

    /// Whether the execution is due and nothing stands in its way.
    pub(super) fn is_to_upgrade(&self) -> bool {
        let caught_up = self.upgrade.due.as_ref().is_some_and(|due| due.caught_up);
        caught_up && self.ending.is_none() && self.supervisor.legacy().is_some()
    }

    /// Executes the new program in this process. Returns when that was put off or has failed: then everything is as before.
    pub(super) async fn try_upgrade(&mut self, news: &mut News<'_>) {
        self.gate.close();
        let Err(remains) = self.prepare_and_execute(news).await;
        self.gate.open();
        self.dispatch.borrow_mut().hold(false);
        match remains {
            Remains::Later => {}
            Remains::Order(order) => self.obey(order),
            Remains::Command(command) => self.command(command),
            Remains::Failed(cause) => self.give_up(&cause),
        }
        if !self.is_to_upgrade()
            && let Some(due) = &mut self.upgrade.due
        {
            due.tried = None;
        }
    }

    fn give_up(&mut self, cause: &str) {
        tracing::error!("upgrade given up, this program goes on: {cause}");
        self.events.send(Event::Error(given_up(cause)));
        if let Some(due) = self.upgrade.due.take() {
            answer(due.askers, || Err(given_up(cause)));
        }
        if self.supervisor.restarting().is_none() {
            // Nobody would ever accept there; clients are better refused.
            self.incoming.clear();
        }
    }

    async fn prepare_and_execute(&mut self, news: &mut News<'_>) -> Result<Infallible, Remains> {
        // What workers said before the gate was closed is still this program's to deal with.
        while let Ok(seen) = news.sightings.try_recv() {
            self.saw(seen);
        }
        if self.carry_out() || !self.is_to_upgrade() {
            return Err(Remains::Later);
        }
        let Some(due) = &mut self.upgrade.due else {
            return Err(Remains::Later);
        };
        let patience = *due.tried.get_or_insert_with(Instant::now) + PATIENCE;
        // Behind every event so far: when it is answered, hooks have seen all of them and see no more.
        let (reply, mut inheritance) = oneshot::channel();
        self.events.send(Event::Upgrade(reply));
        let inheritance = loop {
            tokio::select! {
                biased;
                order = news.signals.next() => return Err(Remains::Order(order)),
                inheritance = &mut inheritance => break inheritance.map_err(|_| Remains::Failed(HOOKS_GONE.to_owned()))?,
                () = tokio::time::sleep_until(patience.into()) => return Err(Remains::Failed(HOOKS_SLOW.to_owned())),
                // Nobody else looks after connections that a worker does not take.
                () = tokio::time::sleep(super::TICK) => self.dispatch.borrow_mut().tick(Instant::now()),
            }
        };
        loop {
            self.settle(news, patience).await?;
            self.execute_if_settled(news, &inheritance).await?;
        }
    }

    /// Returns when something came between after all.
    async fn execute_if_settled(
        &mut self,
        news: &mut News<'_>,
        inheritance: &[u8],
    ) -> Result<(), Remains> {
        // Dropped when this returns: then the thread goes on.
        let _standing = self.stand_still().await;
        let blocked = Blocked(signals::block_all()?);
        // What came before that is in the reactor, which has its turn now.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        if let Some(order) = news.signals.next().now_or_never() {
            return Err(Remains::Order(order));
        }
        if let Ok(command) = news.commands.try_recv() {
            return Err(Remains::Command(command));
        }
        // From here on nothing else runs in this thread.
        while let Ok(seen) = news.sightings.try_recv() {
            self.saw(seen);
        }
        if self.carry_out() || !self.is_to_upgrade() {
            return Err(Remains::Later);
        }
        if !self.is_settled() {
            return Ok(());
        }
        match self.execute(inheritance, &blocked.0)? {}
    }

    /// Waits until nothing of this program's is under way: no message, no connection.
    async fn settle(&mut self, news: &mut News<'_>, patience: Instant) -> Result<(), Remains> {
        loop {
            // A channel that is not read must not keep clients waiting, so that nothing is accepted only once all messages have gone.
            let sent = self.is_all_sent();
            if sent != self.dispatch.borrow().is_held() {
                self.dispatch.borrow_mut().hold(sent);
            }
            if self.is_settled() {
                return Ok(());
            }
            if Instant::now() >= patience {
                return Err(Remains::Failed(UNSETTLED.to_owned()));
            }
            tokio::select! {
                biased;
                order = news.signals.next() => return Err(Remains::Order(order)),
                () = tokio::time::sleep(LOOK) => self.dispatch.borrow_mut().tick(Instant::now()),
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.is_all_sent() && self.dispatch.borrow().waiting() == 0
    }

    fn is_all_sent(&self) -> bool {
        let mut outboxes = self.children.values().map(|child| child.handle.outbox());
        outboxes.all(|outbox| outbox.settled().is_some())
    }

    /// Has the program's own thread block its signals and wait, so that none is delivered there and lost.
    async fn stand_still(&self) -> std::sync::mpsc::Sender<()> {
        let (until, ends) = std::sync::mpsc::channel();
        let (stands, standing) = oneshot::channel();
        self.events.send(Event::StandStill(Stand { stands, ends }));
        // A thread that does not come around is not waited for: at the worst a signal of these milliseconds is lost.
        let _ = tokio::time::timeout(Duration::from_secs(1), standing).await;
        until
    }

    fn execute(&self, inheritance: &[u8], blocked: &SigSet) -> Result<Infallible, Remains> {
        let (Some(legacy), Some(due)) = (self.supervisor.legacy(), &self.upgrade.due) else {
            return Err(Remains::Later);
        };
        let (generation, image) = (due.generation, &due.image);
        let (mut listeners, mut fds) = (Vec::new(), Vec::new());
        let here = self.acceptors.iter().map(|(acceptor, _)| {
            let name = acceptor.name.clone();
            (acceptor.number, name, acceptor.listener())
        });
        let coming = self.incoming.iter();
        let coming = coming.map(|bound| (bound.number, bound.name.clone(), &bound.listener));
        for (number, name, listener) in here.chain(coming) {
            fds.push(listener.as_fd());
            listeners.push(KeptListener {
                number,
                name,
                has_file: listener.has_file(),
            });
        }
        let mut workers = Vec::new();
        for (&id, child) in &self.children {
            let ends = Ends {
                pidfd: child.process.pidfd().as_fd(),
                channel: child.channel.as_fd(),
                intake: child.intake.own_end().as_fd(),
                worker_end: child.intake.worker_end().as_fd(),
                page: child.page.as_fd(),
            };
            fds.extend(ends.in_order());
            workers.push(KeptWorker {
                id,
                pid: child.handle.pid(),
                served: child.served,
                retired: child.handle.is_retired(),
                parcel: child.parcel,
                asked: child.asked.clone(),
                accepts: child.accepts.to_vec(),
                tally: self.dispatch.borrow().tally(id),
                unconsumed: child.handle.outbox().settled().unwrap_or_default(),
                outstanding: child.consumption.outstanding(),
                latest_request: child.handle.outbox().latest_request(),
                latest_asked: child.latest_asked.get(),
            });
        }
        let asked_for = self.kept_asked(&mut fds);
        let description = Description {
            settings: self.settings.clone(),
            legacy,
            workers,
            listeners,
            program: self.images.program.clone().into(),
            origin: self.origin.clone(),
            secret: self.secret.clone(),
            dead: self.shared.dead(),
            hook_panics: self.shared.hook_panics(),
            upgrades: self.shared.upgrades() + 1,
            blocked: signals::numbers(blocked),
            asked_for,
        };
        tracing::info!(%generation, program = %image.path().display(), "executing the new program in place");
        Ok(succession::execute(
            image,
            &self.origin,
            &description,
            inheritance,
            &fds,
        )?)
    }
}

/// What was blocked before everything was; unblocked again when it is dropped.
struct Blocked(SigSet);

impl Drop for Blocked {
    fn drop(&mut self) {
        signals::restore(&self.0);
    }
}

fn answer(askers: Vec<Asker>, outcome: impl Fn() -> Result<()>) {
    for asker in askers {
        // Who dropped the ticket does not want to know.
        let _ = asker.send(outcome());
    }
}

fn given_up(cause: &str) -> Error {
    Error::Upgrade {
        cause: cause.to_owned(),
    }
}

const HOOKS_GONE: &str =
    "nobody awaits the cluster's future any more, so its hooks could not be brought to an end";
const HOOKS_SLOW: &str = "the hooks have not come to an end within 5 s";
const UNSETTLED: &str = "messages or connections under way have not arrived within 5 s";
