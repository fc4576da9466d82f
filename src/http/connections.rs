//! All connections of this process.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use super::{
    Content, End, Leave, Serves, Start, Taken, Timeouts,
    http1::{self, Outcome},
    http2,
    linger::linger,
    link::{Hub, Link},
    orders::Orders,
    phase::{Clock, Phase},
    preamble::{self, Preamble},
    reaper,
    registry::Registry,
    socket::Socket,
};
use crate::{event::Cuts, ipc::outbox::Outbox, scoreboard::Row, ticks::Ticks};

/// All connections of this process. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Hub>);

impl Connections {
    /// Answers are counted in the row, and told of where anybody wants to know.
    pub(crate) fn new(timeouts: Timeouts, row: Arc<Row>, told: Option<Arc<Outbox>>) -> Self {
        Self(Arc::new(Hub {
            timeouts,
            clock: Clock::new(reaper::interval(&timeouts)),
            registry: Registry::default(),
            row,
            told,
            left_at: AtomicU64::new(0),
            empty: Notify::new(),
        }))
    }

    /// Keeps the timeouts. Runs for ever: spawn it once.
    pub(crate) async fn reap(&self) {
        reaper::run(&self.0, Ticks::every(self.0.clock.interval)).await;
    }

    /// The same, by the runtime's time.
    #[cfg(test)]
    pub(super) async fn reap_by_runtime(&self) {
        reaper::run(&self.0, Ticks::by_the_runtime(self.0.clock.interval)).await;
    }

    /// How many are open: not closed and not released; upgraded ones too, for as long as their stream lives.
    pub(crate) fn open(&self) -> usize {
        self.0.registry.open()
    }

    /// Tells all connections, and those to come, that the process stops serving.
    ///
    /// HTTP/2 connections get GOAWAY; one that has no stream for `linger` after it is cut.
    pub(crate) fn leave(&self, leave: Leave) {
        self.0.left_at.store(self.0.clock.now(), Relaxed);
        for link in self.0.registry.order(leave.into()) {
            link.wake();
        }
        if self.0.timeouts.linger.is_zero() {
            // Without waiting for the reaper's turn.
            for link in self.0.registry.order_late(self.0.clock.now()) {
                link.wake();
            }
        }
    }

    /// As [`leave`](Self::leave) with [`Leave::Release`], but connections that are idle hear of it only when the [`Sleepers`] are woken,
    /// or with their next request.
    pub(crate) fn release(&self) -> Sleepers {
        self.0.left_at.store(self.0.clock.now(), Relaxed);
        let links = self.0.registry.order(Leave::Release.into());
        let (asleep, awake): (Vec<_>, Vec<_>) = links.into_iter().partition(|link| link.may_move());
        awake.iter().for_each(|link| link.wake());
        Sleepers(asleep)
    }

    /// Releases up to `n` HTTP/1.1 connections that are idle, for somebody who has fewer; goes on serving. Says how many it told.
    ///
    /// By the rule by which all are released: one of which a request comes meanwhile answers it first.
    pub(crate) fn give_back(&self, n: usize) -> usize {
        let links = self.0.registry.order_idle(n, Orders::MOVE);
        links.iter().for_each(|link| link.wake());
        links.len()
    }

    /// Ends everything at once, also streams that were upgraded and are read and written elsewhere. Says how many connections
    /// it cut, and which requests.
    pub(crate) fn cut(&self) -> (usize, Cuts) {
        let links = self.0.registry.order(Orders::CUT);
        let (mut cuts, now) = (Cuts::default(), self.0.clock.precise());
        for link in &links {
            link.requests.tell(now, &mut cuts);
            // The service is done with these, the client is not: it has not read all of the answer.
            cuts.total += u64::from(link.activity.look().finished());
            link.wake_all();
        }
        (links.len(), cuts)
    }

    /// Completes when none is open.
    pub(crate) async fn all_closed(&self) {
        loop {
            let empty = self.0.empty.notified(); // counts from here on: what closes after the look below is not missed
            if self.open() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Serves one connection. It is open from the call on; the future is to be spawned as a task of its own, because the
    /// waker of its first poll is kept for ever.
    ///
    /// A panic of the service ends the task, and with it this connection only; dropping the future closes it.
    pub(crate) fn serve<IO, S, Q, B>(
        &self,
        stream: IO,
        start: Start,
        service: S,
    ) -> impl Future<Output = End<IO>> + Send + use<IO, S, Q, B>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Serves<Q, B>,
        Q: Taken,
        B: Content,
    {
        let hub = Arc::clone(&self.0);
        let (link, before) = match start {
            Start::Fresh => (
                Link::new(hub, Phase::FirstByte, Orders::default()),
                Bytes::new(),
            ),
            Start::Moved(moved) => (Link::moved(hub, &moved, Orders::default()), moved.read),
            Start::Stays(moved) => (Link::moved(hub, &moved, Orders::CLOSE), moved.read),
        };
        drive(Socket::new(stream, before, link), service)
    }
}

/// Idle connections that have been given an order.
#[derive(Debug, Default)]
#[must_use = "they sleep until they are woken"]
pub(crate) struct Sleepers(Vec<Arc<Link>>);

/// So many are woken at once, then the others have their turn.
const TOGETHER: usize = 32;

/// Between two lots.
const PAUSE: Duration = Duration::from_millis(1);

impl Sleepers {
    /// Wakes them in small lots: a busy client's connection that moves must not stand behind thousands of idle
    /// ones. With 3,000 of these it waits 25 to 48 ms longer at the worst than without a restart; all at once: 50 to 105 ms.
    ///
    /// Cancel safe: who sleeps then hears of the order with its next request, or of the next order.
    pub(crate) async fn wake(&mut self) {
        while !self.0.is_empty() {
            let rest = self.0.len().saturating_sub(TOGETHER);
            self.0.drain(rest..).for_each(|link| link.wake());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Wakes all of them.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

async fn drive<IO, S, Q, B>(mut socket: Socket<IO>, service: S) -> End<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Serves<Q, B>,
    Q: Taken,
    B: Content,
{
    let link = Arc::clone(socket.link());
    poll_fn(|cx| {
        link.hub().registry.announce(&link, cx.waker());
        Poll::Ready(())
    })
    .await;
    let rest = match preamble::read(&mut socket).await {
        Preamble::Http1 => match http1::drive(socket, service).await {
            Outcome::Upgraded => return End::Upgraded,
            Outcome::Released(socket, read) => return released(socket, read),
            Outcome::Ended { socket, linger } => linger.then_some(socket),
        },
        Preamble::Http2 => http2::drive(socket, service).await,
        Preamble::Release => return released(socket, Bytes::new()),
        Preamble::Late => {
            let linger = socket.link().orders.look().leaves() || !socket.before().is_empty();
            linger.then_some(socket)
        }
        Preamble::Gone => None,
    };
    if let Some(socket) = rest {
        linger(socket).await;
    }
    End::Closed
}

fn released<IO>(socket: Socket<IO>, read: Bytes) -> End<IO> {
    let (stream, moved) = socket.release(read);
    End::Released(stream, moved)
}
