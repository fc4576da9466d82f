//! What is asked for, and what a right answer is.

use std::time::Duration;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) path: String,
    /// A POST of this body, in so many pieces with a pause after each.
    pub(super) post: Option<Post>,
    pub(super) expected: Expected,
}

/// The body that a right answer has.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    Anything,
    Exactly(Vec<u8>),
    /// Events that count from 0, and the end of their stream.
    Events,
}

impl Expected {
    pub(super) fn is(&self, body: &[u8]) -> bool {
        match self {
            Self::Anything => true,
            Self::Exactly(expected) => expected == body,
            Self::Events => {
                let mut events = str::from_utf8(body).unwrap_or("?").split_inclusive("\n\n");
                let counted = (0..).map(|n| format!("data: {n}\n\n"));
                counted
                    .zip(&mut events)
                    .all(|(counted, event)| counted == event)
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) body: Vec<u8>,
    pub(super) pieces: usize,
    pub(super) pause: Duration,
}
