//! What a connection waits for and since when, as one word: keeping timeouts costs a request three plain stores.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
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
    /// When it was made, and how long after that it was moved on the last time.
    made: Instant,
    moved_on: AtomicU64,
    /// How often the reaper moves it on.
    pub(super) interval: Duration,
}

/// What a clock begins with: so far back can a wait have begun that comes from another process.
const BEGINNING: u64 = u32::MAX as u64;

impl Clock {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            now: AtomicU64::new(BEGINNING),
            made: Instant::now(),
            moved_on: AtomicU64::new(0),
            interval,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// To the millisecond, for a connection that moves: rounded at each move, many short stays would add up to nothing.
    pub(super) fn precise(&self) -> u64 {
        // In this order a turn of the clock in between makes the reading early, not late: nothing is over early.
        let now = self.now.load(Acquire);
        now + self.step(self.moved_on.load(Relaxed), millis(self.made.elapsed()))
    }

    /// Moves on by the time since it did so last, but at most by two intervals.
    pub(super) fn advance(&self) {
        let at = millis(self.made.elapsed());
        let last = self.moved_on.swap(at, Relaxed);
        self.now.fetch_add(self.step(last, at), Release);
    }

    fn step(&self, last: u64, at: u64) -> u64 {
        at.saturating_sub(last).min(millis(2 * self.interval))
    }

    /// Whether `limit` is over that began at `since`. That reading may be one interval old, hence the interval more.
    pub(super) fn is_over(&self, since: u64, limit: Duration, now: u64) -> bool {
        now.saturating_sub(since) >= millis(limit + self.interval)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
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
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(clock.precise() - BEGINNING, 200);
        clock.advance();
        assert_eq!(clock.now() - BEGINNING, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_is_timed_between_two_turns_of_the_clock() {
        let clock = Clock::new(Duration::from_millis(100));
        tokio::time::advance(Duration::from_millis(99)).await;
        assert_eq!(clock.now() - BEGINNING, 0);
        assert_eq!(clock.precise() - BEGINNING, 99);
        clock.advance();
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!(clock.precise() - BEGINNING, 102);
    }

    #[test]
    fn nothing_is_over_early() {
        let clock = Clock::new(Duration::from_millis(100));
        assert!(!clock.is_over(0, Duration::from_secs(1), 1_099));
        assert!(clock.is_over(0, Duration::from_secs(1), 1_100));
    }
}
