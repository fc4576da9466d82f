//! Drives an HTTP/1 connection, and lets it go between two requests.
//!
//! # The release rule
//!
//! hyper does not say when it is between two requests, so the driver proves it. It lets go when it was told to and a poll
//! of hyper's returned `Pending` and
//!
//! 1. nothing lives: no future of the service, no response body, no request body short of its end;
//! 2. none of these came or went during that poll: hyper must have had a whole poll to read a request body to its end
//!    that nobody wanted, or to close because of it;
//! 3. the socket took everything that hyper wrote, and hyper has not begun to shut it down;
//! 4. `pipeline_flush` is off, so that hyper keeps no written response back.
//!
//! Then hyper's state is that of a new connection, its write buffer is empty, and its read buffer followed by what the
//! socket had not given it is all that was read of the next request. Without 1 and 2 the rest of an unread body would be
//! taken for the next request: request smuggling.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    answer::Reply,
    app::{App, Content, Serves, Taken},
    exchange::{Exchange, Writers},
    link::Link,
    orders::Orders,
    phase::Phase,
    socket::Socket,
};

/// What the driver leaves behind.
pub(super) enum Outcome<IO> {
    Upgraded,
    /// Between two requests, and what hyper had read of the next one.
    Released(Socket<IO>, Bytes),
    Ended {
        socket: Socket<IO>,
        linger: bool,
    },
}

/// Why it stopped.
enum Stop {
    Done(hyper::Result<()>),
    Release,
    Late,
    Cut,
}

/// Serves requests until the connection ends, is upgraded, or can be let go and shall be.
pub(super) async fn drive<IO, S, Q, B>(socket: Socket<IO>, service: S) -> Outcome<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Serves<Q, B>,
    Q: Taken,
    B: Content,
{
    let link = Arc::clone(socket.link());
    let app = App::<S, Q, Counted<B>>::new(service, Arc::clone(&link));
    let mut connection = http1::Builder::new()
        .half_close(true) // a client that has shut down its side still gets its answer
        .header_read_timeout(None) // the reaper's
        .pipeline_flush(false) // rule 4
        .serve_connection(TokioIo::new(socket), app)
        .with_upgrades();
    let stop = poll_fn(|cx| {
        loop {
            let orders = link.orders.look();
            if orders.contains(Orders::CUT) {
                return Poll::Ready(Stop::Cut);
            }
            let (before, stuck) = (link.activity.look(), link.unwritten.load(Relaxed));
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Stop::Done(result));
            }
            let after = link.activity.look();
            // hyper flushes what it writes in the same poll, and exchanges end nowhere but in a poll: all are out.
            link.rest(after.finished(), Writers::One);
            let unwritten = link.unwritten.load(Relaxed);
            if stuck && !unwritten {
                // An answer that came before its request's body had ended, to a client slow to read it: hyper has called
                // the service for the next request, and does not poll it in the poll in which the answer goes out.
                continue;
            }
            if orders.is_empty() {
                return Poll::Pending;
            }
            if orders.contains(Orders::LATE) && link.is_still_late() {
                return Poll::Ready(Stop::Late); // before a release: it would be late elsewhere
            }
            if orders.releases() && after.is_quiet() && !unwritten {
                if after == before {
                    return Poll::Ready(Stop::Release);
                }
                continue; // rule 2
            }
            return Poll::Pending;
        }
    })
    .await;
    let Some(parts) = connection.into_parts() else {
        link.settle(u32::MAX, Writers::Many); // the answer that agreed to it is written, or there would be no upgrade
        link.wait_for(Phase::Busy);
        return Outcome::Upgraded;
    };
    let socket = parts.io.into_inner();
    if let Stop::Release = stop {
        return Outcome::Released(socket, parts.read_buf);
    }
    let linger = !socket.has_ended() && may_be_sending(&link, stop);
    Outcome::Ended { socket, linger }
}

/// Whether the client may still be sending, so that to close at once could cost it the last response.
fn may_be_sending(link: &Link, stop: Stop) -> bool {
    let leaves = link.orders.look().leaves();
    match stop {
        Stop::Cut | Stop::Release => false,
        Stop::Late => leaves || link.waiting.phase() == Phase::Head,
        Stop::Done(Ok(())) => leaves || link.body_unread.load(Relaxed),
        Stop::Done(Err(error)) => leaves || link.body_unread.load(Relaxed) || error.is_parse(),
    }
}

pin_project! {
    /// A response body that ends its exchange when it is dropped, which hyper does as soon as it has all of it.
    struct Counted<B> {
        #[pin]
        body: B,
        exchange: Option<Exchange>, // after the body
    }
}

impl<B: Body> Reply<B> for Counted<B> {
    const WRITERS: Writers = Writers::One;

    fn new(body: B, exchange: Option<Exchange>) -> Self {
        Self { body, exchange }
    }
}

impl<B: Body> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
