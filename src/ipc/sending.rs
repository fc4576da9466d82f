//! A message that waits for room.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::outbox::Outbox;
use crate::error::{Error, Result};

/// Completes when a message has been queued; made by `send_wait`.
///
/// The message takes its place in the order when `send_wait` is called, not when this is polled. Owned: it may be awaited anywhere.
///
/// # Errors
///
/// [`Gone`](Error::Gone) when the other side is gone before there was room, and what encoding can bring.
///
/// # Cancel safety
///
/// Dropped before it completes, the message is sent as a whole or not at all.
#[must_use = "dropped, it takes back a message that still waits for room; await it"]
pub struct Sending {
    state: State,
}

enum State {
    /// `None` once it has been told.
    Done(Option<Result<()>>),
    Waiting {
        outbox: Arc<Outbox>,
        ticket: u64,
        queued: oneshot::Receiver<()>,
    },
}

impl Sending {
    pub(super) fn done(result: Result<()>) -> Self {
        Self {
            state: State::Done(Some(result)),
        }
    }

    pub(super) fn waiting(outbox: Arc<Outbox>, ticket: u64, queued: oneshot::Receiver<()>) -> Self {
        Self {
            state: State::Waiting {
                outbox,
                ticket,
                queued,
            },
        }
    }

    /// What kept it from being sent, where that is known already.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        match &mut self.state {
            State::Done(done) => done.take()?.err(),
            State::Waiting { .. } => None,
        }
    }
}

impl Future for Sending {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let result = match &mut self.state {
            State::Done(done) => done.take().unwrap_or(Ok(())),
            State::Waiting { queued, .. } => {
                std::task::ready!(Pin::new(queued).poll(cx)).map_err(|_| Error::Gone)
            }
        };
        self.state = State::Done(None);
        Poll::Ready(result)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let State::Waiting { outbox, ticket, .. } = &self.state {
            outbox.withdraw(*ticket);
        }
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}
