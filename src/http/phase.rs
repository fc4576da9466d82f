//! What a connection waits for and since when, as one word: keeping timeouts costs a request three plain stores.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first byte.
    FirstByte,
    /// The rest of a request's head.
    Head,
    /// The next request.
    Idle,
    /// The service, a body, the client to read, or an upgraded protocol: never late.
    Busy,
}

/// `milliseconds << 2 | phase`. Written by the task that drives the connection only, read by the reaper too.
#[derive(Debug)]
pub(super) struct Waiting(AtomicU64);

impl Waiting {
    pub(super) fn new(phase: Phase, now: u64) -> Self {
        Self(AtomicU64::new(now << 2 | phase as u64))
    }

    pub(super) fn set(&self, phase: Phase, now: u64) {
        self.0.store(now << 2 | phase as u64, Relaxed);
    }

    pub(super) fn phase(&self) -> Phase {
        self.look().0
    }

    /// The phase, and when it began.
    pub(super) fn look(&self) -> (Phase, u64) {
        let word = self.0.load(Relaxed);
        let phase = match word & 3 {
            0 => Phase::FirstByte,
            1 => Phase::Head,
            2 => Phase::Idle,
            _ => Phase::Busy,
        };
        (phase, word >> 2)
    }
}

/// Coarse time, in milliseconds. Moved on by the reaper; to read it is one load.
///
/// Time in which the process did not run (a handler that blocked the thread, a stopped process) does not count: it is
/// not held against clients whose bytes wait in the kernel.
#[derive(Debug)]
pub(super) struct Clock {
    now: AtomicU64,
    /// How often the reaper moves it on.
    pub(super) interval: Duration,
}

impl Clock {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            now: AtomicU64::new(0),
            interval,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// Moves on by the time since `last`, but at most by two intervals.
    pub(super) fn advance(&self, last: Instant) {
        let elapsed = last.elapsed().min(2 * self.interval);
        self.now.fetch_add(millis(elapsed), Relaxed);
    }

    /// Whether `limit` is over that began at `since`. A reading may be one interval old, hence the interval more.
    pub(super) fn is_over(&self, since: u64, limit: Duration) -> bool {
        self.now().saturating_sub(since) >= millis(limit + self.interval)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_phase_and_time() {
        for phase in [Phase::FirstByte, Phase::Head, Phase::Idle, Phase::Busy] {
            assert_eq!(
                Waiting::new(phase, 123_456_789).look(),
                (phase, 123_456_789)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_process_did_not_run_does_not_count() {
        let clock = Clock::new(Duration::from_millis(100));
        let last = Instant::now();
        tokio::time::advance(Duration::from_secs(15)).await;
        clock.advance(last);
        assert_eq!(clock.now(), 200);
    }

    #[test]
    fn nothing_is_over_early() {
        let clock = Clock::new(Duration::from_millis(100));
        clock.now.store(1_099, Relaxed);
        assert!(!clock.is_over(0, Duration::from_secs(1)));
        clock.now.store(1_100, Relaxed);
        assert!(clock.is_over(0, Duration::from_secs(1)));
    }
}
