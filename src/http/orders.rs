//! What a connection is told from outside, as one byte: its driver looks at it with one load a poll.

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// How the connections of a process that stops serving come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Somebody takes them: every HTTP/1.1 connection is released as soon as it is between two requests.
    Release,
    /// Nobody takes them: the next response says `Connection: close`, idle connections linger, then close. Final.
    Close,
}

/// A set of orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders(u8);

impl Orders {
    pub(super) const RELEASE: Self = Self(1);
    pub(super) const CLOSE: Self = Self(1 << 1);
    pub(super) const CUT: Self = Self(1 << 2);
    /// The reaper found a timeout exceeded; whether it still is, the driver decides.
    pub(super) const LATE: Self = Self(1 << 3);

    /// Somebody else takes this one: it is released as soon as it is between two requests, though the process stays. HTTP/2 stays too.
    pub(super) const MOVE: Self = Self(1 << 4);

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn leaves(self) -> bool {
        self.0 & (Self::RELEASE.0 | Self::CLOSE.0) != 0
    }

    /// Whether to let the connection go alive. [`Leave::Close`] overrules all that says so.
    pub(super) fn releases(self) -> bool {
        self.0 & (Self::RELEASE.0 | Self::MOVE.0) != 0 && !self.contains(Self::CLOSE)
    }
}

impl From<Leave> for Orders {
    fn from(leave: Leave) -> Self {
        match leave {
            Leave::Release => Self::RELEASE,
            Leave::Close => Self::CLOSE,
        }
    }
}

/// The orders of one connection, given by any thread and looked at by its driver.
#[derive(Debug, Default)]
pub(super) struct Inbox(AtomicU8);

impl Inbox {
    pub(super) fn new(orders: Orders) -> Self {
        Self(AtomicU8::new(orders.0))
    }

    pub(super) fn look(&self) -> Orders {
        Orders(self.0.load(SeqCst))
    }

    /// Adds orders; says whether one of them is new.
    pub(super) fn put(&self, orders: Orders) -> bool {
        self.0.fetch_or(orders.0, SeqCst) & orders.0 != orders.0
    }

    pub(super) fn take(&self, orders: Orders) {
        self.0.fetch_and(!orders.0, SeqCst);
    }
}
