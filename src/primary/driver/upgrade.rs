//! Upgrade in place: once every worker runs a new program, this process executes it too.

mod execution;

use std::{
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{sync::oneshot, task::spawn_local};

pub(super) use execution::News;

use super::Driver;
use crate::{
    error::{Error, Result},
    id::{Generation, WorkerId},
    ipc::parcel::PARCEL_VERSION,
    listeners::Bound,
    primary::{hooks::Event, image::Image, link::Seen},
    sockets::Listener,
};

/// The longest that hooks and messages under way may hold up the execution. Clients are served on meanwhile, new ones too.
const PATIENCE: Duration = Duration::from_secs(5);

const HOOKS_SLOW: &str = "the hooks have not come to an end within 5 s";

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
