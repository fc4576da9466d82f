//! What a connection shares with the process: orders come in, counts and waiting times are looked at.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::{
    Timeouts,
    exchange::{Activity, Writers},
    orders::{Inbox, Orders},
    phase::{Clock, Phase, Waiting, millis},
    registry::Registry,
    requests::Requests,
};
use crate::{
    ipc::outbox::Outbox,
    moved::{Awaits, Moved},
    scoreboard::Row,
};

/// What all connections of a process share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) timeouts: Timeouts,
    pub(super) clock: Clock,
    pub(super) registry: Registry,
    pub(super) row: Arc<Row>,
    /// Where each answer is told of, if anybody wants to know.
    pub(super) told: Option<Arc<Outbox>>,
    /// When the process was told to leave: idle connections linger from then on.
    pub(super) left_at: AtomicU64,
    /// Told each time the last open connection closes.
    pub(super) empty: Notify,
}

/// One connection, seen by its driver, its socket, the registry, and whatever lives on it.
pub(super) struct Link {
    hub: Arc<Hub>,
    /// The task that serves it; it never changes. Set under the registry's lock, see there.
    pub(super) driver: OnceLock<Waker>,
    pub(super) orders: Inbox,
    pub(super) waiting: Waiting,
    pub(super) activity: Activity,
    pub(super) requests: Requests,
    /// hyper holds bytes that the socket did not take yet, or has begun to shut it down. Driver's task only.
    pub(super) unwritten: AtomicBool,
    /// The body of the latest request was not read to its end (yet). Kept by [`RequestBody`](super::RequestBody).
    pub(super) body_unread: AtomicBool,
    /// It cannot be let go alive, so it is not asked for balance's sake: HTTP/2.
    pub(super) stays: AtomicBool,
    /// Who reads and writes the stream once it is upgraded: woken when it is cut.
    pub(super) reader: AtomicWaker,
    pub(super) writer: AtomicWaker,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the hub, which would show all links, this one included.
        let Self {
            orders,
            waiting,
            activity,
            ..
        } = self;
        f.debug_tuple("Link")
            .field(orders)
            .field(waiting)
            .field(activity)
            .finish()
    }
}

impl Link {
    pub(super) fn new(hub: Arc<Hub>, phase: Phase, orders: Orders) -> Self {
        let now = hub.clock.now();
        Self::since(hub, phase, now, orders)
    }

    /// A connection whose time began elsewhere, or here before nobody took it.
    pub(super) fn moved(hub: Arc<Hub>, moved: &Moved, orders: Orders) -> Self {
        let phase = match moved.awaits {
            _ if !moved.read.is_empty() => Phase::Head,
            Awaits::FirstByte => Phase::FirstByte,
            Awaits::Head => Phase::Head,
            Awaits::Request => Phase::Idle,
        };
        let now = hub.clock.precise();
        let since = if phase != Phase::Head && orders.leaves() {
            now // it lingers, from now on
        } else {
            now.saturating_sub(millis(moved.waited))
        };
        let link = Self::since(hub, phase, since, orders);
        // Its next move may come before the reaper does.
        if link.is_late(now) {
            link.orders.put(Orders::LATE);
        }
        link
    }

