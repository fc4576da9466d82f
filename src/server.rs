//! The builder, and the future that runs what it built.

use std::{
    fmt,
    future::{Future, IntoFuture},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::Pin,
};

use http::{Request, Response};
use tower_service::Service;

use crate::{
    address::{Address, Addresses},
    cluster::{self, Primary},
    error::{BoxError, Error, Result},
    http::RequestBody,
    primary::{Forks, Hooks},
    schedule::{Custom, Schedule},
    service::{AppMaker, ReadyWhen, from_service},
    settings::{Scheduling, Settings},
    start::{Part, begin},
    worker::Worker,
};

/// Where connections come from: addresses to bind, or a closure that makes the listener.
pub(crate) enum Source {
    Addresses(Vec<Address>),
    Made(Box<dyn FnOnce() -> io::Result<OwnedFd> + Send>),
}

pub(crate) type Prepare =
    Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send>;

/// A clustered HTTP server: a primary process that owns the sockets, and worker processes that run the app.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use axum_cluster::ClusteredServer;
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> axum_cluster::Result<()> {
///     let app = Router::new().route("/", get(|| async { "hello world" }));
///     ClusteredServer::bind("127.0.0.1:8000").workers(4).serve(app).await
/// }
/// ```
///
/// Every process runs `main` from the top; everything above `serve` runs in all of them. At `serve` the primary binds the addresses,
/// starts the workers and supervises them, and a worker serves. What a worker was told here about addresses, workers and times is not
/// looked at: it takes the primary's.
#[must_use = "a server does nothing until it serves"]
pub struct ClusteredServer {
    pub(crate) sources: Vec<(Source, u16)>,
    pub(crate) also: Vec<AppMaker>,
    pub(crate) settings: Settings,
    pub(crate) schedule: Option<Custom>,
    pub(crate) hooks: Hooks,
    pub(crate) program: Option<PathBuf>,
    pub(crate) prepare: Option<Prepare>,
    pub(crate) ready: Option<ReadyWhen>,
    /// The program forks its workers itself.
    pub(crate) forks: Option<Forks>,
}

impl ClusteredServer {
    /// Listens on one address or several: `"127.0.0.1:8000"`, `"localhost:8000"`, `("0.0.0.0", 8000)`, a `SocketAddr`,
    /// `"unix:/run/app.sock"`, or an array or vector of these. Port 0 is any free port, the same for all workers.
    ///
    /// Nothing is bound before `serve`, and then only in the primary. A unix socket that nobody listens on is replaced, and removed
    /// at the end; a live one, and a file that is no socket, are left alone and are an error.
    pub fn bind(addresses: impl Addresses) -> Self {
        Self::from_source(Source::Addresses(addresses.addresses()))
    }

    /// Takes the listener that `make` makes (a std `TcpListener` or `UnixListener`, or any `OwnedFd` of a listening socket).
    ///
    /// `make` is called once, in the primary only. A ready-made listener is not accepted: each worker would bind it again.
    pub fn bind_with<L: Into<OwnedFd>>(
        make: impl FnOnce() -> io::Result<L> + Send + 'static,
    ) -> Self {
        Self::from_source(Source::Made(Box::new(|| make().map(Into::into))))
    }

    fn from_source(source: Source) -> Self {
        Self {
            sources: vec![(source, 0)],
            also: Vec::new(),
            settings: Settings::default(),
            schedule: None,
            hooks: Hooks::default(),
            program: None,
            prepare: None,
            ready: None,
            forks: None,
        }
    }

    /// How many worker processes. Default: [`available_parallelism`](std::thread::available_parallelism), which honours cgroup quotas
    /// and affinity. 0 serves in this one process, for debuggers and for one test a binary. The variable `AXUM_CLUSTER_WORKERS` overrides it.
    pub fn workers(mut self, workers: u32) -> Self {
        self.settings.workers = workers;
        self
    }

    /// Who gets a new connection. Default: [`Scheduling::RoundRobin`]. The variable `AXUM_CLUSTER_SCHEDULING` overrides it.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.settings.scheduling = scheduling;
        self.schedule = None;
        self
    }

    /// Lets the program choose who gets a new connection, in place of a [`scheduling`](Self::scheduling).
    ///
    /// Asked in the primary for each connection, also for those that come back when a worker leaves, and shown only workers that have room.
    /// Connections are not moved for balance ([`rebalance`](Self::rebalance)) then. The variable `AXUM_CLUSTER_SCHEDULING` overrides it.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use axum_cluster::{Candidate, ClusteredServer};
    ///
    /// // The first worker serves this machine, the others everybody else; without others, the rotation decides.
    /// let server = ClusteredServer::bind("0.0.0.0:8000").schedule_with(
    ///     |peer: Option<SocketAddr>, workers: &[Candidate]| match peer {
    ///         Some(peer) if peer.ip().is_loopback() => Some(workers[0].id),
    ///         _ => workers[1..].iter().min_by_key(|worker| worker.connections).map(|worker| worker.id),
    ///     },
    /// );
    /// ```
    pub fn schedule_with(mut self, schedule: impl Schedule + 'static) -> Self {
        self.settings.scheduling = Scheduling::default();
        self.schedule = Some(Custom::new(schedule));
        self
    }

    /// How many clients the kernel keeps waiting while all workers are busy. Default 1024 (the system's own limit also holds).
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.settings.backlog = backlog;
        self
    }

    /// Starts workers from this program instead of the one that runs. A `#!` script is refused.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Runs once a generation, before any worker of it serves: the place for migrations.
    ///
    /// At the first start in the primary, after its addresses are bound: if it fails, nothing is started and `serve` returns
    /// [`Error::Prepare`]. At a restart or an upgrade in the first new worker, with the program as it is then: if it fails, that worker
    /// ends, and the restart is abandoned. After an upgrade the new primary does not run it again.
    pub fn prepare<F>(mut self, prepare: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.prepare = Some(Box::new(|| Box::pin(prepare())));
        self
    }

    /// Has each worker say that it listens only when this future has completed: caches are warm, a pool is connected. Until then it
    /// gets no connection, and a restart keeps the old worker. Runs in workers, after the app is built; by default nothing is waited for.
    ///
    /// An error ends that worker, as one of [`serve_with`](Self::serve_with)'s closure does; the [boot timeout](Self::boot_timeout) holds.
    ///
    /// ```
    /// # use axum_cluster::ClusteredServer;
    /// # async fn warm_up() -> std::io::Result<()> { Ok(()) }
    /// let server = ClusteredServer::bind("127.0.0.1:8000").ready_when(|_worker| async { Ok(warm_up().await?) });
    /// ```
    pub fn ready_when<F>(mut self, ready: impl FnOnce(Worker) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.ready = Some(Box::new(|worker| Box::pin(ready(worker))));
        self
    }

    /// Serves a second address, or several, with a router of its own, in the same workers.
    #[cfg(feature = "axum")]
    pub fn also(mut self, addresses: impl Addresses, router: axum::Router) -> Self {
        self.also.push(crate::service::from_router(router));
        let app = u16::try_from(self.also.len()).unwrap_or(u16::MAX);
        self.sources
            .push((Source::Addresses(addresses.addresses()), app));
        self
    }

    /// Serves an axum router: the three-line form.
    #[cfg(feature = "axum")]
    pub fn serve(self, router: axum::Router) -> Serve {
        Serve::new(self, crate::service::from_router(router))
    }

    /// Serves the router that `build` makes, in workers only: the primary opens no database pool.
    ///
    /// An error of `build` ends that worker; `?` works on any error in it.
    #[cfg(feature = "axum")]
    pub fn serve_with<F>(self, build: impl FnOnce(Worker) -> F + Send + 'static) -> Serve
    where
        F: Future<Output = Result<axum::Router, BoxError>> + Send + 'static,
    {
        let maker: AppMaker = Box::new(move |worker| {
            Box::pin(async move {
                let router = build(worker.clone()).await.map_err(Error::App)?;
                Ok(crate::service::router_app(router, &worker))
            })
        });
        Serve::new(self, maker)
    }

    /// Serves any tower service of requests. The route of its requests is not known to notices and metrics.
    ///
    /// Its request body is [`RequestBody`], or any type made from it, such as axum's `Body`.
    pub fn serve_service<S, ReqBody, ResBody>(self, service: S) -> Serve
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
        Serve::new(self, from_service(service))
    }

    /// Starts the cluster and says what this process is in it, for programs that want the control themselves.
    ///
    /// The primary goes on with [`Primary::wait`], which calls the hooks, or with [`Primary::events`] instead of hooks; a worker with [`Worker::serve_service`], or with axum `serve`. With `workers(0)` the one process is a worker.
    ///
    /// # Errors
    ///
    /// As `serve`.
    pub async fn start(mut self) -> Result<Role> {
        self.hooks.stream();
        begin(self).await.map(Part::keep)
    }
}

