//! Who has served enough, and is to be replaced before anything is wrong.
//!
//! A machine beside the supervisor: it is shown what workers have done and says who is due, the supervisor replaces as it always does,
//! successor first. What holds whatever it is shown:
//!
//! - Nobody is named twice, and nobody before its own limit.
//! - Nobody is named while the one named last is still there: workers that come due together are replaced one after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::id::WorkerId;
use crate::settings::Limits;

/// One look at a worker that serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) id: WorkerId,
    /// Requests that have reached it so far.
    pub(crate) requests: u64,
    /// What it holds in memory, if this was [asked for](Recycling::wants_memory) and could be read.
    pub(crate) memory: Option<u64>,
}

/// Why a worker is recycled. Its `Display` ends the sentence "it is recycled: …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Requests { served: u64, limit: u64 },
    Lifetime { limit: Duration },
    Memory { bytes: u64, limit: u64 },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests { served, limit } => {
                write!(f, "it has served {served} requests, its share is {limit}")
            }
            Self::Lifetime { limit } => write!(f, "it has lived its {limit:.1?}"),
            Self::Memory { bytes, limit } => {
                write!(f, "it holds {bytes} bytes of memory, above {limit}")
            }
        }
    }
}

/// The machine. See the [module](self).
#[derive(Debug)]
pub(crate) struct Recycling {
    limits: Limits,
    /// Shifts what limits are spread by, so that two clusters started together differ.
    seed: u64,
    workers: BTreeMap<WorkerId, Watched>,
    /// Named, and not gone yet.
    under_way: Option<WorkerId>,
}

#[derive(Debug)]
struct Watched {
    since: Instant,
    /// When its memory is to be looked at next.
    next_sample: Instant,
    /// Samples in a row that were above the limit.
    above: u32,
    last_memory: u64,
}

impl Recycling {
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            seed,
            workers: BTreeMap::new(),
            under_way: None,
        }
    }

    /// Whether there is any limit to watch.
    pub(crate) fn is_on(&self) -> bool {
        self.limits != Limits::default()
    }

    /// Whether a worker's memory is to be looked at now: once a second each, and only where there is a limit.
    pub(crate) fn wants_memory(&self, now: Instant, id: WorkerId) -> bool {
        let due = |worker: &Watched| worker.next_sample <= now;
        self.limits.memory.is_some() && self.workers.get(&id).is_none_or(due)
    }

    /// Takes a look at a worker; the first one begins its life.
    pub(crate) fn saw(&mut self, now: Instant, sighting: Sighting) -> Option<Reason> {
        let Sighting {
            id,
            requests,
            memory,
        } = sighting;
        let worker = self.workers.entry(id).or_insert(Watched {
            since: now,
            next_sample: now,
            above: 0,
            last_memory: 0,
        });
        if let (Some(bytes), Some(limit)) = (memory, self.limits.memory) {
            worker.next_sample = now + SAMPLE_EVERY;
            worker.last_memory = bytes;
            worker.above = if bytes > limit { worker.above + 1 } else { 0 };
        }
        if self.under_way.is_some() {
            return None;
        }
        let reason = self.due(now, id, requests)?;
        self.under_way = Some(id);
        Some(reason)
    }

    /// Its process has ended.
    pub(crate) fn gone(&mut self, id: WorkerId) {
        self.workers.remove(&id);
        self.under_way.take_if(|named| *named == id);
    }

    fn due(&self, now: Instant, id: WorkerId, requests: u64) -> Option<Reason> {
        let worker = self.workers.get(&id)?;
        let served = |limit| {
            (requests >= limit).then_some(Reason::Requests {
                served: requests,
                limit,
            })
        };
        let lived = |limit| (now >= worker.since + limit).then_some(Reason::Lifetime { limit });
        let holds = |limit| {
            let bytes = worker.last_memory;
            (worker.above >= SAMPLES).then_some(Reason::Memory { bytes, limit })
        };
        let Limits {
            requests,
            lifetime,
            memory,
        } = self.limits;
        requests
            .and_then(|limit| served(limit.saturating_add(self.extra(id, limit))))
            .or_else(|| {
                let extra = |limit: Duration| {
                    let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
                    Duration::from_nanos(self.extra(id, nanos))
                };
                lifetime.and_then(|limit| lived(limit.saturating_add(extra(limit))))
            })
            .or_else(|| memory.and_then(holds))
    }

    /// What a worker gets beyond a limit: between nothing and a tenth of it.
    ///
    /// Steps of the golden ratio around a circle: any run of ids, however long, is spread evenly over the tenth, where dice
    /// would now and then throw the same twice.
    fn extra(&self, id: WorkerId, limit: u64) -> u64 {
        let angle = self.seed.wrapping_add(id.get()).wrapping_mul(GOLDEN);
        ((u128::from(limit / 10) * u128::from(angle)) >> 64) as u64
    }
}

