//! The life of a worker process, from its welcome to its end.

use std::{
    convert::Infallible,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

use super::{
    App, AppSource, Apps, Hub, Parts, Serving, Worker,
    doors::Doors,
    duties::{beat, read, tell_of_term, write},
    leaving, ports,
    watch::Watch,
};
use crate::{
    birth::{Born, Welcome},
    error::{Error, Result},
    frame::{Frame, encode_cuts, frames},
    http::{Connections, Leave, Timeouts},
    ipc::{
        channel::{Buffer, Channel, Consumption},
        intake::{Conn, IntakeReceiver},
        limits,
        outbox::Outbox,
    },
    listeners::Asked,
    scoreboard::Row,
    settings::Settings,
    signals::WorkerSignals,
    wanted::is_asked_for,
};

/// How often a worker that gives its connections back looks whether they are still wanted, and one that is full whether it is to leave.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// How soon a worker that was told of a closed connection, and can hold no more all the same, looks again: another thread may not have been
/// done with it yet. Also what is left to connections that are cut.
const SHORT_PAUSE: Duration = Duration::from_millis(10);

/// A worker that has been welcomed and does not serve yet.
#[derive(Debug)]
pub(crate) struct Joined {
    worker: Worker,
    settings: Settings,
    prepare: bool,
    channel: Arc<Channel>,
    connections: Connections,
    doors: Arc<Doors>,
    watch: Watch,
    /// What is served, once that is known.
    apps: Arc<OnceLock<Apps>>,
    serving: Serving,
    /// Takes connections; ends with the intake.
    taking: JoinHandle<()>,
    /// Ends when no connection is on its way back any more.
    all_done: mpsc::Receiver<Infallible>,
    _tasks: Tasks,
}

impl Joined {
    /// Waits for the primary's welcome and starts what keeps in touch with it.
    pub(crate) async fn join(born: &Born, notices: bool) -> Result<Self> {
        let system = |doing| move |source| Error::System { doing, source };
        limits::raise();
        let socket = born.take_channel().ok_or(Error::AlreadyStarted)?;
        let watched = socket
            .try_clone()
            .map_err(system("duplicate the channel"))?;
        let channel = Arc::new(Channel::new(socket).map_err(system("use the channel"))?);
        let (welcome, intake, page) = be_welcomed(&channel).await?;
        let settings = welcome.settings;
        let row = Row::open(page.as_fd()).map_err(system("map the scoreboard"))?;
        let intake = Arc::new(IntakeReceiver::new(intake).map_err(system("use the intake"))?);
        let signals = WorkerSignals::catch().map_err(system("catch signals"))?;
        let watch = Watch::start(watched, settings.drain_deadline, settings.exit_grace)
            .map_err(system("start the watch thread"))?;
        let outbox = Arc::new(Outbox::default());
        let worker = Worker::new(Parts {
            id: born.id,
            slot: born.slot,
            generation: welcome.generation,
            workers: settings.workers.max(1),
            secret: welcome
                .secret
                .try_into()
                .map_err(|_| Error::Protocol("a secret of another size"))?,
            hub: Hub::new(Consumption::new(outbox.clone())),
            outbox,
            row: Arc::new(row),
            notices,
        });
        let connections =
            Connections::new(timeouts(&settings), worker.row().clone(), worker.told());
        let limit = settings.max_connections.unwrap_or(usize::MAX);
        let doors = Doors::new(
            limit,
            connections.clone(),
            intake.clone(),
            worker.row().clone(),
        );
        let doors = Arc::new(doors.map_err(system("make an eventfd"))?);
        worker.ports().open(intake.clone());
        let (done, all_done) = mpsc::channel(1);
        let serving = Serving {
            connections: connections.clone(),
            worker: worker.clone(),
            intake: Some(intake.clone()),
            done,
        };
        let apps = Arc::new(OnceLock::new());
        // Before there is an app: listeners of the program's own do not wait for that.
        let taking = tokio::spawn(take(
            intake,
            apps.clone(),
            serving.clone(),
            settings.clone(),
        ));
        let tasks = Tasks(vec![
            taking.abort_handle(),
            spawn(write(channel.clone(), worker.clone())),
            spawn(read(
                channel.clone(),
                worker.clone(),
                connections.clone(),
                doors.clone(),
            )),
            spawn(leaving::leave_when_wanted(worker.clone(), channel.clone())),
            spawn(beat(worker.clone())),
            spawn(tell_of_term(signals, worker.clone())),
            spawn({
                let connections = connections.clone();
                async move { connections.reap().await }
            }),
        ]);
        Ok(Self {
            worker,
            settings,
            prepare: welcome.prepare,
            channel,
            connections,
            doors,
            watch,
            apps,
            serving,
            taking,
            all_done,
            _tasks: tasks,
        })
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Whether it is the first worker of its generation.
    pub(crate) fn is_to_prepare(&self) -> bool {
        self.prepare
    }

    /// Serves until the primary says to leave or is gone, and everything in flight is done.
    pub(crate) async fn serve(self, source: AppSource, asked: &Asked) -> Result<()> {
        let asked = serde_json::to_vec(asked).map_err(Error::Json)?;
        let Self {
            worker,
            settings,
            channel,
            connections,
            doors,
            watch,
            apps,
            serving,
            mut taking,
            mut all_done,
            _tasks,
            ..
        } = self;
        let (worker, settings, connections, watch) = (&worker, &settings, &connections, &watch);
        worker.serves();
        let served = match source(worker.clone()).await {
            Ok(built) => {
                worker.served().begin(connections, &built);
                // Nobody else sets it.
                let _ = apps.set(built);
                worker.outbox().order(&Frame::Listening(&asked));
                let serve = |conn| {
                    if let Some(apps) = apps.get() {
                        serve(conn, apps, &serving);
                    }
                };
                let taken = tokio::select! {
                    // A panic in it is an end too.
                    _ = &mut taking => true,
                    () = doors.serve(serve) => false,
                };
                if !taken {
                    let _ = taking.await;
                }
                doors.close(serve).await;
                drop(serving);
                tracing::debug!(worker = %worker.id(), open = connections.open(), "leaving");
                drain(connections, worker, watch, settings, &mut all_done).await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        worker.served().end();
        worker.close(&channel).await;
        watch.end_within(settings.exit_grace);
        served
    }
}

pub(crate) fn timeouts(settings: &Settings) -> Timeouts {
    Timeouts {
        first_byte: settings.first_byte_timeout,
        head: settings.header_timeout,
        idle: settings.idle_timeout,
        linger: settings.linger,
    }
}

/// Waits for the primary's answer to the hello.
async fn be_welcomed(channel: &Channel) -> Result<(Welcome, OwnedFd, OwnedFd)> {
    let mut buffer = Buffer::new();
    let received = channel
        .receive(&mut buffer)
        .await
        .map_err(|source| Error::System {
            doing: "read from the primary",
            source,
        })?;
    let Some(received) = received else {
        return Err(Error::Orphaned {
            reason: "its primary is gone",
        });
    };
    let Some(Ok(Frame::Welcome(welcome))) = frames(buffer.get(received.len)).next() else {
        return Err(Error::Protocol("no welcome"));
    };
    let welcome = serde_json::from_slice(welcome).map_err(Error::Json)?;
    let [intake, page] = received
        .fds
        .try_into()
        .map_err(|_| Error::Protocol("a welcome without its descriptors"))?;
    Ok((welcome, intake, page))
}

/// Takes connections until the intake is finished: by the primary's order, or by its death.
async fn take(
    intake: Arc<IntakeReceiver>,
    apps: Arc<OnceLock<Apps>>,
    serving: Serving,
    settings: Settings,
) {
    take_all(&intake, &apps, &serving, &settings).await;
    serving.worker.ports().end();
}

async fn take_all(
    intake: &IntakeReceiver,
    apps: &OnceLock<Apps>,
    serving: &Serving,
    settings: &Settings,
) {
    let Serving {
        connections,
        worker,
        ..
    } = serving;
    let limit = settings.max_connections.unwrap_or(usize::MAX);
    let mut tight = false;
    loop {
        let batch = match intake.receive().await {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(worker = %worker.id(), %error, "cannot take connections");
                return;
            }
        };
        let row = worker.row();
        row.took((batch.conns.len() + batch.lost) as u64);
        if batch.lost > 0 {
            row.lost(batch.lost as u64);
            tracing::error!(worker = %worker.id(), connections = batch.lost, "lost in hand-over: this worker is out of descriptors");
        }
        tight |= batch.conns.iter().any(|conn| limits::is_full(&conn.fd));
        let apps = apps.get().map_or(&[][..], |apps| apps);
        for conn in batch.conns {
            if is_asked_for(conn.listener) {
                ports::route(worker, conn);
            } else {
                serve(conn, apps, serving);
            }
        }
        // Once tight, numbers tell nothing any more: what is free may be below those in use.
        tight = tight && !intake.has_reserve();
        let full = || connections.open() >= limit || (tight && !intake.has_room());
        if full() {
            // What waits meanwhile stays in the intake, from where the primary takes it to a worker with room.
            row.pause(true);
            // Of connections it is told. Of the order to leave, and of descriptors that the program closes, it is not.
            let mut pause = SECOND_LOOK;
            while full() && !row.is_to_leave() && worker.is_connected() {
                let told = tokio::time::timeout(pause, row.freed()).await.is_ok();
                pause = if told { SHORT_PAUSE } else { SECOND_LOOK };
            }
            row.pause(false);
            row.beat();
        }
        if tight && !intake.has_room() {
            // It leaves, and has no descriptors for what is left: the primary takes that back.
            return;
        }
    }
}

fn serve(conn: Conn, apps: &[Arc<dyn App>], serving: &Serving) {
    match apps.get(usize::from(conn.app)) {
        Some(app) => app.clone().spawn(conn, serving),
        None => {
            tracing::error!(
                "a connection is closed: it is for an app that this program does not have"
            );
            serving.worker.row().closed();
        }
    }
}

/// Lets what is in flight finish and gives back or closes the rest, until the drain deadline.
async fn drain(
    connections: &Connections,
    worker: &Worker,
    watch: &Watch,
    settings: &Settings,
    all_done: &mut mpsc::Receiver<Infallible>,
) {
    watch.end_within(settings.drain_deadline + settings.exit_grace);
    let deadline = tokio::time::sleep(settings.drain_deadline);
    tokio::pin!(deadline);
    let mut release = worker.row().is_to_release();
    let mut sleepers = Default::default();
    if release {
        sleepers = connections.release();
    } else {
        connections.leave(Leave::Close);
    }
    worker.leave();
    let finished = async {
        all_done.recv().await;
        connections.all_closed().await;
        worker.ports().held().zero().await;
    };
    tokio::pin!(finished);
    loop {
        tokio::select! {
            () = &mut finished => return,
            () = &mut deadline => break,
            () = sleepers.wake(), if !sleepers.is_empty() => {}
            // The cluster may end while this worker leaves: then nobody takes its connections any more.
            () = tokio::time::sleep(SECOND_LOOK), if release => if !worker.row().is_to_release() {
                release = false;
                connections.leave(Leave::Close);
            },
        }
    }
    let (cut, requests) = connections.cut();
    // The program's own end with the process.
    let cut = cut + worker.ports().held().get();
    tracing::warn!(worker = %worker.id(), connections = cut, requests = requests.total, "cut at the drain deadline");
    if requests.total > 0 {
        worker.outbox().order(&Frame::Cut(&encode_cuts(&requests)));
    }
    // They end as soon as their tasks run; one that blocks its thread is left to the exit.
    let _ = tokio::time::timeout(SHORT_PAUSE, finished).await;
}

fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(future).abort_handle()
}

/// Tasks of the worker's own; they end with it.
#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
