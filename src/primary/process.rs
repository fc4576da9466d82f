//! A worker's process: started, watched, signalled and reaped through one pidfd, so no reused pid is ever hit.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Command, ExitStatus},
};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    fork::{ForkOptions, Pipes},
    image::{Image, Origin},
};
use crate::{
    birth::VARIABLE,
    error::{Error, Result},
    id::{Slot, WorkerId},
    reactor, signals,
};

/// A child that has not been reaped. Dropping it reaps nothing: somebody awaits [`Process::exited`] first.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Runs the image as worker `id`, its channel as standard input.
    pub(crate) fn spawn(
        image: &Image,
        origin: &Origin,
        id: WorkerId,
        slot: Slot,
        channel: OwnedFd,
        mut options: Option<ForkOptions>,
    ) -> Result<(Self, Pipes)> {
        let failed = |source| Error::Spawn {
            program: image.path().to_owned(),
            source,
        };
        let args = options.as_mut().and_then(|options| options.args.take());
        let env = options
            .as_mut()
            .map(|options| std::mem::take(&mut options.env));
        let env = env.unwrap_or_default();
        let mut command = Command::new(image.executable());
        command
            .arg0(&origin.arg0)
            .args(args.unwrap_or_else(|| origin.args.clone()))
            .env_clear()
            .envs(origin.environment.iter().map(|(name, value)| (name, value)))
            .envs(env)
            .env(VARIABLE, format!("{id}.{slot}"))
            .stdin(channel)
            // A group of its own: a terminal's Ctrl-C reaches the primary alone.
            .process_group(0);
        if let Some(directory) = origin
            .directory
            .as_ref()
            .filter(|directory| std::path::Path::new(directory).is_dir())
        {
            command.current_dir(directory);
        }
        if let Some(options) = options {
            options.apply(&mut command);
        }
        let mut child = signals::held_back_in_child(|| command.spawn())
            .map_err(failed)?
            .map_err(failed)?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(std::io::Error::from)
            .and_then(|pidfd| reactor::watch(pidfd, Interest::READABLE));
        match pidfd {
            Ok(pidfd) => {
                let pipes = Pipes {
                    stdout: child.stdout.take(),
                    stderr: child.stderr.take(),
                };
                Ok((Self { pid, pidfd }, pipes))
            }
            Err(source) => {
                // Without a pidfd nobody would ever reap it. It has just been started and is not reaped, so the pid is still its own.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                Err(failed(source))
            }
        }
    }

    /// Goes on with a child that the program before this one started. It is not reaped, so its pid is its own still.
    pub(crate) fn resumed(pid: u32, pidfd: OwnedFd) -> std::io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(std::io::ErrorKind::InvalidData)?;
        let pidfd = reactor::watch(pidfd, Interest::READABLE)?;
        Ok(Self { pid, pidfd })
    }

    pub(crate) fn pidfd(&self) -> &OwnedFd {
        self.pidfd.get_ref()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal. One that has exited takes none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.pidfd, signal) {
            tracing::debug!(pid = self.pid(), %error, "a signal could not be sent");
        }
    }

    /// Completes when the process has ended, and reaps it. Cancel safe.
    pub(crate) async fn exited(&self) -> ExitStatus {
        loop {
            // An error of the reactor cannot be waited out; the wait below then tells whether the process has ended.
            let ready = self.pidfd.readable().await;
            match waitid(
                WaitId::PidFd(self.pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            ) {
                Ok(Some(status)) => {
                    let raw = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => code << 8,
                        (None, Some(signal)) => signal | if status.dumped() { 0x80 } else { 0 },
                        (None, None) => 0,
                    };
                    return ExitStatus::from_raw(raw);
                }
                Ok(None) => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    } else {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                }
                // Somebody else reaped it (a program that waits for every child): it has ended, how is not known any more.
                Err(error) => {
                    tracing::warn!(pid = self.pid(), %error, "a worker was reaped by somebody else; its exit status is lost");
                    return ExitStatus::from_raw(0);
                }
            }
        }
    }
}
