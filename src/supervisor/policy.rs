//! The numbers a supervisor goes by.

use std::time::Duration;

/// How many workers, and how patient to be with them.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Keeps as many workers running as are wanted. Otherwise nobody is spawned but whom somebody asks for.
    pub(crate) supervised: bool,
    /// Workers wanted at the start; at least one is kept.
    pub(crate) workers: u32,
    /// From the order to spawn a worker until it listens.
    pub(crate) boot_timeout: Duration,
    /// Between two heartbeats of a worker that listens or drains.
    pub(crate) hang_timeout: Duration,
    /// From the order to retire until the worker is killed.
    pub(crate) drain_deadline: Duration,
    /// Between SIGABRT, which leaves a core of a hung worker, and SIGKILL.
    pub(crate) abort_grace: Duration,
    /// How long a worker that was sent TERM waits for the primary's own TERM before it is replaced: a `pkill` reaches
    /// every process of a cluster, in any order.
    pub(crate) leave_grace: Duration,
    /// Back-off after the first death in a row; doubles with each further one.
    pub(crate) backoff_first: Duration,
    /// Where doubling ends.
    pub(crate) backoff_max: Duration,
    /// A worker that listened this long ends its slot's row of deaths.
    pub(crate) healthy_after: Duration,
    /// Deaths in a row of one slot after which a cluster that has never served gives up.
    pub(crate) boot_deaths: u32,
    /// Seed of the jitter, so that a test or a replay sees the same delays.
    pub(crate) jitter: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            supervised: true,
            workers: 1,
            boot_timeout: Duration::from_secs(60),
            hang_timeout: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(30),
            abort_grace: Duration::from_secs(1),
            leave_grace: Duration::from_millis(250),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            healthy_after: Duration::from_secs(30),
            boot_deaths: 16,
            jitter: 0,
        }
    }
}
