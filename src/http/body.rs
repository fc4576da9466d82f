//! The request body as handlers see it.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{exchange::Hold, link::Link};

/// The body of a request on its way in: hyper's, known to the connection it comes from.
///
/// While it is short of its end the connection cannot be handed to another process. A handler may keep it, read it later
/// or in another task, or drop it unread.
pub struct RequestBody {
    body: Incoming,
    ended: bool,
    unread: Option<Hold>, // after the body: hyper must see the body gone before the driver counts on it
}

impl RequestBody {
    /// A body that is complete from the start costs nothing; one of HTTP/2 does not either, its stream is counted anyway.
    pub(super) fn new(body: Incoming, http1: Option<&Arc<Link>>) -> Self {
        let unread = http1.and_then(|link| {
            let unread = !body.is_end_stream();
            if link.body_unread.load(Relaxed) != unread {
                link.body_unread.store(unread, Relaxed);
            }
            unread.then(|| Hold::new(link))
        });
        Self {
            body,
            ended: false,
            unread,
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBody").field(&self.body).finish()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.is_end_stream() {
            return Poll::Ready(None); // hyper would say so only with the next request, where the answer came first
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.ended = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers(),
            Some(Err(_)) => false,
        };
        // The end, as hyper's decoder counts it: the decoder has moved on to the next request. A body that is kept holds
        // nothing up from here on.
        if let Some(hold) = this
            .unread
            .take_if(|_| this.ended || this.body.is_end_stream())
        {
            hold.link().body_unread.store(false, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
