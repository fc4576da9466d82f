//! What a primary leaves to the program that it executes in its own place, and the execution itself.

use std::{
    convert::Infallible,
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use nix::sys::signal::SigSet;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{
    dispatch::Tally,
    image::{Image, Origin},
};
use crate::{
    birth::SUCCESSOR,
    error::{Error, Result},
    id::WorkerId,
    ipc::parcel::{self, Parcel},
    listeners::{Asked, Name},
    scoreboard::Numbers,
    settings::Settings,
    signals,
    supervisor::Legacy,
    wanted::Wanted,
};

/// Everything but descriptors. What is added later has a default, or raises the parcel's version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    /// What the workers were told.
    pub(super) settings: Settings,
    pub(super) legacy: Legacy,
    pub(super) workers: Vec<KeptWorker>,
    pub(super) listeners: Vec<KeptListener>,
    pub(super) program: OsString,
    pub(super) origin: Origin,
    pub(super) secret: Vec<u8>,
    /// What workers counted that have ended.
    pub(super) dead: Numbers,
    pub(super) hook_panics: u64,
    /// How often a program has followed another in this process.
    pub(super) upgrades: u64,
    /// The signals that the primary's threads had blocked.
    pub(super) blocked: Vec<i32>,
    /// What workers asked for.
    #[serde(default)]
    pub(super) asked_for: Vec<KeptAsked>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptWorker {
    pub(super) id: WorkerId,
    pub(super) pid: u32,
    pub(super) served: bool,
    pub(super) retired: bool,
    pub(super) parcel: u32,
    pub(super) asked: Asked,
    /// The listeners at which it accepts itself.
    #[serde(default)]
    pub(super) accepts: Vec<u16>,
    pub(super) tally: Tally,
    /// Bytes of messages under way, to the worker and from it.
    pub(super) unconsumed: usize,
    pub(super) outstanding: usize,
    /// The number of the latest request to the worker, and from it.
    pub(super) latest_request: u64,
    pub(super) latest_asked: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptListener {
    pub(super) number: u16,
    pub(super) name: Name,
    pub(super) has_file: bool,
}

/// A listener that workers asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptAsked {
    pub(super) number: u16,
    pub(super) wanted: Wanted,
    pub(super) has_file: bool,
    pub(super) members: Vec<WorkerId>,
    /// Those of them that take connections now.
    pub(super) accepting: Vec<WorkerId>,
}

/// The descriptors of one worker.
#[derive(Debug)]
pub(super) struct Ends<T> {
    pub(super) pidfd: T,
    pub(super) channel: T,
    pub(super) intake: T,
    pub(super) worker_end: T,
    pub(super) page: T,
}

impl<'fd> Ends<BorrowedFd<'fd>> {
    pub(super) fn in_order(self) -> [BorrowedFd<'fd>; 5] {
        [
            self.pidfd,
            self.channel,
            self.intake,
            self.worker_end,
            self.page,
        ]
    }
}

/// What the program before this one left.
#[derive(Debug)]
pub(crate) struct Estate {
    pub(crate) description: Description,
    pub(super) listeners: Vec<OwnedFd>,
    pub(super) workers: Vec<Ends<OwnedFd>>,
    /// Of what workers asked for.
    pub(super) asked_for: Vec<OwnedFd>,
}

impl Estate {
    pub(crate) fn new(parcel: Parcel) -> Result<Self> {
        let description: Description =
            serde_json::from_slice(&parcel.description).map_err(Error::Json)?;
        let mut fds = parcel.fds.into_iter();
        let mut next = || {
            fds.next()
                .ok_or(Error::Protocol("fewer descriptors than it describes"))
        };
        let mut listeners = Vec::new();
        for _ in &description.listeners {
            listeners.push(next()?);
        }
        let mut workers = Vec::new();
        for _ in &description.workers {
            workers.push(Ends {
                pidfd: next()?,
                channel: next()?,
                intake: next()?,
                worker_end: next()?,
                page: next()?,
            });
        }
        let mut asked_for = Vec::new();
        for _ in &description.asked_for {
            asked_for.push(next()?);
        }
        Ok(Self {
            description,
            listeners,
            workers,
            asked_for,
        })
    }

    pub(super) fn legacy(&self) -> &Legacy {
        &self.description.legacy
    }

    /// The signals that were blocked in the program before.
    pub(crate) fn blocked(&self) -> SigSet {
        signals::from_numbers(&self.description.blocked)
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.description.origin
    }

    pub(crate) fn program(&self) -> &OsStr {
        &self.description.program
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.description.secret
    }

    /// The listeners, each by its number and name, with whether a file goes with it.
    pub(crate) fn take_listeners(&mut self) -> Vec<(u16, Name, bool, OwnedFd)> {
        let kept = &self.description.listeners;
        kept.iter()
            .zip(std::mem::take(&mut self.listeners))
            .map(|(kept, fd)| (kept.number, kept.name.clone(), kept.has_file, fd))
            .collect()
    }
}

/// Executes the image in the place of this program: the same process goes on with another one.
///
/// No flag of a descriptor is changed, and no std `Command` is used, which would reset SIGPIPE: if this returns, everything is as it
/// was before.
///
/// # Errors
///
/// Always: it does not return otherwise.
pub(super) fn execute(
    image: &Image,
    origin: &Origin,
    description: &Description,
    inheritance: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<Infallible> {
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let args = std::iter::once(&origin.arg0).chain(&origin.args);
    let args: Vec<_> = args.map(|arg| c_string(arg)).collect::<io::Result<_>>()?;
    let mut environment = Vec::new();
    for (name, value) in &origin.environment {
        let mut entry = name.clone();
        entry.push("=");
        entry.push(value);
        environment.push(c_string(&entry)?);
    }
    environment.push(c_string(OsStr::new(&format!("{SUCCESSOR}=1")))?);
    let program = c_string(image.executable().as_os_str())?;
    let description = serde_json::to_vec(description)?;
    // A duplicate, because descriptor 0 itself makes room for the parcel.
    let stdin = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
    let parcel = parcel::pack(stdin.as_fd(), &description, inheritance, fds)?;
    let back = enter(origin.directory.as_deref());
    let failed = rustix::stdio::dup2_stdin(&parcel)
        .map_err(io::Error::from)
        .and_then(|()| nix::unistd::execve(&program, &args, &environment).map_err(io::Error::from));
    rustix::stdio::dup2_stdin(&stdin)?;
    if let Some(back) = back {
        rustix::process::fchdir(back)?;
    }
    failed
}

/// Goes to where workers are started, since that is where the program has been tried; returns the way back.
fn enter(directory: Option<&OsStr>) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let back = rustix::fs::open(".", flags, Mode::empty()).ok()?;
    // One that is not there any more is not there for workers either: they start where this process is.
    rustix::process::chdir(directory?).ok()?;
    Some(back)
}
