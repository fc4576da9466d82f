//! Starting: what this process is, and what it goes on with.

mod sources;

use http::{Request, Response};
use tokio::sync::{mpsc, oneshot};
use tower_service::Service;

use self::sources::{asked, bind, inherit};
use crate::{
    birth::{Birth, birth},
    cluster::{self, Claim, Primary, Role},
    error::{BoxError, Error, Result},
    http::RequestBody,
    listeners::Asked,
    primary::{
        self, Estate, Event, Events, Image, Origin, Setup, Shared, is_test_binary, program_path,
    },
    running::Running,
    server::{ClusteredServer, Prepare},
    service::{AppMaker, ReadyWhen, from_service},
    settings::Settings,
    signals,
    single::Single,
    worker::{AppSource, Joined, Worker},
};

/// What this process has to do, begun and ready to go on.
pub(crate) enum Part {
    Primary(Box<Running>),
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
            Self::Worker(part, _) => Role::Worker(part.joined.worker().clone()),
            Self::Single(single, _) => Role::Worker(single.worker().clone()),
        };
        cluster::keep(self);
        role
    }
}

/// A worker that has been welcomed.
pub(crate) struct WorkerPart {
    joined: Box<Joined>,
    asked: Asked,
    prepare: Option<Prepare>,
}

impl WorkerPart {
    pub(crate) async fn serve(self, app: AppMaker, rest: Rest) -> Result<()> {
        let prepare = self.prepare.filter(|_| self.joined.is_to_prepare());
        let apps = all(app, rest);
        let source: AppSource = Box::new(|worker| {
            Box::pin(async move {
                if let Some(prepare) = prepare {
                    prepare().await.map_err(Error::Prepare)?;
                }
                apps(worker).await
            })
        });
        self.joined.serve(source, &self.asked).await
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
            if let Some(hook) = server.hooks.reopen {
                tokio::spawn(joined.worker().clone().on_reopen(hook));
            }
            cluster::announce_worker(joined.worker());
            let part = WorkerPart {
                joined: Box::new(joined),
                asked: asked(&server.sources),
                prepare: server.prepare,
            };
            let rest = Rest {
                also: server.also,
                ready: server.ready,
            };
            Part::Worker(part, rest)
        }
        Birth::Plain => begin_primary(server, None).await?,
        Birth::Successor(left) => {
            let estate = left
                .take()
                .ok_or(Error::AlreadyStarted)?
                .map_err(|source| Error::Succession { source })
                .and_then(Estate::new)?;
            begin_primary(server, Some(estate)).await?
        }
    };
    claim.keep();
    Ok(part)
}

