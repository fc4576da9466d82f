//! `workers(0)`: the same program in one process, for debuggers and tests. It is primary and worker 0 at once; messages loop back.

use std::{
    io,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    cluster::{self, Exit, WorkerHandle},
    error::{Error, Result},
    event::Cuts,
    frame::{Frame, Kind, frames},
    http::{Connections, Leave},
    id::{Generation, Slot, WorkerId},
    ipc::{
        channel::{Consumption, Receipt},
        intake::Conn,
        letter::{Incomplete, Letter},
        limits,
        outbox::Outbox,
    },
    listeners::Bound,
    primary::{Command, Event, Events, SECOND_STOP, Shared, Wish},
    reactor,
    running::Running,
    scoreboard::Row,
    service::AppMaker,
    settings::Settings,
    signals::{Order, PrimarySignals},
    sockets::{self, Listener},
    start::{Rest, all},
    worker::{App, Hub, Parting, Parts, Serving, Worker, take_in, timeouts},
};

/// A cluster of one process, ready to serve.
pub(crate) struct Single {
    running: Running,
    server: Server,
}

/// What the process does as its own only worker.
struct Server {
    end: oneshot::Sender<Result<()>>,
    settings: Settings,
    listeners: Vec<Bound>,
    signals: PrimarySignals,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    events: Events,
    worker: Worker,
    handle: WorkerHandle,
    told_at: Instant,
    /// How far its worker wanted to leave so far.
    parting: Parting,
}

impl Single {
    #[allow(
        clippy::too_many_arguments,
        reason = "called once, with what `start` has made"
    )]
    pub(crate) fn new(
        running: Running,
        end: oneshot::Sender<Result<()>>,
        settings: Settings,
        listeners: Vec<Bound>,
        secret: [u8; 64],
        shared: Arc<Shared>,
        commands: mpsc::UnboundedReceiver<Command>,
        events: Events,
    ) -> Result<Self> {
        limits::raise();
        let signals = PrimarySignals::catch().map_err(|source| Error::System {
            doing: "catch signals",
            source,
        })?;
        let (row, _page) = Row::create().map_err(|source| Error::System {
            doing: "map the scoreboard",
            source,
        })?;
        let row = Arc::new(row);
        let (id, slot, generation) = (WorkerId::new(0), Slot::new(0), Generation::new(0));
        let (to_primary, to_worker) = (Arc::new(Outbox::default()), Arc::new(Outbox::default()));
        let worker = Worker::new(Parts {
            id,
            slot,
            generation,
            workers: 1,
            secret,
            hub: Hub::new(Consumption::new(to_primary.clone())),
            outbox: to_primary,
            row: row.clone(),
            notices: events.wants.notices,
        });
        let handle = WorkerHandle::new(
            id,
            slot,
            generation,
            std::process::id(),
            to_worker,
            row,
            shared.commands(),
        );
        shared.born(handle.clone());
        cluster::announce_worker(&worker);
        Ok(Self {
            running,
            server: Server {
                end,
                settings,
                listeners,
                signals,
                shared,
                commands,
                events,
                worker,
                handle,
                told_at: Instant::now(),
                parting: Parting::Stays,
            },
        })
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.server.worker
    }

    pub(crate) async fn serve(
        self,
        app: AppMaker,
        rest: Rest,
        graceful: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
    ) -> Result<()> {
        tokio::spawn(self.server.serve(app, rest));
        self.running.wait(graceful).await
    }
}

impl Server {
    async fn serve(mut self, app: AppMaker, rest: Rest) {
        let result = self.try_serve(app, rest).await;
        self.shared.died(&self.handle);
        self.shared.end();
        // Nobody listens when the program has dropped the future of `serve`.
        let _ = self.end.send(result);
    }