/// The fraction of the golden ratio, of 2^64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// So many in a row above the limit are no peak any more.
const SAMPLES: u32 = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(n: u64) -> WorkerId {
        WorkerId::new(n)
    }

    fn served(n: u64, requests: u64) -> Sighting {
        Sighting {
            id: id(n),
            requests,
            memory: None,
        }
    }

    fn with(limits: Limits) -> (Recycling, Instant) {
        (Recycling::new(limits, 0), Instant::now())
    }

    fn requests(limit: u64) -> Limits {
        Limits {
            requests: Some(limit),
            ..Limits::default()
        }
    }

    #[test]
    fn without_limits_nobody_is_due() {
        let (mut recycling, now) = with(Limits::default());
        assert!(!recycling.is_on());
        assert_eq!(recycling.saw(now, served(1, u64::MAX)), None);
        assert_eq!(
            recycling.saw(now + 1_000_000 * SECOND, served(1, u64::MAX)),
            None
        );
        assert!(!recycling.wants_memory(now, id(1)));
    }

    #[test]
    fn workers_of_equal_load_come_due_apart_within_a_tenth() {
        let (recycling, _) = with(requests(10_000));
        for workers in [2, 4, 8] {
            // Of any generation: the ids of a cluster that has run for long follow each other, too.
            for first in [1, 2, 77, 12_345] {
                let mut limits: Vec<_> = (first..first + workers)
                    .map(|n| recycling.extra(id(n), 10_000))
                    .collect();
                limits.sort_unstable();
                assert!(limits.iter().all(|extra| *extra < 1000), "{limits:?}");
                let gaps = limits.windows(2).map(|pair| pair[1] - pair[0]);
                let least = gaps.min().unwrap();
                assert!(least * workers * 3 >= 1000, "{least} of {limits:?}");
            }
        }
    }

    #[test]
    fn the_next_one_is_named_when_the_last_one_is_gone() {
        let (mut recycling, now) = with(requests(100));
        assert_eq!(recycling.saw(now, served(1, 99)), None);
        let reason = recycling.saw(now, served(1, 200)).unwrap();
        assert!(matches!(
            reason,
            Reason::Requests {
                served: 200,
                limit: 100..=110
            }
        ));
        assert_eq!(recycling.saw(now, served(1, 300)), None, "named already");
        assert_eq!(recycling.saw(now, served(2, 300)), None);
        recycling.gone(id(3));
        assert_eq!(recycling.saw(now, served(2, 300)), None);
        recycling.gone(id(1));
        assert!(recycling.saw(now, served(2, 300)).is_some());
    }

    #[test]
    fn a_lifetime_begins_when_the_worker_is_first_seen() {
        let (mut recycling, now) = with(Limits {
            lifetime: Some(100 * SECOND),
            ..Limits::default()
        });
        let at = |s: u32| now + s * SECOND;
        assert_eq!(recycling.saw(at(0), served(1, 0)), None);
        assert_eq!(recycling.saw(at(50), served(2, 0)), None);
        assert_eq!(recycling.saw(at(99), served(1, 0)), None);
        let reason = recycling.saw(at(110), served(1, 0));
        assert!(
            matches!(reason, Some(Reason::Lifetime { .. })),
            "{reason:?}"
        );
        recycling.gone(id(1));
        assert_eq!(recycling.saw(at(149), served(2, 0)), None);
        assert!(recycling.saw(at(160), served(2, 0)).is_some());
    }

    #[test]
    fn three_samples_in_a_row_above_the_limit_and_no_peak() {
        let (mut recycling, now) = with(Limits {
            memory: Some(1000),
            ..Limits::default()
        });
        let mut look = |s: u32, memory| {
            let now = now + s * SECOND;
            let memory = recycling.wants_memory(now, id(1)).then_some(memory);
            recycling.saw(
                now,
                Sighting {
                    memory,
                    ..served(1, 0)
                },
            )
        };
        for (s, memory) in [2000, 2000, 1000, 2000, 2000].into_iter().enumerate() {
            let s = s as u32;
            assert_eq!(look(s, memory), None);
            assert_eq!(look(s, memory), None, "the same second, not another sample");
        }
        let reason = Reason::Memory {
            bytes: 3000,
            limit: 1000,
        };
        assert_eq!(look(5, 3000), Some(reason));
        assert!(reason.to_string().contains("3000 bytes"));
    }

    #[test]
    fn memory_that_cannot_be_read_is_asked_for_again() {
        let (mut recycling, now) = with(Limits {
            memory: Some(1000),
            ..Limits::default()
        });
        assert_eq!(recycling.saw(now, served(1, 0)), None);
        assert!(recycling.wants_memory(now, id(1)));
    }

    proptest! {
        #[test]
        fn one_at_a_time_and_nobody_early(
            limit in 0..u64::MAX,
            seed in any::<u64>(),
            looks in prop::collection::vec((1..6_u64, any::<u64>(), prop::bool::weighted(0.2)), 0..100),
        ) {
            let mut recycling = Recycling::new(requests(limit), seed);
            let now = Instant::now();
            let mut named: Option<u64> = None;
            for (n, requests, gone) in looks {
                if gone {
                    recycling.gone(id(n));
                    named = named.filter(|&other| other != n);
                } else if recycling.saw(now, served(n, requests)).is_some() {
                    prop_assert!(named.is_none() && requests >= limit);
                    named = Some(n);
                }
            }
        }

        #[test]
        fn a_worker_gets_at_most_a_tenth_more(limit in any::<u64>(), seed in any::<u64>(), n in any::<u64>()) {
            let recycling = Recycling::new(requests(limit), seed);
            prop_assert!(recycling.extra(id(n), limit) <= limit / 10);
        }
    }
}
