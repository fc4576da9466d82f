//! The primary's loop: carries out what the supervisor decides and tells it what happened. It decides nothing itself.

mod adopt;
mod children;
mod closing;
mod ending;
mod handbacks;
mod listening;
mod notes;
mod orders;
mod rebalance;
mod recycling;
mod restarts;
mod shared;
mod upgrade;
mod wishes;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_local},
};

pub(crate) use self::ending::SECOND_STOP;
use self::{
    children::{Child, Death},
    ending::Ending,
    listening::Listening,
    restarts::Abandoned,
    upgrade::{News, Upgrade},
};
use super::{
    Command, Shared,
    acceptor::Acceptor,
    dispatch::{self, Dispatch},
    fork,
    gate::Gate,
    hooks::Events,
    image::{Image, Images, Origin},
    link::Seen,
    succession::Estate,
};
use crate::{
    error::{Error, Result},
    event::Restarted,
    id::{Generation, WorkerId},
    ipc::limits,
    listeners::Bound,
    rebalance::Rebalance,
    recycling::Recycling,
    schedule::Custom,
    settings::Settings,
    signals::{self, PrimarySignals},
    supervisor::{self, Action, Input, Policy, Supervisor},
    ticks::Ticks,
};

/// How often intakes and heartbeats are looked at. A stuck worker's connections are with another after three of these at the most.
const TICK: Duration = Duration::from_millis(50);

/// Ordered to end at its deadline, a worker ends by itself and says what it cut; the primary kills it only some time after.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);

/// Everything the primary's loop is started with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    /// The program's own choice.
    pub(crate) schedule: Option<Custom>,
    /// What the first generation runs.
    pub(crate) image: Image,
    /// It is also what this process runs, so that a newer one can be executed in its place.
    pub(crate) own: bool,
    /// Where later generations find theirs.
    pub(crate) program: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) listeners: Vec<Bound>,
    /// Listeners of the program before that this one does not have.
    pub(crate) dropped: Vec<Bound>,
    /// What the program before this one left.
    pub(crate) estate: Option<Estate>,
    /// Told when signals are caught.
    pub(crate) caught: oneshot::Sender<()>,
    pub(crate) secret: Vec<u8>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) events: Events,
}

struct Driver {
    settings: Settings,
    images: Images,
    origin: Origin,
    secret: Vec<u8>,
    shared: Arc<Shared>,
    events: Events,
    supervisor: Supervisor,
    dispatch: Rc<RefCell<Dispatch>>,
    acceptors: Vec<(Rc<Acceptor>, JoinHandle<()>)>,
    listening: Listening,
    /// Bound for the next program: nothing is accepted here yet.
    incoming: Vec<Bound>,
    gate: Rc<Gate>,
    /// Generations whose `prepare` has run.
    prepared: BTreeSet<Generation>,
    upgrade: Upgrade,
    children: BTreeMap<WorkerId, Child>,
    seen: mpsc::UnboundedSender<Seen>,
    ending: Option<Ending>,
    last_death: Option<Death>,
    /// Who asked for the restart that runs, and who for the one after it.
    restarts: [Vec<oneshot::Sender<Result<Restarted>>>; 2],
    abandoned: Vec<Abandoned>,
    scaling: Vec<oneshot::Sender<Result<()>>>,
    failure: Option<Error>,
    /// The fork that is to be carried out next.
    forking: Option<Box<fork::Order>>,
    recycling: Recycling,
    balance: Rebalance,
    /// Clients waited at the last look, when workers had accepted so many.
    waited: Option<u64>,
}

/// Runs the primary until its last worker has ended. Needs a `LocalSet`.
pub(crate) async fn run(mut setup: Setup) -> Result<()> {
    limits::raise();
    let mut signals = PrimarySignals::catch().map_err(|source| Error::System {
        doing: "catch signals",
        source,
    })?;
    if let Some(estate) = &setup.estate {
        signals::restore(&estate.blocked());
    }
    let (seen, mut sightings) = mpsc::unbounded_channel();
    let (caught, closed) = (oneshot::channel().0, mpsc::unbounded_channel().1);
    let _ = std::mem::replace(&mut setup.caught, caught).send(());
    let mut commands = std::mem::replace(&mut setup.commands, closed);
    let mut driver = Driver::new(setup, seen)?;
    let attendant = spawn_local(dispatch::attend(driver.dispatch.clone()));
    let mut ticks = Ticks::every(TICK);
    while !driver.carry_out() {
        if driver.is_to_upgrade() {
            let mut news = News {
                signals: &mut signals,
                commands: &mut commands,
                sightings: &mut sightings,
            };
            driver.try_upgrade(&mut news).await;
            continue;
        }
        tokio::select! {
            biased;
            order = signals.next() => driver.obey(order),
            Some(command) = commands.recv() => driver.command(command),
            Some(seen) = sightings.recv() => driver.saw(seen),
            () = ticks.next() => driver.tick(),
            () = until(driver.announced_until()) => driver.close().await,
            () = until(driver.supervisor.deadline()) => driver.tell(Input::Tick),
        }
    }
    attendant.abort();
    driver.close_listeners();
    driver.failure.map_or(Ok(()), Err)
}

/// Waits for a deadline that may come before the next tick; with a later one, that tick asks again. A timer of the runtime's for each
/// would wake a primary at rest 36 times a second, the ticks alone wake it 20 times.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) if deadline < Instant::now() + TICK => {
            tokio::time::sleep_until(deadline.into()).await;
        }
        _ => std::future::pending().await,
    }
}