    async fn try_serve(&mut self, app: AppMaker, rest: Rest) -> Result<()> {
        let apps: Arc<[Arc<dyn App>]> = all(app, rest)(self.worker.clone()).await?.into();
        let (row, told) = (self.worker.row().clone(), self.worker.told());
        let connections = Connections::new(timeouts(&self.settings), row, told);
        // Ends with this function, however it ends.
        let mut tasks = JoinSet::new();
        tasks.spawn(to_primary(
            self.worker.clone(),
            self.handle.clone(),
            self.events.clone(),
        ));
        tasks.spawn(to_worker(self.worker.clone(), self.handle.clone()));
        tasks.spawn({
            let connections = connections.clone();
            async move { connections.reap().await }
        });
        self.worker.served().begin(&connections, &apps);
        let mut accepting = JoinSet::new();
        // Nothing comes back here, so nobody waits for the tasks: their connections are waited for.
        let (done, _) = mpsc::channel(1);
        let serving = Serving {
            connections: connections.clone(),
            worker: self.worker.clone(),
            intake: None,
            done,
        };
        for Bound { listener, app, .. } in std::mem::take(&mut self.listeners) {
            let listener =
                reactor::watch(listener, Interest::READABLE).map_err(|source| Error::System {
                    doing: "watch a listening socket",
                    source,
                })?;
            accepting.spawn(accept(listener, app, apps.clone(), serving.clone()));
        }
        for event in [Event::Fork, Event::Online, Event::Listening] {
            self.events.send(event(self.handle.clone()));
        }
        self.shared.set_ready(true);
        self.shared.tell_addresses(0);
        self.events.send(Event::Ready);
        let at_once = self.announced_end().await;
        drop(accepting);
        self.handle.retire();
        self.worker.leave();
        connections.leave(Leave::Close);
        let deadline = tokio::time::sleep(self.settings.drain_deadline);
        let worker = self.worker.clone();
        let again = async {
            if !at_once {
                self.told_again().await;
            }
        };
        let mut cuts = Cuts::default();
        let finished = async {
            connections.all_closed().await;
            worker.ports().held().zero().await;
        };
        tokio::select! {
            () = finished => {}
            () = deadline => {
                let cut;
                (cut, cuts) = connections.cut();
                // The program's own end with the process.
                let cut = cut + worker.ports().held().get();
                tracing::warn!(connections = cut, requests = cuts.total, "cut at the drain deadline");
                cuts.log(self.worker.id());
            }
            () = again => tracing::info!("ending at once"),
        }
        self.worker.served().end();
        // What was sent last is still to be seen by the hooks.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.worker.outbox().flushed()).await;
        self.worker.outbox().close();
        self.handle.outbox().close();
        self.handle.died();
        self.events.send(Event::Disconnect(self.handle.clone()));
        let exit = Exit {
            status: ExitStatus::default(),
            in_flight: 0,
            open_connections: 0,
            given_back: 0,
            after_disconnect: true,
            requests_cut: cuts.total,
            cut: cuts.oldest,
        };
        self.events.send(Event::Exit(self.handle.clone(), exit));
        Ok(())
    }

    /// Completes when it is time to end; true: at once.
    async fn announced_end(&mut self) -> bool {
        let at_once = self.told_to_end().await;
        self.told_at = Instant::now();
        self.shared.set_ready(false);
        self.worker.row().order_unready();
        at_once
            || tokio::time::timeout(self.settings.drain_delay, self.told_again())
                .await
                .is_ok()
    }

    /// Completes at a further signal. As with worker processes, one right after the first is the same one.
    async fn told_again(&mut self) {
        while !self.told_to_end().await && self.told_at.elapsed() < SECOND_STOP {}
    }

    /// Completes at a signal or a command to end; true: at once.
    async fn told_to_end(&mut self) -> bool {
        loop {
            let order = tokio::select! {
                biased;
                order = self.signals.next() => order,
                parting = self.worker.parting_beyond(self.parting) => {
                    self.parting = parting;
                    return parting == Parting::Ends;
                }
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown) => return false,
                    // The one worker is the whole cluster.
                    Some(Command::Worker(_, Wish::Disconnect)) => return false,
                    Some(Command::Worker(..)) => return true,
                    // Their tickets say `Gone`: there is nothing to restart.
                    Some(Command::Fork(_) | Command::Restart(_) | Command::Scale(..) | Command::Upgrade(..)) => continue,
                    None => std::future::pending().await,
                },
            };
            match order {
                Order::Stop => return false,
                Order::StopNow => return true,
                Order::Reopen => self.events.send(Event::Reopen),
                order => tracing::info!(?order, "there are no worker processes: nothing to do"),
            }
        }
    }
}