/// `estate`: what the program before this one left, which this one goes on with.
async fn begin_primary(server: ClusteredServer, mut estate: Option<Estate>) -> Result<Part> {
    let ClusteredServer {
        sources,
        also,
        settings,
        schedule,
        hooks,
        program,
        prepare,
        ready,
        forks,
    } = server;
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let scheduling = variable("AXUM_CLUSTER_SCHEDULING");
    let schedule = schedule.filter(|_| scheduling.is_none());
    let settings = match &forks {
        // How many workers there are nobody decides here.
        Some(_) => settings.overridden(None, scheduling.as_deref())?,
        None => settings.overridden(
            variable("AXUM_CLUSTER_WORKERS").as_deref(),
            scheduling.as_deref(),
        )?,
    };
    // Looked for again at each restart, when the working directory may be another.
    let program = program.map(|path| std::path::absolute(&path).unwrap_or(path));
    let image = match &program {
        Some(path) => Image::open(path)?,
        None => Image::running()?,
    };
    let own = program.is_none();
    if settings.workers > 0 && own && is_test_binary(image.path()) {
        return Err(Error::TestBinary {
            program: image.path().to_owned(),
        });
    }
    let listeners = match &mut estate {
        None => bind(sources, settings.backlog).await?,
        Some(estate) => inherit(sources, settings.backlog, estate.take_listeners()).await,
    };
    // Later generations: the first of their workers runs it.
    if let (Some(prepare), None) = (prepare, &estate) {
        prepare().await.map_err(Error::Prepare)?;
    }
    let addresses: Vec<_> = listeners
        .here
        .iter()
        .map(|bound| (bound.name.address(), bound.listener.local.clone()))
        .collect();
    let bound = addresses.iter().map(|(_, bound)| bound.clone()).collect();
    let (command, commands) = mpsc::unbounded_channel();
    let shared = Shared::new(command, bound, forks);
    let primary = Primary::new(shared.clone());
    let (queue, events) = mpsc::unbounded_channel();
    let queue = Events {
        queue,
        wants: hooks.wants(),
    };
    queue.send(Event::Setup);
    let mut secret = [0; 64];
    match &estate {
        Some(estate) if estate.secret().len() == secret.len() => {
            secret.copy_from_slice(estate.secret());
        }
        _ => fill_random(&mut secret)?,
    }
    cluster::announce_primary(&primary);
    let running = |result| Running {
        primary: primary.clone(),
        hooks,
        first: None,
        events,
        listeners: addresses,
        result,
        ended: false,
    };
    // With workers there, somebody has to look after them.
    if settings.workers == 0 && estate.is_none() {
        let (end, result) = oneshot::channel();
        let single = Single::new(
            running(result),
            end,
            settings,
            listeners.here,
            secret,
            shared,
            commands,
            queue,
        )?;
        return Ok(Part::Single(Box::new(single), Rest { also, ready }));
    }
    mind_threads(&settings);
    let (program, origin) = match &estate {
        Some(estate) => (
            program.unwrap_or_else(|| estate.program().into()),
            estate.origin().clone(),
        ),
        None => (program.unwrap_or_else(program_path), Origin::capture()),
    };
    let blocked = estate.as_ref().map(Estate::blocked);
    let (caught, catches) = oneshot::channel();
    let setup = Setup {
        settings,
        schedule,
        image,
        own,
        program,
        origin,
        listeners: listeners.here,
        dropped: listeners.dropped,
        estate,
        caught,
        secret: secret.to_vec(),
        shared,
        commands,
        events: queue,
    };
    let result = start_thread(setup)?;
    if let Some(blocked) = blocked {
        // Before, a signal would have ended this program.
        let _ = catches.await;
        signals::restore(&blocked);
    }
    Ok(Part::Primary(Box::new(running(result))))
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

impl Worker {
    /// Serves a router in this worker, after [`ClusteredServer::start`]; completes when the worker has drained.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`] when it serves already.
    #[cfg(feature = "axum")]
    pub async fn serve(&self, router: axum::Router) -> Result<()> {
        serve_kept(crate::service::from_router(router)).await
    }

    /// As [`ClusteredServer::serve_service`], in this worker, after [`ClusteredServer::start`]; completes when the worker has drained.
    ///
    /// ```no_run
    /// use std::convert::Infallible;
    ///
    /// use axum_cluster::{ClusteredServer, RequestBody, Role};
    /// use http::{Request, Response};
    /// use tower::service_fn;
    ///
    /// async fn answer(_: Request<RequestBody>) -> Result<Response<String>, Infallible> {
    ///     Ok(Response::new("hello".to_owned()))
    /// }
    ///
    /// # async fn example() -> axum_cluster::Result<()> {
    /// match ClusteredServer::bind("127.0.0.1:8000").start().await? {
    ///     Role::Primary(primary) => primary.wait().await,
    ///     Role::Worker(worker) => worker.serve_service(service_fn(answer)).await,
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`] when it serves already.
    pub async fn serve_service<S, ReqBody, ResBody>(&self, service: S) -> Result<()>
    where
        S: Service<
                Request<ReqBody>,
                Response = Response<ResBody>,
                Error: Into<BoxError>,
                Future: Send,
            > + Clone
            + Send
            + 'static,
        ReqBody: From<RequestBody> + 'static,
        ResBody: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        serve_kept(from_service(service)).await
    }
}

async fn serve_kept(app: AppMaker) -> Result<()> {
    match cluster::take_kept() {
        Some(Part::Worker(joined, rest)) => joined.serve(app, rest).await,
        Some(Part::Single(single, rest)) => single.serve(app, rest, None).await,
        _ => Err(Error::AlreadyStarted),
    }
}
