//! How much memory a process holds that nobody else could use.

use std::fs;

/// The anonymous memory of a process in bytes, swapped out or not; `None` when it has ended.
///
/// From `/proc/PID/status`, which is made from counters. `smaps_rollup` knows the proportional size too, but walks all of the process's
/// page tables for it, with a lock held that a worker busy with page faults would make the primary wait for.
pub(super) fn held_by(pid: u32) -> Option<u64> {
    anonymous(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn anonymous(status: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    };
    // A kernel built without swap has no such field. A zombie has neither.
    let kib = field("RssAnon:")?.saturating_add(field("VmSwap:").unwrap_or(0));
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_and_swapped_anonymous_memory_count() {
        let status = "Name:\tx\nVmRSS:\t 9999 kB\nRssAnon:\t     100 kB\nRssFile:\t 5000 kB\nVmSwap:\t       7 kB\n";
        assert_eq!(anonymous(status), Some(107 * 1024));
        assert_eq!(anonymous("Name:\tx\nRssAnon:\t100 kB\n"), Some(100 * 1024));
        assert_eq!(anonymous("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert_eq!(anonymous("RssAnon:\tmany kB\n"), None);
    }

    #[test]
    fn what_is_allocated_shows_and_a_process_that_is_none_has_none() {
        let shows = || {
            let before = held_by(std::process::id()).unwrap();
            let allocated = vec![1_u8; 64 << 20];
            let after = held_by(std::process::id()).unwrap();
            drop(allocated);
            after >= before + (60 << 20)
        };
        // Another test of this process may let go as much meanwhile.
        assert!((0..10).any(|_| shows()));
        assert_eq!(held_by(u32::MAX), None);
    }
}
