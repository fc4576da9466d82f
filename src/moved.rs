//! Where a connection stands that one process has let go of and another goes on with.

use std::time::Duration;

use bytes::Bytes;

/// What goes with a connection between two requests, so that its client cannot tell that it moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// What was read of the next request.
    pub(crate) read: Bytes,
    pub(crate) awaits: Awaits,
    /// How long already: otherwise a client that says nothing, or a byte now and then, had all its time anew at each move.
    pub(crate) waited: Duration,
}

/// What such a connection waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// The very first byte.
    FirstByte,
    /// The rest of a request's head.
    Head,
    /// The next request.
    #[default]
    Request,
}
