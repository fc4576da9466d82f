//! When to let connections gather before they are accepted.
//!
//! Each look at a backlog costs a wake-up of who looks, and of each worker that is handed something. Where connections come fast, a
//! moment's pause makes one wake-up of many; where they come slowly it would only make them wait. So the pause depends on the rate, and
//! what comes after a while in which nothing came is never held up.
//!
//! A new connection a request, 2 workers on 2 cores: with this and `sockets::Early` 0.82 of what it cost before (0.75 to
//! 1.09, 7 interleaved rounds); where workers accept, 0.83 to 0.93 of what `axum::serve` needs, without it 1.10.

use std::time::{Duration, Instant};

/// The rate is taken over at least so many connections.
const WINDOW: u32 = 8;

/// The rate at which connections come, as one acceptor sees it.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The window's begin.
    since: Instant,
    came: u32,
    is_fast: bool,
    /// At least this close to each other, on average, they are fast.
    close: Duration,
}

impl Pace {
    pub(crate) fn new(now: Instant, close: Duration) -> Self {
        Self {
            since: now,
            came: 0,
            is_fast: false,
            close,
        }
    }

    /// After a look that brought so many and left none: whether to pause before the next, rather than to wait until somebody comes.
    pub(crate) fn after(&mut self, came: usize, now: Instant) -> bool {
        self.came = self
            .came
            .saturating_add(u32::try_from(came).unwrap_or(u32::MAX));
        if came == 0 {
            *self = Self::new(now, self.close);
        } else if self.came >= WINDOW {
            self.is_fast = now.duration_since(self.since) <= self.close.saturating_mul(self.came);
            (self.since, self.came) = (now, 0);
        }
        // A pause that brought one connection was not worth it.
        self.is_fast &= came > 1;
        self.is_fast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSE: Duration = Duration::from_micros(100);

    /// What is paused when looks that bring so many are so far from each other.
    fn pauses(came: usize, apart: Duration) -> usize {
        let mut now = Instant::now();
        let mut pace = Pace::new(now, CLOSE);
        let mut look = |_: &i32| {
            now += apart;
            pace.after(came, now)
        };
        (0..100).filter(|i| look(i)).count()
    }

    #[test]
    fn only_who_comes_fast_and_in_company_is_let_gather() {
        assert!(pauses(4, Duration::from_micros(200)) > 90);
        assert_eq!(pauses(4, Duration::from_micros(500)), 0, "slow");
        assert_eq!(pauses(1, Duration::from_micros(50)), 0, "one client alone");
    }

    #[test]
    fn the_first_after_a_while_is_not_held_up() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now, CLOSE);
        for _ in 0..10 {
            now += CLOSE;
            pace.after(8, now);
        }
        assert!(pace.after(8, now));
        assert!(!pace.after(0, now + CLOSE), "nobody came");
        now += Duration::from_secs(1);
        assert!(!pace.after(3, now));
        assert!(!pace.after(30, now + Duration::from_secs(1)));
    }
}
