//! What `playground` says of the workers that died: the other side of a tally.

use std::fmt;

use super::{Outcome, Tally};

/// The sums of the exit lines of workers whose end was not asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deaths {
    pub(crate) workers: u64,
    pub(crate) in_flight: u64,
    pub(crate) open: u64,
}

impl Deaths {
    /// Reads the lines `exit worker=… in_flight=N open=M after_disconnect=false`.
    pub(crate) fn in_output(output: &str) -> Self {
        let mut deaths = Self::default();
        for line in output.lines().filter(|line| {
            line.starts_with("exit worker=") && line.contains("after_disconnect=false")
        }) {
            deaths.workers += 1;
            deaths.in_flight += number(line, "in_flight=");
            deaths.open += number(line, "open=");
        }
        deaths
    }

    /// Nobody was refused or left waiting, and nothing failed but what died with a worker that held it.
    #[track_caller]
    pub(crate) fn must_explain(&self, tally: &Tally) {
        let failed = tally.failed();
        let (reset, cut) = (
            tally.count(Outcome::Reset) + tally.count(Outcome::WriteError),
            tally.count(Outcome::Cut),
        );
        eprintln!("{tally}  beside {self}");
        tally.must("something was answered", tally.ok() > 0);
        tally.must("nobody is refused", tally.count(Outcome::Refused) == 0);
        tally.must("nothing hangs", tally.count(Outcome::Timeout) == 0);
        tally.must("failures are connections that ended", failed == reset + cut);
        assert!(cut <= self.in_flight, "{cut} cut, but {self}\n{tally}");
        assert!(failed <= self.open, "{failed} failed, but {self}\n{tally}");
    }
}

impl fmt::Display for Deaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} workers died with {} requests in flight on {} open connections",
            self.workers, self.in_flight, self.open
        )
    }
}

fn number(line: &str, name: &str) -> u64 {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {line:?}"))
}
