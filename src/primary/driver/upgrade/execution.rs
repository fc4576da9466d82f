//! The execution of the next program: what has to have come to an end before, and what is left to it.

use std::{
    convert::Infallible,
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use nix::sys::signal::SigSet;
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{Driver, TICK},
    HOOKS_SLOW, PATIENCE, answer, given_up,
};
use crate::{
    primary::{
        Command,
        hooks::{Concerned, Event, Stand},
        link::Seen,
        succession::{self, Description, Ends, KeptListener, KeptWorker},
    },
    signals::{self, Order, PrimarySignals},
};

/// How often it is looked whether what is under way has arrived.
const LOOK: Duration = Duration::from_millis(1);
/// Where news comes from while the loop itself stands.
pub(in crate::primary::driver) struct News<'a> {
    pub(in crate::primary::driver) signals: &'a mut PrimarySignals,
    pub(in crate::primary::driver) commands: &'a mut mpsc::UnboundedReceiver<Command>,
    pub(in crate::primary::driver) sightings: &'a mut mpsc::UnboundedReceiver<Seen>,
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
    /// Executes the new program in this process. Returns when that was put off or has failed: then everything is as before.
    pub(in crate::primary::driver) async fn try_upgrade(&mut self, news: &mut News<'_>) {
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

    pub(in crate::primary::driver) fn give_up(&mut self, cause: &str) {
        tracing::error!("upgrade given up, this program goes on: {cause}");
        self.events
            .send(Event::Error(Concerned::default(), given_up(cause)));
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
                () = tokio::time::sleep(TICK) => self.dispatch.borrow_mut().tick(Instant::now()),
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

const HOOKS_GONE: &str =
    "nobody awaits the cluster's future any more, so its hooks could not be brought to an end";
const UNSETTLED: &str = "messages or connections under way have not arrived within 5 s";