    fn since(hub: Arc<Hub>, phase: Phase, since: u64, orders: Orders) -> Self {
        Self {
            driver: OnceLock::new(),
            orders: Inbox::new(orders),
            waiting: Waiting::new(phase, since),
            activity: Activity::default(),
            requests: Requests::default(),
            unwritten: AtomicBool::new(false),
            body_unread: AtomicBool::new(false),
            stays: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            hub,
        }
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(super) fn row(&self) -> &Row {
        &self.hub.row
    }

    pub(super) fn wake(&self) {
        if let Some(driver) = self.driver.get() {
            driver.wake_by_ref();
        }
    }

    /// Wakes whoever may be reading or writing too. A task of the handler's holds an upgraded stream.
    pub(super) fn wake_all(&self) {
        self.wake();
        self.reader.wake();
        self.writer.wake();
    }

    /// Whether it is the driver who polls: then no other waker need be kept.
    pub(super) fn is_driver(&self, cx: &Context<'_>) -> bool {
        self.driver
            .get()
            .is_some_and(|driver| driver.will_wake(cx.waker()))
    }

    pub(super) fn is_cut(&self) -> bool {
        self.orders.look().contains(Orders::CUT)
    }

    pub(super) fn wait_for(&self, phase: Phase) {
        self.waiting.set(phase, self.hub.clock.now());
    }

    /// Bytes came of an HTTP/1 connection. The first ones begin a head; later ones do not extend its time.
    pub(super) fn bytes_came(&self) {
        if matches!(self.waiting.phase(), Phase::FirstByte | Phase::Idle) {
            self.wait_for(Phase::Head);
        }
    }

    /// Whether it looks as if it could be let go at once. Only its driver can tell, by the release rule.
    pub(super) fn may_move(&self) -> bool {
        self.waiting.phase() == Phase::Idle && !self.stays.load(Relaxed)
    }

    /// Where it stands between two requests, having read this much of the next.
    pub(super) fn standing(&self, read: Bytes) -> Moved {
        let (phase, since) = self.waiting.look();
        let awaits = match phase {
            // Bytes that came together with the request before were not noticed as a head's, but are as old as the wait.
            Phase::Head => Awaits::Head,
            Phase::Idle | Phase::Busy if !read.is_empty() => Awaits::Head,
            Phase::Idle | Phase::Busy => Awaits::Request,
            Phase::FirstByte => Awaits::FirstByte,
        };
        let waited = match phase {
            Phase::Busy => 0,
            _ => self.hub.clock.precise().saturating_sub(since),
        };
        Moved {
            read,
            awaits,
            waited: Duration::from_millis(waited),
        }
    }

    /// Whether a timeout is exceeded at this time.
    pub(super) fn is_late(&self, now: u64) -> bool {
        let (phase, since) = self.waiting.look();
        let Some((since, limit)) = self.limit(phase, since) else {
            return false;
        };
        limit.is_zero() || self.hub.clock.is_over(since, limit, now)
    }

    fn limit(&self, phase: Phase, since: u64) -> Option<(u64, Duration)> {
        let Timeouts {
            first_byte,
            head,
            idle,
            linger,
        } = self.hub.timeouts;
        let limit = match phase {
            Phase::Busy => None,
            Phase::Head => head,
            Phase::FirstByte | Phase::Idle if self.orders.look().contains(Orders::CLOSE) => {
                return Some((since.max(self.hub.left_at.load(Relaxed)), linger));
            }
            Phase::FirstByte => first_byte,
            Phase::Idle => idle,
        };
        limit.map(|limit| (since, limit))
    }

    /// Takes the reaper's order, and says whether the timeout is still exceeded.
    pub(super) fn is_still_late(&self) -> bool {
        self.orders.take(Orders::LATE);
        self.is_late(self.hub.clock.precise())
    }

    /// The answers of up to `most` ended exchanges are written.
    pub(super) fn settle(&self, most: u32, writers: Writers) {
        let settled = self.activity.settle(most, writers);
        if settled > 0 {
            self.row().ended(settled.into());
        }
    }

    /// After a poll of hyper's: `ended` exchanges are settled, unless the socket did not take everything. A connection on
    /// which nothing lives any more is idle from here on.
    pub(super) fn rest(&self, ended: u32, writers: Writers) {
        if self.waiting.phase() != Phase::Busy || self.unwritten.load(Relaxed) {
            return;
        }
        self.settle(ended, writers);
        let rest = self.activity.look();
        if rest.is_quiet() && rest.finished() == 0 {
            self.wait_for(Phase::Idle);
        }
    }
}
