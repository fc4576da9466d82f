//! Starting: what this process is, and what it goes on with.

use std::{future::Future, pin::Pin};

use tokio::sync::{mpsc, oneshot};

use crate::{
    birth::{Birth, birth},
    cluster::{self, Claim, Primary, Role},
    error::{Error, Result},
    primary::{
        self, Event, Events, Hooks, Image, Origin, Setup, Shared, is_test_binary, program_path,
    },
    server::{ClusteredServer, Source},
    service::{AppMaker, ReadyWhen},
    settings::Settings,
    single::Single,
    sockets::Listener,
    worker::{AppSource, Joined},
};

/// What this process has to do, begun and ready to go on.
pub(crate) enum Part {
    Primary(Running),
    Worker(WorkerPart, Rest),
    Single(Box<Single>, Rest),
}

/// What was told before the first app is known.
pub(crate) struct Rest {
    also: Vec<AppMaker>,
    ready: Option<ReadyWhen>,
}

impl Part {
    /// Keeps it for `Primary::wait` or `Worker::serve`, and says what it is.
    pub(crate) fn keep(self) -> Role {
        let role = match &self {
            Self::Primary(running) => Role::Primary(running.primary.clone()),
            Self::Worker(part, _) => Role::Worker(part.0.worker().clone()),
            Self::Single(single, _) => Role::Worker(single.worker().clone()),
        };
        cluster::keep(self);
        role
    }
}

/// A worker that has been welcomed.
pub(crate) struct WorkerPart(Box<Joined>);

impl WorkerPart {
    pub(crate) async fn serve(self, app: AppMaker, rest: Rest) -> Result<()> {
        self.0.serve(all(app, rest)).await
    }
}

/// One source of all apps, in the order of their listeners. There are none before the worker is ready.
pub(crate) fn all(app: AppMaker, rest: Rest) -> AppSource {
    Box::new(|worker| {
        Box::pin(async move {
            let mut apps = Vec::with_capacity(1 + rest.also.len());
            for maker in std::iter::once(app).chain(rest.also) {
                apps.push(maker(worker.clone()).await?);
            }
            if let Some(ready) = rest.ready {
                ready(worker).await.map_err(Error::Ready)?;
            }
            Ok(apps)
        })
    })
}

/// Finds out what this process is and begins it.
pub(crate) async fn begin(server: ClusteredServer) -> Result<Part> {
    let claim = Claim::new()?;
    let part = match birth() {
        Birth::Orphan(reason) => return Err(Error::Orphaned { reason }),
        Birth::Worker(born) => {
            let joined = Joined::join(born, server.hooks.wants().notices).await?;
            cluster::announce_worker(joined.worker());
            let rest = Rest {
                also: server.also,
                ready: server.ready,
            };
            Part::Worker(WorkerPart(Box::new(joined)), rest)
        }
        Birth::Plain => begin_primary(server).await?,
    };
    claim.keep();
    Ok(part)
}

async fn begin_primary(server: ClusteredServer) -> Result<Part> {
    let ClusteredServer {
        sources,
        also,
        settings,
        hooks,
        program,
        prepare,
        ready,
    } = server;
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let settings = settings.overridden(
        variable("AXUM_CLUSTER_WORKERS").as_deref(),
        variable("AXUM_CLUSTER_SCHEDULING").as_deref(),
    )?;
    let image = match &program {
        Some(path) => Image::open(path)?,
        None => Image::running()?,
    };
    if settings.workers > 0 && program.is_none() && is_test_binary(image.path()) {
        return Err(Error::TestBinary {
            program: image.path().to_owned(),
        });
    }
    let program = program.unwrap_or_else(program_path);
    let listeners = bind(sources, settings.backlog).await?;
    if let Some(prepare) = prepare {
        prepare().await.map_err(Error::Prepare)?;
    }
    let addresses = listeners
        .iter()
        .map(|(listener, _)| listener.local.clone())
        .collect();
    let (command, commands) = mpsc::unbounded_channel();
    let shared = Shared::new(command, addresses);
    let primary = Primary::new(shared.clone());
    let (queue, events) = mpsc::unbounded_channel();
    let queue = Events {
        queue,
        wants: hooks.wants(),
    };
    let mut secret = [0; 64];
    fill_random(&mut secret)?;
    cluster::announce_primary(&primary);
    let running = |result| Running {
        primary: primary.clone(),
        hooks,
        events,
        result,
        ended: false,
    };
    if settings.workers == 0 {
        let (end, result) = oneshot::channel();
        let single = Single::new(
            running(result),
            end,
            settings,
            listeners,
            secret,
            shared,
            commands,
            queue,
        )?;
        return Ok(Part::Single(Box::new(single), Rest { also, ready }));
    }
    mind_threads(&settings);
    let setup = Setup {
        settings,
        image,
        program,
        origin: Origin::capture(),
        listeners,
        secret: secret.to_vec(),
        shared,
        commands,
        events: queue,
    };
    Ok(Part::Primary(running(start_thread(setup)?)))
}

