//! What lives on a connection: exchanges (a request until its answer is complete) and holds (what else keeps it busy).
//!
//! The release rule needs to know that nothing lives and that nothing came or went during a poll; the scoreboard needs
//! to know how many answers are not written yet. Both are read from the same two counters.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Release, SeqCst},
            fence,
        },
    },
    time::Duration,
};

use http::StatusCode;
use hyper::Request;

use super::{
    link::Link,
    route::{self, Route},
};
use crate::ipc::outbox::Outbox;

/// In the lower half of the word: exchanges that live. In the upper: those that ended and are not settled, and one bit.
const FINISHED: u64 = 1 << 32;
const ALL_FINISHED: u64 = CLOSED - FINISHED;
/// The socket is closed: nothing more is written, so what ends is settled at once.
const CLOSED: u64 = 1 << 63;

/// Who may change the word of exchanges at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// The driver's task: hyper polls and drops all of an HTTP/1 exchange within a poll of the connection. Saves three
    /// locked instructions a request.
    One,
    /// Any task: HTTP/2 streams have their own, and an upgraded socket closes where the handler drops it.
    Many,
}

/// The counters of one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    exchanges: AtomicU64,
    holds: AtomicU32,
}

impl Activity {
    pub(super) fn look(&self) -> Moment {
        let moment = Moment {
            exchanges: self.exchanges.load(Acquire),
            holds: self.holds.load(Acquire),
        };
        if moment.holds == 0 {
            return moment;
        }
        // Who waits for the last hold to go must not miss it: see the drop of `Hold`.
        fence(SeqCst);
        Moment {
            exchanges: self.exchanges.load(Acquire),
            holds: self.holds.load(Acquire),
        }
    }

    /// Takes up to `most` ended exchanges out, and says how many it took. Each is taken once, whoever takes it.
    pub(super) fn settle(&self, most: u32, writers: Writers) -> u32 {
        let mut taken = 0;
        self.change(writers, |word| {
            taken = finished(word).min(most);
            word - u64::from(taken) * FINISHED
        });
        taken
    }

    /// Takes all ended exchanges out; from here on [`Exchange`] settles itself.
    pub(super) fn close(&self) -> u32 {
        let before = self.change(Writers::Many, |word| word & !ALL_FINISHED | CLOSED);
        finished(before)
    }

    /// Returns what the word was.
    fn change(&self, writers: Writers, mut change: impl FnMut(u64) -> u64) -> u64 {
        let mut before = self.exchanges.load(Acquire);
        match writers {
            Writers::One => self.exchanges.store(change(before), Release),
            Writers::Many => {
                while let Err(now) =
                    self.exchanges
                        .compare_exchange_weak(before, change(before), AcqRel, Acquire)
                {
                    before = now;
                }
            }
        }
        before
    }
}

/// One reading of the counters. Of two readings with no [`Activity::settle`] between them, equal ones mean that nothing
/// came and nothing went: what comes and goes leaves an ended exchange behind, and holds only come with an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    exchanges: u64,
    holds: u32,
}

impl Moment {
    /// Nothing lives.
    pub(super) fn is_quiet(self) -> bool {
        living(self.exchanges) == 0 && self.holds == 0
    }

    /// Exchanges that ended and are not settled.
    pub(super) fn finished(self) -> u32 {
        finished(self.exchanges)
    }
}

fn living(word: u64) -> u64 {
    word & (FINISHED - 1)
}

fn finished(word: u64) -> u32 {
    ((word & ALL_FINISHED) / FINISHED) as u32
}

/// One request, from the call of the service until the answer's body has ended or was dropped.
///
/// Must be dropped after what it stands for: the service's future first, then the answer's body.
#[derive(Debug)]
pub(super) struct Exchange {
    link: Arc<Link>,
    /// Its place among the connection's requests, or [`NOWHERE`] once it has given that to the protocol it has become.
    place: u32, // this and the next are small: they go with each response from hand to hand
    writers: Writers,
}

const NOWHERE: u32 = u32::MAX;

impl Exchange {
    pub(super) fn begin<B>(link: &Arc<Link>, writers: Writers, request: &Request<B>) -> Self {
        let path = request.uri().path_and_query().cloned();
        let now = link.hub().clock.now();
        let place = link.requests.enter(request.method().clone(), path, now);
        link.row().called();
        link.row().began();
        link.activity.change(writers, |word| word + 1);
        Self {
            link: Arc::clone(link),
            writers,
            place,
        }
    }

    /// The connection goes on as another protocol, and is known by this request from here on.
    pub(super) fn upgrades(&mut self) {
        if self.place != NOWHERE {
            self.link.requests.stays(self.place);
            self.place = NOWHERE;
        }
    }

    /// Tells whoever wants to know what is being answered. Before it [upgrades](Self::upgrades).
    pub(super) fn tell(&self, told: &Outbox, status: StatusCode, elapsed: Duration) {
        self.link.requests.look(self.place, |method, route| {
            told.notice(method, route.map(Route::as_str), status, elapsed);
        });
    }

    /// What was found before is not this request's: it is of one whose handler panicked.
    #[inline]
    pub(super) fn forget_route(&self) {
        if self.link.hub().told.is_some() {
            route::take();
        }
    }

    /// If one was found meanwhile, it is this request's.
    #[inline]
    pub(super) fn learn_route(&self) {
        if self.link.hub().told.is_some() {
            self.take_route();
        }
    }

    // Not a part of what everybody goes through who is not told.
    #[cold]
    fn take_route(&self) {
        if let Some(route) = route::take() {
            self.link.requests.takes(self.place, route);
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.place != NOWHERE {
            self.link.requests.leave(self.place);
        }
        // One comes off the living and is added to the ended, in one step.
        let before = self
            .link
            .activity
            .change(self.writers, |word| word + FINISHED - 1);
        if before & CLOSED != 0 {
            self.link.row().ended(1);
        }
    }
}

/// Something that keeps a connection busy and may outlive its exchange: a request body short of its end, an HTTP/2 task.
///
/// Must be dropped after what it stands for.
#[derive(Debug)]
pub(super) struct Hold(Arc<Link>);

impl Hold {
    pub(super) fn new(link: &Arc<Link>) -> Self {
        link.activity.holds.fetch_add(1, AcqRel);
        Self(Arc::clone(link))
    }

    pub(super) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The last one wakes the driver, which may be waiting for just this to release or to settle; unless an exchange
        // lives, whose end the driver sees in a poll. No wake-up is lost between the two: of the fence here and the one in
        // `look` one is first. If this is, the driver sees the hold gone; if the other is, this sees the exchange ended.
        let Activity { exchanges, holds } = &self.0.activity;
        if holds.fetch_sub(1, AcqRel) == 1 {
            fence(SeqCst);
            if living(exchanges.load(Acquire)) == 0 {
                self.0.wake();
            }
        }
    }
}
