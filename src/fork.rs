//! The low level: a cluster of workers that the program forks itself.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use crate::{
    cluster::Role,
    error::Result,
    primary::{Forks, Hooks},
    server::ClusteredServer,
    settings::{Scheduling, Settings},
    start::{Part, begin},
};

/// A cluster of workers that the program forks itself, for programs that are no HTTP servers or want the control themselves.
///
/// Nothing is forked unless the program asks, and nothing is started again when it ends. What is said here holds for every fork
/// (Node's `cluster.settings`); it cannot be changed after [`start`](Self::start).
///
/// ```no_run
/// use axum_cluster::cluster::{Cluster, Event, Role};
///
/// # async fn example() -> axum_cluster::Result<()> {
/// match Cluster::new().start().await? {
///     Role::Primary(primary) => {
///         let mut events = primary.events();
///         primary.fork()?;
///         while let Some(event) = events.recv().await {
///             if let Event::Exit { worker, exit } = event {
///                 println!("worker {} ended: {}", worker.id(), exit.status);
///                 primary.fork()?;
///             }
///         }
///     }
///     Role::Worker(worker) => {
///         println!("worker {} runs", worker.id());
///         worker.draining().await; // the primary disconnects it, or is gone
///         worker.disconnect().await; // sends what it has still to send
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// A worker that was told to leave ends when its `main` returns; one that does not within the [drain deadline](Self::drain_deadline)
/// is killed. In the primary, TERM and INT disconnect every worker; when the last has ended, [`Events`](crate::cluster::Events) end.
///
/// What a [`ClusteredServer`] does with its workers by itself, the program does here: nobody is started again, aborted when it hangs, or
/// restarted by HUP; there is no time within which a worker has to listen, and no upgrade in place: workers that never `serve` have no
/// connections that could wait for it.
#[derive(Debug, Default)]
#[must_use = "a cluster does nothing until it is started"]
pub struct Cluster {
    exec: Option<PathBuf>,
    forks: Forks,
    scheduling: Scheduling,
    drain_deadline: Option<Duration>,
}

impl Cluster {
    /// A cluster whose workers run this program again, with the same arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// The program that workers run. Default: this one. A `#!` script is refused.
    pub fn exec(mut self, program: impl Into<PathBuf>) -> Self {
        self.exec = Some(program.into());
        self
    }

    /// The arguments that workers get, without the program's name. Default: the primary's.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.forks.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// The workers' working directory. Default: where the primary was started. One that is not there makes every fork fail.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.forks.cwd = Some(directory.into());
        self
    }

    /// Whether what workers print is for the program to read, from [`take_stdout`](crate::WorkerProcess::take_stdout) and
    /// [`take_stderr`](crate::WorkerProcess::take_stderr). Default: no, they print where the primary does.
    pub fn silent(mut self, silent: bool) -> Self {
        self.forks.silent = silent;
        self
    }

    /// The user that workers run as. Needs the privilege to change it. Default: the primary's.
    pub fn uid(mut self, uid: u32) -> Self {
        self.forks.uid = Some(uid);
        self
    }

    /// The group that workers run as; as [`uid`](Self::uid).
    pub fn gid(mut self, gid: u32) -> Self {
        self.forks.gid = Some(gid);
        self
    }

    /// Who gets a new connection of a listener that workers [share](crate::cluster::listen). `AXUM_CLUSTER_SCHEDULING` overrides it.
    ///
    /// Such connections always go through the primary: `Shared` is rotation here.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.scheduling = scheduling;
        self
    }

    /// How long a worker that was told to leave may take. Default: 30 s.
    pub fn drain_deadline(mut self, time: Duration) -> Self {
        self.drain_deadline = Some(time);
        self
    }

    /// Starts the cluster and says what this process is in it.
    ///
    /// # Errors
    ///
    /// [`AlreadyStarted`](crate::Error::AlreadyStarted) for the second cluster of a process, [`Program`](crate::Error::Program) when
    /// the program of [`exec`](Self::exec) cannot be run, [`TestBinary`](crate::Error::TestBinary) and
    /// [`Orphaned`](crate::Error::Orphaned).
    pub async fn start(self) -> Result<Role> {
        let default = Settings::default();
        let server = ClusteredServer {
            sources: Vec::new(),
            also: Vec::new(),
            settings: Settings {
                // Not a number of workers; 0 would be this process.
                workers: 1,
                scheduling: self.scheduling,
                drain_deadline: self.drain_deadline.unwrap_or(default.drain_deadline),
                ..default
            },
            hooks: Hooks::streamed(),
            program: self.exec,
            prepare: None,
            ready: None,
            schedule: None,
            forks: Some(self.forks),
        };
        begin(server).await.map(Part::keep)
    }
}
