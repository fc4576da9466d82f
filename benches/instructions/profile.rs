//! Reads what callgrind wrote.

use std::fs;
use std::path::Path;

use crate::Result;

/// What was counted of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) instructions: u64,
    /// System calls.
    pub(crate) calls: u64,
    pub(crate) allocations: u64,
    pub(crate) reallocations: u64,
}

pub(crate) fn read(profile: &Path) -> Result<Counts> {
    let profile = fs::read_to_string(profile)?;
    let mut counts = Counts::default();
    let mut events = Vec::new();
    let mut called = "";
    for line in profile.lines() {
        if let Some(names) = line.strip_prefix("events: ") {
            events = names.split_whitespace().collect();
        } else if let Some(function) = line.strip_prefix("cfn=") {
            called = function;
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let times: u64 = calls.split(' ').next().unwrap_or_default().parse()?;
            match called {
                "malloc" | "calloc" | "posix_memalign" | "aligned_alloc" => {
                    counts.allocations += times
                }
                "realloc" => counts.reallocations += times,
                _ => {}
            }
        } else if let Some(totals) = line.strip_prefix("totals: ") {
            let totals = totals.split_whitespace().map(str::parse);
            for (event, total) in events.iter().zip(totals) {
                match *event {
                    "Ir" => counts.instructions = total?,
                    "sysCount" => counts.calls = total?,
                    _ => {}
                }
            }
        }
    }
    Ok(counts)
}
