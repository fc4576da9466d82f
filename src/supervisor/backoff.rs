//! How long a slot waits after a death.

use std::time::Duration;

use super::Policy;

/// A slot's memory of deaths.
///
/// A worker that listened and died is replaced at once while its slot has credit, so that a random `kill -9` costs no
/// service; one that never listened, or that dies right after listening again and again, waits ever longer. Within a
/// row of deaths the wait never shrinks but by jitter, and it never exceeds the limit by more than jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    /// Deaths in a row that had to wait, since a worker was last healthy.
    deaths: u32,
    /// Time listened that may be spent on immediate replacements, at most [`CREDIT`].
    credit: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            deaths: 0,
            credit: CREDIT,
        }
    }

    pub(super) fn deaths(&self) -> u32 {
        self.deaths
    }

    /// A worker of this slot stopped listening, by death or by order, after `listened`.
    pub(super) fn earn(&mut self, listened: Duration) {
        self.credit = CREDIT.min(self.credit.saturating_add(listened));
    }

    /// A worker of this slot died, having listened that long or never: how long to wait before the next.
    pub(super) fn died(
        &mut self,
        listened: Option<Duration>,
        policy: &Policy,
        limit: Duration,
        jitter: &mut Jitter,
    ) -> Duration {
        if let Some(listened) = listened {
            self.earn(listened);
            if listened >= policy.healthy_after {
                self.deaths = 0;
            }
            if let Some(left) = self.credit.checked_sub(COST) {
                self.credit = left;
                return Duration::ZERO;
            }
        }
        self.deaths = self.deaths.saturating_add(1);
        let doublings = (self.deaths - 1).min(31);
        let delay = policy
            .backoff_first
            .saturating_mul(1 << doublings)
            .min(limit);
        jitter.lengthen(delay)
    }
}

/// Lengthens delays by up to a tenth, so that slots that died together do not start together for ever.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn lengthen(&mut self, delay: Duration) -> Duration {
        // SplitMix64: a few lines, good enough for spreading, the same everywhere.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let permille = ((x ^ (x >> 31)) % 101) as u32;
        delay + delay * permille / 1000
    }
}

/// What an immediate replacement costs: two for each second listened.
const COST: Duration = Duration::from_millis(500);

/// Twelve immediate replacements.
const CREDIT: Duration = Duration::from_secs(6);