async fn accept(
    listener: AsyncFd<Listener>,
    listens_for: u16,
    apps: Arc<[Arc<dyn App>]>,
    serving: Serving,
) {
    loop {
        let accepted = listener
            .async_io(Interest::READABLE, |listener| sockets::accept(listener))
            .await;
        let served = accepted.and_then(|(fd, peer)| {
            let app = apps
                .get(usize::from(listens_for))
                .ok_or(io::ErrorKind::NotFound)?;
            app.clone().spawn(
                Conn {
                    fd,
                    listener: listens_for,
                    app: listens_for,
                    peer,
                    moved: None,
                },
                &serving,
            );
            Ok(())
        });
        match served {
            Ok(()) => serving.worker.row().took(1),
            Err(error) => {
                tracing::error!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What the worker sends arrives as the primary's events.
async fn to_primary(worker: Worker, handle: WorkerHandle, events: Events) {
    let consumption = Arc::new(Consumption::new(handle.outbox().clone()));
    while let Some(datagram) = worker.outbox().next(Vec::new()).await {
        let (datagram, mut fds) = (Bytes::from(datagram.bytes), datagram.fds.into_iter());
        // Where the messages begin that are not passed on yet, and where this frame does. One event a message, and not one for those
        // that came together, costs 500 instructions more each.
        let (mut begun, mut at) = (0, 0);
        for frame in frames(&datagram).flatten() {
            let before = at;
            at += frame.size();
            if let Frame::Message(_) = frame {
                continue;
            }
            events.messages(&handle, datagram.slice(begun..before), &consumption);
            begun = at;
            match frame {
                Frame::Letter(envelope) => {
                    let receipt = Receipt::new(&consumption, frame.weight());
                    match Letter::received(&envelope, &datagram, &mut fds) {
                        Ok(letter) => letter_to_primary(letter, receipt, &handle, &events),
                        Err(Incomplete) => tracing::error!("a message is lost"),
                    }
                }
                Frame::NoReply(number) => handle.outbox().answered(number, None),
                Frame::Notices(payload) => events.send(Event::Notices(
                    handle.clone(),
                    datagram.slice_ref(payload),
                    consumption.clone(),
                )),
                Frame::Consumed(n) => {
                    handle.outbox().consumed(n as usize);
                }
                _ => {}
            }
        }
        events.messages(&handle, datagram.slice(begun..at), &consumption);
    }
}

fn letter_to_primary(letter: Letter, receipt: Receipt, handle: &WorkerHandle, events: &Events) {
    match letter.kind {
        // There are no others.
        Kind::Broadcast => {}
        Kind::Reply(number) => handle
            .outbox()
            .answered(number, Some((letter, Some(receipt)))),
        // There is no other process to ask.
        Kind::Ask(number) => handle.outbox().order(&Frame::NoReply(number)),
        Kind::Request(number) if !events.wants.messages => {
            handle.outbox().order(&Frame::NoReply(number));
        }
        Kind::Message if !events.wants.messages => {}
        Kind::Message | Kind::Request(_) => {
            events.send(Event::Letter(handle.clone(), letter, receipt));
        }
    }
}

/// What the primary sends arrives as the worker's messages.
async fn to_worker(worker: Worker, handle: WorkerHandle) {
    while let Some(datagram) = handle.outbox().next(Vec::new()).await {
        take_in(
            &worker,
            &Bytes::from(datagram.bytes),
            datagram.fds.into_iter(),
            // Nobody gives orders to itself.
            |_| {},
        );
    }
    worker.hub().end();
}
