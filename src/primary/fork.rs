//! Starting a worker by hand, and how it may differ from its siblings.

use std::{
    ffi::OsString,
    fmt,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{ChildStderr, ChildStdout, Stdio},
    sync::mpsc::SyncSender,
};

use super::{Command, Primary, Ticket, WorkerHandle, WorkerProcess};
use crate::error::{Error, Result};

/// What every fork of a `Cluster` is started with, unless it says otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forks {
    pub(crate) args: Option<Vec<OsString>>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) silent: bool,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// How one worker is to be started; see [`Primary::fork_with`]. Begins as what the [`Cluster`](crate::cluster::Cluster) was told.
pub struct ForkOptions {
    pub(crate) args: Option<Vec<OsString>>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) stdout: Option<Stdio>,
    pub(crate) stderr: Option<Stdio>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

impl ForkOptions {
    pub(crate) fn new(forks: &Forks) -> Self {
        let output = || forks.silent.then(Stdio::piped);
        Self {
            args: forks.args.clone(),
            env: Vec::new(),
            cwd: forks.cwd.clone(),
            stdout: output(),
            stderr: output(),
            uid: forks.uid,
            gid: forks.gid,
        }
    }

    /// What is said otherwise than for all workers, but for arguments and environment.
    pub(super) fn apply(self, command: &mut std::process::Command) {
        if let Some(cwd) = self.cwd {
            command.current_dir(cwd);
        }
        if let Some(stdout) = self.stdout {
            command.stdout(stdout);
        }
        if let Some(stderr) = self.stderr {
            command.stderr(stderr);
        }
        if let Some(gid) = self.gid {
            command.gid(gid);
        }
        if let Some(uid) = self.uid {
            command.uid(uid);
        }
    }

    /// The program's arguments, without its name. Default: the primary's.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// One variable more, or another value of one (Node's `cluster.fork(env)`). The rest is the environment that the primary was started with.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The working directory. Default: where the primary was started.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// Where its standard output goes. With [`Stdio::piped`] it is read from [`WorkerProcess::take_stdout`]. Default: the primary's own.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Where its standard error goes; as [`stdout`](Self::stdout).
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// The user it runs as. Needs the privilege to change it. Default: the primary's.
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// The group it runs as; as [`uid`](Self::uid).
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }
}

impl fmt::Debug for ForkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the environment, which may hold secrets.
        f.debug_struct("ForkOptions")
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .finish_non_exhaustive()
    }
}

/// A worker that is to be started, and who waits for it.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) options: ForkOptions,
    pub(crate) reply: SyncSender<Result<WorkerHandle>>,
}

/// What a worker writes, where it is a pipe.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

impl Primary {
    /// Starts a worker process (Node's `cluster.fork()`), after [`Cluster::start`](crate::cluster::Cluster::start). It gets the next id
    /// and the lowest slot that no living worker has. Nobody starts another when it ends.
    ///
    /// Blocks for the moment that starting a process takes, about a millisecond.
    ///
    /// # Errors
    ///
    /// [`Spawn`](Error::Spawn) when there is no process: no id is used up then, and no event tells of it.
    /// [`Supervised`](Error::Supervised) in a `ClusteredServer`, [`Gone`](Error::Gone) when the cluster ends.
    pub fn fork(&self) -> Result<WorkerHandle> {
        self.fork_with(|options| options)
    }

    /// As [`fork`](Self::fork), otherwise than the cluster was told.
    ///
    /// ```no_run
    /// # fn example(primary: axum_cluster::Primary) -> axum_cluster::Result<()> {
    /// let worker = primary.fork_with(|options| options.env("ROLE", "mailer").args(["--quiet"]))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`fork`](Self::fork).
    pub fn fork_with(
        &self,
        options: impl FnOnce(ForkOptions) -> ForkOptions,
    ) -> Result<WorkerHandle> {
        let forks = self.shared.forks().ok_or(Error::Supervised)?;
        let (reply, forked) = std::sync::mpsc::sync_channel(1);
        let options = options(ForkOptions::new(forks));
        let order = Command::Fork(Box::new(Order { options, reply }));
        self.shared.commands.send(order).map_err(|_| Error::Gone)?;
        forked.recv().map_err(|_| Error::Gone)?
    }

    /// [Disconnects](WorkerHandle::disconnect) every worker that lives (Node's `cluster.disconnect()`). The cluster goes on: more can be forked.
    ///
    /// Acts at once. The ticket completes when all of them have exited (Node's callback comes at the first); it may be dropped.
    /// A `ClusteredServer` replaces them; to end it, see [`shutdown`](Self::shutdown).
    pub fn disconnect(&self) -> Ticket {
        let workers = self.workers();
        let tickets: Vec<_> = workers.iter().map(WorkerHandle::disconnect).collect();
        Ticket {
            done: Box::pin(async move {
                for ticket in tickets {
                    ticket.await;
                }
            }),
        }
    }
}

impl WorkerProcess {
    /// Its standard output, once, where that is a pipe (`silent`, or [`ForkOptions::stdout`]). Read it, or the worker waits once the
    /// pipe is full (64 KiB).
    ///
    /// ```no_run
    /// # fn example(worker: axum_cluster::WorkerHandle) -> std::io::Result<()> {
    /// use std::os::fd::OwnedFd;
    /// if let Some(stdout) = worker.process().take_stdout() {
    ///     let stdout = tokio::net::unix::pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?; // to read it in a runtime
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.worker().pipes().stdout.take()
    }

    /// Its standard error; as [`take_stdout`](Self::take_stdout).
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.worker().pipes().stderr.take()
    }
}