impl fmt::Debug for ClusteredServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusteredServer")
            .field("settings", &self.settings)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

/// What a process is in the cluster that it has [started](ClusteredServer::start).
#[derive(Debug)]
pub enum Role {
    /// The primary: supervises while [`Primary::wait`] is awaited or not; hooks run only in that.
    Primary(Primary),
    /// A worker: serves with [`Worker::serve`].
    Worker(Worker),
}

/// A server that is ready to run: await it, or call [`run`](Serve::run) where there is no runtime.
///
/// In the primary it completes when the cluster has ended; in a worker, when the worker has drained and its messages are flushed, so what
/// stands below it runs in every process. Dropped in the primary, it ends the cluster gracefully.
#[must_use = "a server does nothing unless awaited or `run()`"]
pub struct Serve {
    server: ClusteredServer,
    app: AppMaker,
    graceful: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Serve {
    fn new(server: ClusteredServer, app: AppMaker) -> Self {
        Self {
            server,
            app,
            graceful: None,
        }
    }

    /// Ends the cluster gracefully when `signal` completes, as TERM does. Polled in the primary only.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.graceful = Some(Box::pin(signal));
        self
    }

    /// Runs the server on a current-thread runtime of its own, for a plain `fn main`.
    ///
    /// # Errors
    ///
    /// [`Error::InsideRuntime`] inside a runtime, [`Error::Runtime`] when none can be had; otherwise as awaiting it.
    pub fn run(self) -> Result<()> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(Error::InsideRuntime);
        }
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?
            .block_on(self.into_future())
    }

    async fn serve(self) -> Result<()> {
        match begin(self.server).await? {
            Part::Primary(running) => running.wait(self.graceful).await,
            Part::Worker(joined, rest) => joined.serve(self.app, rest).await,
            Part::Single(single, rest) => single.serve(self.app, rest, self.graceful).await,
        }
    }
}

impl IntoFuture for Serve {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.serve())
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Primary {
    /// Waits until the cluster has ended, running the hooks meanwhile, after [`ClusteredServer::start`].
    ///
    /// # Errors
    ///
    /// What ended the cluster, such as [`Error::NeverReady`]; [`Error::AlreadyStarted`] when somebody else waits.
    pub async fn wait(&self) -> Result<()> {
        match cluster::take_kept() {
            Some(Part::Primary(running)) => running.wait(None).await,
            _ => Err(Error::AlreadyStarted),
        }
    }
}
