//! The limit of open descriptors, and the room that receiving them needs.
//!
//! A receiver at its limit gets part of a datagram's descriptors; the kernel closes the rest without a word. So a process keeps its
//! soft limit a little below the hard one and lifts it while it receives.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::OnceLock,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is kept free for receiving, and how much of it one receive may use.
const RESERVE: u64 = 64;
const LIFT: u64 = 32;

/// The limits of this process, as set by [`raise`].
#[derive(Clone, Copy, Debug)]
struct Limits {
    ordinary: u64,
    lifted: u64,
    hard: Option<u64>,
}

static LIMITS: OnceLock<Option<Limits>> = OnceLock::new();

fn limits() -> Option<&'static Limits> {
    LIMITS
        .get_or_init(|| {
            let hard = getrlimit(Resource::Nofile).maximum;
            // Far more than any process opens: an infinite hard limit stays as it is.
            let top = hard.unwrap_or(1 << 20);
            let reserve = RESERVE.min(top / 4);
            let limits = Limits {
                ordinary: top - reserve,
                lifted: top - reserve + LIFT.min(reserve / 2),
                hard,
            };
            setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(limits.ordinary),
                    maximum: hard,
                },
            )
            .ok()
            .map(|()| limits)
        })
        .as_ref()
}

/// Raises the soft limit to the hard one less a reserve. Once a process; later calls do nothing.
pub(crate) fn raise() {
    limits();
}

/// Whether a received descriptor shows that they are used up: take no more for now.
pub(crate) fn is_full(received: &OwnedFd) -> bool {
    u64::try_from(received.as_raw_fd()).is_ok_and(|fd| fd >= ordinary())
}

/// Whether so many descriptors can be received, as far as duplicates of this one can be made. For a process that seems full.
pub(crate) fn has_room(fd: impl AsFd, count: usize) -> bool {
    can_duplicate(fd, count, 0)
}

/// Whether everything above the ordinary limit is free: then the next shortage will show, as [`is_full`] of what is received.
pub(crate) fn has_reserve(fd: impl AsFd) -> bool {
    limits().is_none_or(|limits| {
        let reserve = usize::try_from(limits.lifted - limits.ordinary).unwrap_or(0);
        can_duplicate(
            fd,
            reserve,
            i32::try_from(limits.ordinary).unwrap_or(i32::MAX),
        )
    })
}

fn can_duplicate(fd: impl AsFd, count: usize, from: i32) -> bool {
    lifted(|| {
        let mut held = Vec::with_capacity(count);
        (0..count).all(|_| {
            rustix::io::fcntl_dupfd_cloexec(&fd, from)
                .map(|fd| held.push(fd))
                .is_ok()
        })
    })
}

/// The number at which descriptors count as used up.
pub(crate) fn ordinary() -> u64 {
    limits().map_or_else(
        || getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        |limits| limits.ordinary,
    )
}

/// Runs `receive` with the soft limit lifted. Costs two `prlimit` calls, 0.3 µs together, shared by the connections of one datagram.
pub(crate) fn lifted<T>(receive: impl FnOnce() -> T) -> T {
    let Some(limits) = limits() else {
        return receive();
    };
    let set = |current| {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(current),
                maximum: limits.hard,
            },
        )
    };
    // Refused only if somebody lowered the hard limit since; then receiving goes on under what there is.
    let _ = set(limits.lifted);
    let received = receive();
    let _ = set(limits.ordinary);
    received
}
