//! Drives an HTTP/2 connection. It is not let go: its state cannot be moved. A client that is told GOAWAY reconnects.

use std::{
    future::{Future, poll_fn},
    io::IoSlice,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::{rt::Executor, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    answer::Reply,
    app::{App, Content, Serves, Taken},
    exchange::{Exchange, Hold, Writers},
    lent::Lent,
    link::Link,
    orders::Orders,
    phase::Phase,
    socket::Socket,
};

/// How often a client is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);

/// Serves streams until the connection ends. Returns its socket to linger on, if the client may still be sending.
pub(super) async fn drive<IO, S, Q, B>(mut socket: Socket<IO>, service: S) -> Option<Socket<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Serves<Q, B>,
    Q: Taken,
    B: Content,
{
    let link = Arc::clone(socket.link());
    socket.speaks_http2();
    link.wait_for(Phase::Idle);
    let (socket, owner) = Lent::new(socket);
    let app = App::<S, Q, Streamed<B>>::new(service, Arc::clone(&link));
    let done = {
        let connection = builder(&link).serve_connection(TokioIo::new(socket), app);
        let mut connection = pin!(connection);
        let mut going = false;
        poll_fn(|cx| {
            loop {
                let orders = link.orders.look();
                if orders.contains(Orders::CUT) {
                    return Poll::Ready(false);
                }
                if orders.leaves() && !going {
                    going = true;
                    link.orders.put(Orders::CLOSE); // nobody can take it
                    connection.as_mut().graceful_shutdown(); // GOAWAY
                }
                let before = link.activity.look();
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                // Streams end in tasks of their own: only what had ended before this poll is known to be out.
                link.rest(before.finished(), Writers::Many);
                let more = link.activity.look().finished() > 0 && !link.unwritten.load(Relaxed);
                if orders.contains(Orders::LATE) && link.is_still_late() {
                    if going {
                        return Poll::Ready(false); // no stream is left, and no answer came to GOAWAY
                    }
                    link.orders.put(Orders::CLOSE);
                    link.wait_for(Phase::Idle); // lingers from now on
                    continue;
                }
                if !more {
                    return Poll::Pending;
                }
            }
        })
        .await
    };
    owner.take().filter(|socket| done && !socket.has_ended())
}

fn builder(link: &Arc<Link>) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(Tasks(Arc::clone(link)));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(250)
        .max_header_list_size(16 * 1024)
        // Against rapid resets: CVE-2023-44487 and RUSTSEC-2024-0003. hyper's defaults, said here so that they stay.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(1024)
        .enable_connect_protocol();
    builder
}

/// Runs what hyper spawns for a connection: a task a stream, and one a tunnel (extended CONNECT, a WebSocket), which
/// outlives its exchange. The connection is busy while one of them runs.
#[derive(Clone)]
struct Tasks(Arc<Link>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let hold = Hold::new(&self.0);
        tokio::spawn(async move {
            task.await;
            drop(hold);
        });
    }
}

pin_project! {
    /// A response body whose exchange ends when the connection has taken its last piece, and not when hyper has it:
    /// pieces wait in the connection until the client's window opens.
    struct Streamed<B> {
        #[pin]
        body: B,
        exchange: Arc<Option<Exchange>>, // after the body
    }
}

impl<B: Body> Reply<B> for Streamed<B> {
    const WRITERS: Writers = Writers::Many;

    fn new(body: B, exchange: Option<Exchange>) -> Self {
        Self {
            body,
            exchange: Arc::new(exchange),
        }
    }
}

impl<B: Body> Body for Streamed<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let piece = |data| Piece {
            data,
            _exchange: Arc::clone(this.exchange),
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a body: its exchange does not end before it.
struct Piece<D> {
    data: D,
    _exchange: Arc<Option<Exchange>>,
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.data.copy_to_bytes(count)
    }
}
