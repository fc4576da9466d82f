//! What the program may do with one worker and its process.

use std::process::ExitStatus;

use super::{Command, Ticket, WorkerHandle};
use crate::{
    error::{Error, Result},
    event::Exit,
    signal::Signal,
};

/// What the program wants of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Disconnect,
    Kill(Signal),
    Signal(Signal),
}

impl WorkerHandle {
    /// Tells the worker to leave (Node's `worker.disconnect()`): it gets no more connections, finishes what is in flight, gives its idle
    /// connections to others, closes its channel and ends with code 0.
    ///
    /// Acts at once; a second call changes nothing. The ticket completes when the process has ended; it may be dropped. At the
    /// [drain deadline](crate::ClusteredServer::drain_deadline) what is left is cut, and a worker that does not end then is killed.
    /// [`exited_after_disconnect`](Self::exited_after_disconnect) is true then.
    ///
    /// A `ClusteredServer` starts another worker in its place at once; for a restart without a moment of one worker fewer there is
    /// [`Primary::restart`](crate::Primary::restart).
    pub fn disconnect(&self) -> Ticket<Exit> {
        self.wish(Wish::Disconnect)
    }

    /// Ends the worker, gracefully if it can be (Node's `worker.kill()`, up to Node 17): as [`disconnect`](Self::disconnect), and at
    /// the drain deadline it is ended by `signal`.
    ///
    /// A worker that has been told to leave already is not waited for again: it is ended at once. Called twice, it ends the worker at once
    /// too. To be ended means: it restores the signal's default action and raises it, so that [`Exit::signal`] shows it; if that has not
    /// ended it after 1 s (it hangs, or the signal is none that ends), it is killed. [`Exit`] shows code 0 if it was done before.
    ///
    /// Acts at once. The ticket completes when the process has ended; it may be dropped. To have it end without any grace, see
    /// [`process().kill(signal)`](WorkerProcess::kill).
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use axum_cluster::{Signal, WorkerHandle};
    /// # async fn example(worker: WorkerHandle) {
    /// let leaving = worker.disconnect();
    /// if tokio::time::timeout(Duration::from_secs(2), leaving).await.is_err() {
    ///     let exit = worker.kill(Signal::Term).await;
    ///     println!("worker {} had to be killed: {:?}", worker.id(), exit.signal());
    /// }
    /// # }
    /// ```
    pub fn kill(&self, signal: Signal) -> Ticket<Exit> {
        self.wish(Wish::Kill(signal))
    }

    /// Its process (Node's `worker.process`).
    pub fn process(&self) -> WorkerProcess {
        WorkerProcess {
            worker: self.clone(),
        }
    }

    fn wish(&self, wish: Wish) -> Ticket<Exit> {
        // A loop that has ended has no workers.
        let _ = self.commands().send(Command::Worker(self.id(), wish));
        Ticket {
            done: Box::pin(self.exited()),
        }
    }
}

/// The process of a worker; see [`WorkerHandle::process`]. Goes on to answer after it has ended.
#[derive(Clone, Debug)]
pub struct WorkerProcess {
    worker: WorkerHandle,
}

impl WorkerProcess {
    pub(super) fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Its process id. Another process may have it once this one [has ended](Self::exit_status).
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// How it ended; `None` while it lives.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.worker.exit().map(|exit| exit.status)
    }

    /// Signals the process at once, without any grace (Node's `worker.process.kill()`). Never waits, and never hits a process that
    /// has the pid of one that has ended.
    ///
    /// `Term`, `Int` and `Hup`, which a worker of this crate otherwise catches, end it as in Node: it is ended by the signal, as
    /// [`WorkerHandle::kill`] describes. Any other goes to the process as it is.
    ///
    /// [`exited_after_disconnect`](WorkerHandle::exited_after_disconnect) is false then, unless it was told to leave before: a
    /// `ClusteredServer` treats it as a crash and replaces the worker.
    ///
    /// # Errors
    ///
    /// [`Gone`](Error::Gone) when it has ended.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        if self.worker.is_dead() {
            return Err(Error::Gone);
        }
        let command = Command::Worker(self.worker.id(), Wish::Signal(signal));
        self.worker
            .commands()
            .send(command)
            .map_err(|_| Error::Gone)
    }
}