async fn bind(sources: Vec<(Source, u16)>, backlog: u32) -> Result<Vec<(Listener, u16)>> {
    let mut listeners = Vec::new();
    for (source, app) in sources {
        match source {
            Source::Addresses(addresses) => {
                for address in addresses {
                    listeners.push((Listener::bind(&address, backlog).await?, app));
                }
            }
            Source::Made(make) => {
                let made = make().map_err(|source| Error::System {
                    doing: "make the listener in `bind_with`",
                    source,
                })?;
                listeners.push((Listener::ready_made(made)?, app));
            }
        }
    }
    Ok(listeners)
}

fn fill_random(secret: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < secret.len() {
        filled +=
            rustix::rand::getrandom(&mut secret[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Error::System {
                doing: "get random bytes",
                source: error.into(),
            })?;
    }
    Ok(())
}

/// The primary's loop has a thread and a runtime of its own: nothing that the program does delays accepting.
fn start_thread(setup: Setup) -> Result<oneshot::Receiver<Result<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let (end, result) = oneshot::channel();
    let shared = setup.shared.clone();
    std::thread::Builder::new()
        .name("cluster primary".into())
        .spawn(move || {
            // As a task of its own: what `block_on` is given is polled at every wake-up of any task, and accepting wakes often.
            let ended = tokio::task::LocalSet::new().block_on(&runtime, async {
                tokio::task::spawn_local(primary::run(setup)).await
            });
            let ended = ended.unwrap_or_else(|panic| Err(Error::Runtime(panic.into())));
            shared.end();
            // Nobody listens when the program has dropped the future of `serve`.
            let _ = end.send(ended);
        })
        .map_err(Error::Runtime)?;
    Ok(result)
}

/// Says once when the program's runtime has a thread for every core in every worker.
fn mind_threads(settings: &Settings) {
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if threads > 1 && threads * settings.workers as usize > 2 * cores {
        tracing::info!(
            threads,
            workers = settings.workers,
            cores,
            "each worker process starts this many runtime threads; `#[tokio::main(flavor = \"current_thread\")]` is enough for a worker"
        );
    }
}

/// The cluster runs; this end runs the hooks.
pub(crate) struct Running {
    pub(crate) primary: Primary,
    hooks: Hooks,
    events: mpsc::UnboundedReceiver<Event>,
    result: oneshot::Receiver<Result<()>>,
    ended: bool,
}

impl Running {
    /// Runs hooks until the cluster has ended; begins a graceful end when `graceful` completes.
    pub(crate) async fn wait(
        mut self,
        graceful: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ) -> Result<()> {
        let mut graceful = graceful.unwrap_or_else(|| Box::pin(std::future::pending()));
        let mut asked = false;
        loop {
            tokio::select! {
                biased;
                () = &mut graceful, if !asked => {
                    asked = true;
                    drop(self.primary.shutdown());
                }
                event = self.events.recv() => match event {
                    Some(event) => self.hooks.call(event, &self.primary),
                    // The loop has ended, and every event of it has been seen.
                    None => break,
                },
            }
        }
        self.ended = true;
        (&mut self.result).await.unwrap_or_else(|_| {
            Err(Error::Runtime(std::io::Error::other(
                "the primary's thread panicked",
            )))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.primary.shutdown());
        }
    }
}
