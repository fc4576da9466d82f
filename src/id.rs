//! Numbers that name things: a worker's life, its place, its generation.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            pub(crate) const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The plain number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for $inner {
            fn from(number: $name) -> Self {
                number.0
            }
        }
    };
}

number! {
    /// Names one worker process for ever: starts at 1, counts up with each fork, is never reused (Node's `worker.id`).
    ///
    /// Log by id; label metrics by [`Slot`].
    WorkerId(u64)
}

number! {
    /// A worker's place in the cluster, `0..workers`: a replacement takes the place of the worker it replaces.
    ///
    /// Label metrics by slot, which stays within bounds however often workers are replaced.
    Slot(u32)
}

number! {
    /// Counts rolling restarts, those that were abandoned too: 1 from the start, 0 with `workers(0)`.
    ///
    /// Workers of one generation run the same program image.
    Generation(u64)
}

impl WorkerId {
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Generation {
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
