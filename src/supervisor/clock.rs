//! The machine's own time, which stands still while the primary does.

use std::time::{Duration, Instant};

/// Turns the driver's instants into the machine's, which leave out the gaps in which the primary was stopped.
///
/// After SIGSTOP, a suspended laptop or plain starvation every heartbeat looks late, though nobody failed. Leaving the
/// gap out of time itself moves every running deadline by it at once, and none can be forgotten.
#[derive(Debug)]
pub(super) struct Clock {
    /// The driver's time at the last input.
    last: Instant,
    /// The sum of all gaps; never more than the time since the clock was made.
    skipped: Duration,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            skipped: Duration::ZERO,
        }
    }

    /// Takes the driver's time and returns the machine's. Never goes back.
    pub(super) fn advance(&mut self, now: Instant) -> Instant {
        let gap = now.saturating_duration_since(self.last);
        if gap > STALL {
            self.skipped += gap;
        }
        self.last = self.last.max(now);
        self.now()
    }

    /// The machine's time at the last input.
    pub(super) fn now(&self) -> Instant {
        self.last - self.skipped
    }

    /// The driver's instant for one of the machine's.
    pub(super) fn outside(&self, inside: Instant) -> Instant {
        inside + self.skipped
    }
}

/// A gap between two inputs longer than this means that the primary did not run: the driver ticks ten times a second.
const STALL: Duration = Duration::from_secs(2);
