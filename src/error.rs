//! What can go wrong, doing what, to what, and the likely fix.

use std::{error::Error as StdError, fmt, io, path::PathBuf, process::ExitStatus};

use rustix::io::Errno;

use crate::{address::Address, id::Slot};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what was being done, to what, and the likely fix.
///
/// Its `Debug` form is its `Display` form followed by its causes, because that is what a `main` that returns it prints.
#[non_exhaustive]
pub enum Error {
    /// The primary could not listen on an address. Often another program listens there already, or the port is below 1024.
    Bind {
        /// The address asked for.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The program gave an address to listen on twice, perhaps in two forms: `0.0.0.0` takes what `127.0.0.1` would too.
    GivenTwice {
        /// The address, as it was given the second time.
        address: Address,
        /// Where the program listens already.
        listening: Address,
    },
    /// A text is no address, or its host name has no address.
    Address {
        /// The address as it was given.
        given: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A setting, or the environment variable that overrides it, has a value that means nothing.
    Setting {
        /// The setting or variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The program could not be opened for starting workers from it.
    Program {
        /// Its path.
        program: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A worker process could not be started. Often a limit of processes or descriptors is reached.
    Spawn {
        /// The program that was to run.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// At the first start, one place saw its worker die again and again before any worker had ever listened.
    ///
    /// The deaths of one place are counted, not those of all: with many workers, a short want of something that all of them need does
    /// not end the cluster the sooner.
    NeverReady {
        /// The program that was started.
        program: PathBuf,
        /// How the last of them ended; `None` when it could not even be started.
        status: Option<ExitStatus>,
        /// How many died in that place.
        deaths: u32,
        /// What is known of the cause.
        cause: String,
    },
    /// A rolling restart was given up: the first new worker that did not come up is named. Every worker that was not replaced stays.
    RestartAbandoned {
        /// The place whose new worker did not come up.
        slot: Slot,
        /// What is known of the cause.
        cause: String,
    },
    /// An upgrade was given up; this program goes on.
    Upgrade {
        /// What stood in its way.
        cause: String,
    },
    /// This program was executed in the place of another, whose cluster it cannot take over. The workers drain and end.
    Succession {
        /// What is wrong with what that one left.
        source: io::Error,
    },
    /// `serve` or `start` was called a second time in this process. One process has one cluster in its life, in a test binary as well.
    AlreadyStarted,
    /// The cluster of a `ClusteredServer` looks after its workers itself: nobody forks there. See [`scale`](crate::Primary::scale).
    Supervised,
    /// The program forks the workers of this cluster itself: nobody scales, restarts or upgrades it.
    Unsupervised,
    /// `serve` was called in a test or bench binary: each worker would run every test again.
    TestBinary {
        /// The binary.
        program: PathBuf,
    },
    /// [`Serve::run`](crate::Serve::run) was called inside a tokio runtime. Await it instead.
    InsideRuntime,
    /// A tokio runtime, or a thread that was to carry one, could not be started.
    Runtime(io::Error),
    /// A signal handler, a socket pair, shared memory or another means of the system could not be had.
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// This process was started as a worker, and its primary is gone or is not its parent.
    Orphaned {
        /// What shows it.
        reason: &'static str,
    },
    /// The closure given to `prepare` failed; nothing was started.
    Prepare(BoxError),
    /// The closure given to `serve_with` failed in a worker.
    App(BoxError),
    /// The future given to `ready_when` failed in a worker.
    Ready(BoxError),
    /// The other side sent what this version does not understand. Two versions of the crate, or a process that is no worker.
    Protocol(&'static str),
    /// A queue of messages is full: its receiver does not keep up. Nothing was sent.
    Full,
    /// The other side is gone. Nothing was sent.
    Gone,
    /// A request was received and dropped without an answer.
    NoReply,
    /// An answer was given to a message that is no request, or that has been answered already. Nothing was sent.
    NotAsked,
    /// A message carries more descriptors than a message may. Nothing was sent.
    TooManyFds {
        /// How many it carries.
        count: usize,
        /// The most it may.
        limit: usize,
    },
    /// A message brought no descriptor, or its next one is of another kind than was asked for.
    WrongFd {
        /// What was asked for.
        expected: &'static str,
    },
    /// A worker asked its primary for something before it had reached `serve` or `start`.
    NotStarted,
    /// A message is larger than a message may be. Nothing was sent.
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest size in bytes.
        limit: usize,
    },
    /// A message could not be written as, or read from, the type asked for.
    Json(serde_json::Error),
}

/// An error of the program's own code, passed through.
pub type BoxError = Box<dyn StdError + Send + Sync>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, source } => {
                write!(f, "cannot listen on {address}")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(": another program listens there; stop it or choose another address"),
                    io::ErrorKind::AddrNotAvailable => f.write_str(": this machine has no such address; `0.0.0.0` and `[::]` are all that it has"),
                    io::ErrorKind::NotFound => f.write_str(": the directory of the socket is not there; create it first"),
                    io::ErrorKind::InvalidInput if address.unix_path().is_some() => f.write_str(": the name of the socket is empty or too long"),
                    io::ErrorKind::PermissionDenied => {
                        f.write_str(": not permitted; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE), a unix socket a writable directory")
                    }
                    io::ErrorKind::AlreadyExists => f.write_str(": a file that is no socket stands there; it was left alone, choose another path"),
                    _ => Ok(()),
                }
            }
            Self::GivenTwice { address, listening } => {
                write!(f, "cannot listen on {address}: this program gave it twice, and listens on {listening} already; give each address once")
            }
            Self::Address { given, source } if source.kind() != io::ErrorKind::InvalidInput => {
                write!(f, "`{given}` has a host name without an address; check its spelling, or give an IP address")
            }
            Self::Address { given, .. } => write!(
                f,
                "`{given}` is no address to listen on; expected `host:port`, `[v6]:port` or `unix:/path`"
            ),
            Self::Setting { name, value, expected } => write!(f, "{name} is `{value}`; expected {expected}"),
            Self::Program { program, source } => {
                write!(f, "cannot start workers from {}", program.display())?;
                match source.kind() {
                    io::ErrorKind::NotFound if program.starts_with("/proc") => f.write_str(": `/proc` is not mounted; this crate needs it"),
                    io::ErrorKind::NotFound => f.write_str(": no program is there; put it in place again"),
                    io::ErrorKind::PermissionDenied => f.write_str(": it may not be executed; `chmod +x` permits it"),
                    _ => Ok(()),
                }
            }
            Self::Spawn { program, source } => {
                write!(f, "cannot start a worker process from {}", program.display())?;
                match Errno::from_io_error(source) {
                    Some(Errno::NOEXEC) => f.write_str(": it is no program for this machine, or only a part of one"),
                    Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
                        f.write_str(": a limit is reached; raise that of processes (`ulimit -u`), of descriptors (`ulimit -n`) or of memory")
                    }
                    _ => Ok(()),
                }
            }
            Self::NeverReady { program, status, deaths, cause } => {
                write!(f, "{} died {deaths} times in one place before it was ready", program.display())?;
                if let Some(status) = status {
                    write!(f, ", the last time with {status}")?;
                }
                write!(f, ": {cause}")
            }
            Self::RestartAbandoned { slot, cause } => write!(f, "the restart was given up, the old workers stay: the new worker in slot {slot} did not come up: {cause}"),
            Self::Upgrade { cause } => write!(f, "the upgrade was given up, this program goes on: {cause}"),
            Self::Succession { .. } => f.write_str("cannot take over the cluster of the program that ran in this process before"),
            Self::AlreadyStarted => f.write_str("this process has, or had, its cluster; `serve` or `start` may be called once a process (for two addresses: an array in `bind`, or `also`; \
                 for two tests: one test binary each)"),
            Self::Supervised => f.write_str("a `ClusteredServer` starts its workers itself; use `scale`, or `Cluster` to fork them"),
            Self::Unsupervised => f.write_str("the program forks the workers of this cluster itself; only a `ClusteredServer` is scaled, restarted and upgraded"),
            Self::NotStarted => f.write_str("this worker has not joined its cluster yet; call `serve` or `start` first"),
            Self::TestBinary { program } => write!(
                f,
                "{} is a test binary: each worker would run every test again; use `.workers(0)`, or name a program with `.program(path)`",
                program.display()
            ),
            Self::InsideRuntime => f.write_str("`run()` was called inside a tokio runtime; await the `Serve` instead"),
            Self::Runtime(_) => f.write_str("cannot start a tokio runtime or its thread"),
            Self::System { doing, .. } => write!(f, "cannot {doing}"),
            Self::Orphaned { reason } => write!(f, "started as a worker, but {reason}; a worker never becomes a primary, so this process ends"),
            Self::Prepare(_) => f.write_str("`prepare` failed; nothing was started"),
            Self::App(_) => f.write_str("the app could not be built in a worker"),
            Self::Ready(_) => f.write_str("a worker did not get ready: `ready_when` failed"),
            Self::Protocol(what) => write!(f, "the other process sent {what}"),
            Self::Full => f.write_str("the queue of messages is full: its receiver does not keep up"),
            Self::Gone => f.write_str("the other process is gone"),
            Self::NoReply => f.write_str("the other process dropped the request without an answer"),
            Self::NotAsked => f.write_str("nobody waits for this answer: the message is no request, or has been answered"),
            Self::TooManyFds { count, limit } => write!(f, "a message with {count} descriptors; it may carry {limit}"),
            Self::WrongFd { expected } => write!(f, "the message's next descriptor is no {expected}"),
            Self::TooLarge { size, limit } => write!(f, "a message of {size} bytes is larger than {limit} bytes"),
            Self::Json(_) => f.write_str("a message does not fit the type"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Bind { source, .. }
            | Self::Address { source, .. }
            | Self::Program { source, .. }
            | Self::Spawn { source, .. }
            | Self::System { source, .. }
            | Self::Succession { source }
            | Self::Runtime(source) => Some(source),
            Self::Prepare(source) | Self::App(source) | Self::Ready(source) => Some(&**source),
            Self::Json(source) => Some(source),
            _ => None,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_display_with_causes() {
        let error = Error::Bind {
            address: Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 80))),
            source: io::Error::from_raw_os_error(98),
        };
        assert!(error.to_string().contains("127.0.0.1:80"), "{error}");
        assert!(format!("{error:?}").starts_with(&error.to_string()));
        assert!(format!("{error:?}").contains("os error 98"));
    }
}