impl Driver {
    fn new(setup: Setup, seen: mpsc::UnboundedSender<Seen>) -> Result<Self> {
        let policy = Policy {
            supervised: setup.shared.forks().is_none(),
            workers: setup.settings.workers,
            boot_timeout: setup.settings.boot_timeout,
            hang_timeout: setup.settings.hang_timeout,
            drain_deadline: setup.settings.drain_deadline + DEADLINE_GRACE,
            jitter: u64::from(std::process::id()),
            ..Policy::default()
        };
        let recycling = Recycling::new(setup.settings.recycling, policy.jitter);
        let (now, image) = (Instant::now(), Rc::new(setup.image));
        let (supervisor, generation) = match &setup.estate {
            Some(estate) => {
                let legacy = estate.legacy();
                (Supervisor::adopt(policy, legacy, now), legacy.serving())
            }
            None => (Supervisor::new(policy, now), supervisor::FIRST),
        };
        let mut driver = Self {
            dispatch: Rc::new(RefCell::new(Dispatch::new(
                setup.settings.scheduling,
                setup.schedule,
            ))),
            settings: setup.settings,
            images: Images {
                program: setup.program,
                own: setup.own.then(|| image.clone()),
                by_generation: BTreeMap::from([(generation, image)]),
            },
            origin: setup.origin,
            secret: setup.secret,
            shared: setup.shared,
            events: setup.events,
            supervisor,
            acceptors: Vec::new(),
            listening: Listening::default(),
            incoming: Vec::new(),
            gate: Rc::default(),
            // The first generation's was the primary's own to run, in the first program or in one before it.
            prepared: BTreeSet::from([generation]),
            upgrade: Upgrade::default(),
            children: BTreeMap::new(),
            seen,
            ending: None,
            last_death: None,
            restarts: Default::default(),
            abandoned: Vec::new(),
            scaling: Vec::new(),
            failure: None,
            forking: None,
            recycling,
            balance: Rebalance::default(),
            waited: None,
        };
        driver.accept_from(setup.listeners);
        match setup.estate {
            Some(estate) => driver.adopt(estate)?,
            None => driver.tell(Input::Start),
        }
        driver.accept_last(setup.dropped);
        Ok(driver)
    }

    fn tell(&mut self, input: Input) {
        self.supervisor.handle(Instant::now(), input);
    }

    fn accept_from(&mut self, listeners: Vec<Bound>) {
        for bound in listeners {
            let acceptor = Rc::new(Acceptor::new(bound));
            let (running, dispatch) = (acceptor.clone(), self.dispatch.clone());
            self.acceptors.push((
                acceptor,
                spawn_local(async move { running.run(dispatch).await }),
            ));
        }
    }

    /// Carries out every action that is due; true when the cluster has ended.
    fn carry_out(&mut self) -> bool {
        self.show_readiness(); // before hooks hear of it
        while let Some(action) = self.supervisor.poll() {
            match action {
                Action::Spawn {
                    id,
                    slot,
                    generation,
                } => self.spawn(id, slot, generation),
                Action::Retire(id) => self.retire(id),
                Action::End(id) => self.end_by_signal(id),
                Action::Abort(id) => self.signal(id, Signal::ABORT),
                Action::Kill(id) => self.signal(id, Signal::KILL),
                Action::Note(note) => self.note(&note),
                Action::Finished => return true,
            }
        }
        if self.supervisor.listening() == self.supervisor.target() {
            for asked in self.scaling.drain(..) {
                let _ = asked.send(Ok(()));
            }
        }
        false
    }

    fn saw(&mut self, seen: Seen) {
        match seen {
            // The same TERM as the primary's own: it stays for the announced end.
            Seen::Input(Input::Leaving(_)) if self.ending.is_some() => {}
            Seen::Input(input) => {
                if let Input::Disconnected(id) = input {
                    self.disconnected(id);
                }
                self.tell(input);
            }
            Seen::Online(id, parcel) => {
                self.online(id, parcel);
                self.tell(Input::Online(id));
            }
            Seen::Listening(id, asked) => {
                if let Some(child) = self.children.get_mut(&id) {
                    child.asked = asked;
                }
                self.bind_for_successor(id);
                self.listening(id);
            }
            Seen::Bound(id, bound) => {
                self.bound_for_successor(id, bound);
                self.listening(id);
            }
            Seen::CaughtUp(generation, in_time) => self.caught_up(generation, in_time),
            Seen::Cut(id, cuts) => self.cut(id, cuts),
            Seen::Exited(id, status) => self.exited(id, status),
            Seen::AskedToListen(id, request, wanted) => self.asked_to_listen((id, request), wanted),
            Seen::BoundFor(wanted, bound) => self.bound_for(&wanted, bound),
            Seen::Accepts(id, listener) => self.accepts(listener, id),
            Seen::Full(id, listener) => self.is_full(listener, id),
            Seen::Unlisten(id, listener) => self.unlisten(listener, id),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.dispatch.borrow_mut().tick(now);
        self.look_at_listeners();
        let broken = self.dispatch.borrow_mut().take_broken();
        broken
            .into_iter()
            .for_each(|id| self.signal(id, Signal::KILL));
        self.ask_for_life();
        let mut beats = Vec::new();
        for (&id, child) in &mut self.children {
            let heartbeat = child.handle.row().heartbeat();
            if heartbeat != child.heartbeat {
                child.heartbeat = heartbeat;
                beats.push(id);
            }
        }
        // Before the time that has passed: a primary that was stopped for a while judges nobody by what it did not see.
        beats.into_iter().for_each(|id| self.tell(Input::Beat(id)));
        self.tell(Input::Tick);
        self.recycle(now);
        self.rebalance(now);
        self.close_deserted(now);
        self.close_further();
    }
}
