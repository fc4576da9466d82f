//! How requests ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Ok,
    /// Nobody listened.
    Refused,
    /// The connection ended, by reset or by close, before any byte of the answer.
    Reset,
    /// The connection ended in the middle of the answer.
    Cut,
    /// Not answered within the deadline.
    Timeout,
    BadStatus,
    BadBody,
    /// The request could not be written to its end, and no answer came.
    WriteError,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Since the load began.
    pub(crate) begun: Duration,
    /// Connecting included.
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
    /// Not the first request of its connection.
    pub(crate) reused: bool,
    /// `x-worker` and `x-generation` of the answer; 0 without.
    pub(crate) worker: u64,
    pub(crate) generation: u64,
}

/// What became of all requests of a load. Its `Display` is a table.
#[derive(Debug)]
pub(crate) struct Tally {
    records: Vec<Record>,
    time: Duration,
}

impl Tally {
    /// Both in one table; the time is that of the longer one.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.records.extend(other.records);
        Self::new(self.records, self.time.max(other.time))
    }

    pub(super) fn new(mut records: Vec<Record>, time: Duration) -> Self {
        records.sort_by_key(|record| record.begun);
        Self { records, time }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.records
            .iter()
            .filter(|record| record.outcome == outcome)
            .count() as u64
    }

    /// On connections that had been answered before.
    pub(crate) fn count_reused(&self, outcome: Outcome) -> u64 {
        self.records
            .iter()
            .filter(|record| record.outcome == outcome && record.reused)
            .count() as u64
    }

    pub(crate) fn ok(&self) -> u64 {
        self.count(Outcome::Ok)
    }

    /// Everything but what was answered well.
    pub(crate) fn failed(&self) -> u64 {
        self.sent() - self.ok()
    }

    /// The `x-generation` of the answers.
    pub(crate) fn generations(&self) -> BTreeSet<u64> {
        let answered = self
            .records
            .iter()
            .filter(|record| record.outcome == Outcome::Ok);
        answered.map(|record| record.generation).collect()
    }

    /// Connections that it took.
    pub(crate) fn connections(&self) -> usize {
        self.records.iter().filter(|record| !record.reused).count()
    }

    /// Answers of each worker, by `x-worker`.
    pub(crate) fn by_worker(&self) -> BTreeMap<u64, u64> {
        let mut by_worker = BTreeMap::new();
        for record in self
            .records
            .iter()
            .filter(|record| record.outcome == Outcome::Ok)
        {
            *by_worker.entry(record.worker).or_default() += 1;
        }
        by_worker
    }

    pub(crate) fn slowest(&self) -> Duration {
        self.records
            .iter()
            .map(|record| record.took)
            .max()
            .unwrap_or_default()
    }

    /// How long after `moment` the first request that was begun then, or later, was answered.
    pub(crate) fn back_after(&self, moment: Duration) -> Option<Duration> {
        let after = self
            .records
            .iter()
            .filter(|record| record.begun >= moment && record.outcome == Outcome::Ok);
        after
            .map(|record| record.begun + record.took - moment)
            .min()
    }

    /// Fails with the whole table unless `holds`.
    #[track_caller]
    pub(crate) fn must(&self, what: &str, holds: bool) {
        assert!(holds, "it must hold that {what}; but:\n{self}");
    }

    /// Fails with the whole table unless every request was answered well.
    #[track_caller]
    pub(crate) fn must_be_perfect(&self) {
        self.must("something was sent", self.sent() > 0);
        self.must("no request failed", self.failed() == 0);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} requests in {:.1?}:", self.sent(), self.time)?;
        let mut outcomes: BTreeMap<Outcome, (u64, u64)> = BTreeMap::new();
        for record in &self.records {
            let (fresh, reused) = outcomes.entry(record.outcome).or_default();
            *if record.reused { reused } else { fresh } += 1;
        }
        for (outcome, (fresh, reused)) in outcomes {
            writeln!(
                f,
                "  {:<10} {fresh:>8} on new connections {reused:>8} on used ones",
                format!("{outcome:?}")
            )?;
        }
        let mut times: Vec<_> = self.records.iter().map(|record| record.took).collect();
        times.sort_unstable();
        if let (Some(median), Some(p99), Some(most)) = (
            times.get(times.len() / 2),
            times.get(times.len() * 99 / 100),
            times.last(),
        ) {
            writeln!(
                f,
                "  took       {median:.1?} median, {p99:.1?} of 99 %, {most:.1?} at the most"
            )?;
        }
        let by_worker = self.by_worker();
        if by_worker.len() <= 16 {
            write!(f, "  answered by")?;
            for (worker, answers) in &by_worker {
                write!(f, " {worker}: {answers}")?;
            }
            writeln!(f)?;
        } else {
            writeln!(f, "  answered by {} workers", by_worker.len())?;
        }
        writeln!(f, "  of generations {:?}", self.generations())?;
        for record in self
            .records
            .iter()
            .filter(|record| record.outcome != Outcome::Ok)
            .take(SHOWN)
        {
            writeln!(
                f,
                "  {:?} at {:.1?} after {:.1?}, reused: {}",
                record.outcome, record.begun, record.took, record.reused
            )?;
        }
        Ok(())
    }
}

/// Failures that a table shows one by one.
const SHOWN: usize = 8;
