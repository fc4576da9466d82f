//! What a cluster is told, in one place, with its defaults. Workers take the primary's from its welcome.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Who gets a new connection.
///
/// Set with [`ClusteredServer::scheduling`](crate::ClusteredServer::scheduling); the environment variable
/// `AXUM_CLUSTER_SCHEDULING` (`round-robin`, `least-connections`, `ip-hash`, `shared`) overrides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Scheduling {
    /// Strict rotation over the workers that have room (Node's default, `SCHED_RR`). One that has taken nothing for 20 ms although
    /// connections wait for it has none until it has taken them; so also with [`LeastConnections`](Self::LeastConnections).
    #[default]
    RoundRobin,
    /// The worker with the fewest open connections; rotation among equals.
    LeastConnections,
    /// The same client address goes to the same worker as long as that worker lives and is not stuck: while its thread is blocked its
    /// clients wait, up to 150 ms, before they go to another.
    IpHash,
    /// Workers accept themselves, and the kernel chooses which (Node's `SCHED_NONE`, without its herd: a connection wakes one worker).
    ///
    /// The cheapest way to a worker: no other process touches the connection. Even over time, by a queue of the workers that wait; not
    /// exact. A worker that is busy takes fewer. What is given back in a restart, or for balance, still goes through the primary.
    Shared,
}

impl Scheduling {
    /// The value of `AXUM_CLUSTER_SCHEDULING`.
    pub(crate) fn parse(value: &str) -> Result<Self> {
        match value {
            "round-robin" => Ok(Self::RoundRobin),
            "least-connections" => Ok(Self::LeastConnections),
            "ip-hash" => Ok(Self::IpHash),
            "shared" => Ok(Self::Shared),
            _ => Err(Error::Setting {
                name: "AXUM_CLUSTER_SCHEDULING",
                value: value.to_owned(),
                expected: "`round-robin`, `least-connections`, `ip-hash` or `shared`",
            }),
        }
    }
}

/// Times and limits. The public builder documents each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)] // what an older primary does not know is as it was there
pub(crate) struct Settings {
    pub(crate) workers: u32,
    pub(crate) scheduling: Scheduling,
    pub(crate) backlog: u32,
    pub(crate) max_connections: Option<usize>,
    pub(crate) boot_timeout: Duration,
    pub(crate) hang_timeout: Duration,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_deadline: Duration,
    pub(crate) exit_grace: Duration,
    pub(crate) handback: bool,
    pub(crate) linger: Duration,
    pub(crate) first_byte_timeout: Option<Duration>,
    pub(crate) header_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) recycling: Limits,
    pub(crate) rebalance: bool,
}

/// What a worker may do before it is recycled. Nothing set: it serves for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) requests: Option<u64>,
    pub(crate) lifetime: Option<Duration>,
    /// In bytes.
    pub(crate) memory: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            scheduling: Scheduling::default(),
            backlog: 1024,
            max_connections: None,
            boot_timeout: Duration::from_secs(60),
            hang_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            drain_deadline: Duration::from_secs(30),
            exit_grace: Duration::from_secs(5),
            handback: true,
            linger: Duration::from_secs(2),
            first_byte_timeout: Some(Duration::from_secs(10)),
            header_timeout: Some(Duration::from_secs(10)),
            idle_timeout: Some(Duration::from_secs(75)),
            recycling: Limits::default(),
            rebalance: true,
        }
    }
}

impl Settings {
    /// Applies `AXUM_CLUSTER_WORKERS` and `AXUM_CLUSTER_SCHEDULING`, given as read from the environment.
    pub(crate) fn overridden(
        mut self,
        workers: Option<&str>,
        scheduling: Option<&str>,
    ) -> Result<Self> {
        if let Some(value) = workers {
            self.workers = value.parse().ok().filter(|&n| n <= MAX_WORKERS).ok_or_else(|| Error::Setting {
                name: "AXUM_CLUSTER_WORKERS",
                value: value.to_owned(),
                expected: "a number of worker processes from 0 to 4096 (0 serves in this one process)",
            })?;
        }
        if let Some(value) = scheduling {
            self.scheduling = Scheduling::parse(value)?;
        }
        if self.workers > MAX_WORKERS {
            return Err(Error::Setting {
                name: "workers",
                value: self.workers.to_string(),
                expected: "a number of worker processes from 0 to 4096",
            });
        }
        Ok(self)
    }
}

/// More than this is a slip of the finger, not a plan.
const MAX_WORKERS: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    // C-11, K-22.
    #[test]
    fn the_environment_overrides_and_a_typo_is_an_error() {
        let settings = Settings::default()
            .overridden(Some("7"), Some("ip-hash"))
            .unwrap();
        assert_eq!(
            (settings.workers, settings.scheduling),
            (7, Scheduling::IpHash)
        );
        // K-22: an unknown value is never ignored.
        let error = Settings::default()
            .overridden(None, Some("rr"))
            .unwrap_err();
        for value in ["round-robin", "least-connections", "ip-hash", "shared"] {
            assert!(error.to_string().contains(value), "{error}");
            assert!(Scheduling::parse(value).is_ok(), "{value}");
        }
        for bad in ["", "-1", "many", "99999"] {
            assert!(
                Settings::default().overridden(Some(bad), None).is_err(),
                "{bad}"
            );
        }
    }
}
