//! What lives on a connection: exchanges (a request until its answer is complete) and holds (what else keeps it busy).
//!
//! The release rule needs to know that nothing lives and that nothing came or went during a poll; the scoreboard needs
//! to know how many answers are not written yet. Both are read from the same two counters.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use super::link::Link;

/// In the lower half of the word: exchanges that live. In the upper: those that ended and are not settled, and one bit.
const FINISHED: u64 = 1 << 32;
const ALL_FINISHED: u64 = CLOSED - FINISHED;
/// The socket is closed: nothing more is written, so what ends is settled at once.
const CLOSED: u64 = 1 << 63;

/// The counters of one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    exchanges: AtomicU64,
    holds: AtomicU32,
}

impl Activity {
    pub(super) fn look(&self) -> Moment {
        Moment { exchanges: self.exchanges.load(SeqCst), holds: self.holds.load(SeqCst) }
    }

    /// Takes up to `most` ended exchanges out, and says how many it took. Each is taken once, whoever takes it.
    pub(super) fn settle(&self, most: u32) -> u32 {
        let mut taken = 0;
        let _ = self.exchanges.fetch_update(SeqCst, SeqCst, |word| {
            taken = finished(word).min(most);
            (taken > 0).then_some(word - u64::from(taken) * FINISHED)
        });
        taken
    }

    /// Takes all ended exchanges out; from here on [`Exchange`] settles itself.
    pub(super) fn close(&self) -> u32 {
        let mut taken = 0;
        let _ = self.exchanges.fetch_update(SeqCst, SeqCst, |word| {
            taken = finished(word);
            Some(word & !ALL_FINISHED | CLOSED)
        });
        taken
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
pub(super) struct Exchange(Arc<Link>);

impl Exchange {
    pub(super) fn begin(link: &Arc<Link>) -> Self {
        link.row().began();
        link.activity.exchanges.fetch_add(1, SeqCst);
        Self(Arc::clone(link))
    }

    pub(super) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // One comes off the living and is added to the ended, in one step.
        let before = self.0.activity.exchanges.fetch_add(FINISHED - 1, SeqCst);
        if before & CLOSED != 0 {
            self.0.row().ended(1);
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
        link.activity.holds.fetch_add(1, SeqCst);
        Self(Arc::clone(link))
    }

    pub(super) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The last one wakes the driver, which may be waiting for just this to release or to settle; unless an exchange
        // lives, whose end the driver sees in a poll. No wake-up is lost between the two: either this load sees the
        // exchange ended, or the driver, which looks after the exchange ended, sees the hold gone (both are SeqCst).
        let Activity { exchanges, holds } = &self.0.activity;
        if holds.fetch_sub(1, SeqCst) == 1 && living(exchanges.load(SeqCst)) == 0 {
            self.0.wake();
        }
    }
}
