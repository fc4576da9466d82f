//! What the kernel says about processes: their children, their CPU time, their memory.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Duration;

/// A process and all its descendants, it first, the others by pid. Empty when it is gone.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        let Ok(tasks) = tasks(pid) else { continue };
        found.push(pid);
        for task in tasks {
            let children =
                fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
            left.extend(
                children
                    .split_ascii_whitespace()
                    .filter_map(|child| child.parse::<i32>().ok()),
            );
        }
    }
    if let [_, rest @ ..] = &mut *found {
        rest.sort_unstable();
    }
    found
}

fn tasks(pid: i32) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// What all threads of some processes have had of the cores.
#[derive(Debug)]
pub(crate) struct CpuTimes(HashMap<i32, Used>);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) time: Duration,
    /// How often a thread was put on a core.
    pub(crate) switches: u64,
}

impl CpuTimes {
    /// # Errors
    ///
    /// When a process is gone, or the kernel keeps no `schedstat`.
    pub(crate) fn read(processes: &[i32]) -> io::Result<Self> {
        let mut times = HashMap::new();
        for &pid in processes {
            for task in tasks(pid)? {
                let path = format!("/proc/{pid}/task/{task}/schedstat");
                let text = match fs::read_to_string(&path) {
                    Ok(text) => text,
                    Err(_) if task != pid => continue, // a thread that has just ended
                    Err(error) => {
                        return Err(io::Error::new(error.kind(), format!("{path}: {error}")));
                    }
                };
                let mut numbers = text
                    .split_ascii_whitespace()
                    .filter_map(|number| number.parse().ok());
                let (Some(nanoseconds), Some(_waited), Some(switches)) =
                    (numbers.next(), numbers.next(), numbers.next())
                else {
                    return Err(io::Error::other(format!("{path}: not three numbers")));
                };
                let time = Duration::from_nanos(nanoseconds);
                times.insert(task, Used { time, switches });
            }
        }
        Ok(Self(times))
    }

    /// What was used since an earlier reading. A thread that has ended in between counts as nothing.
    pub(crate) fn since(&self, earlier: &Self) -> Used {
        self.0.iter().fold(Used::default(), |sum, (task, now)| {
            let before = earlier.0.get(task).copied().unwrap_or_default();
            Used {
                time: sum.time + now.time.saturating_sub(before.time),
                switches: sum.switches + now.switches.saturating_sub(before.switches),
            }
        })
    }
}

/// CPU time the calling thread has used.
pub(crate) fn own_thread() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    nanoseconds
        .map(Duration::from_nanos)
        .ok_or_else(|| io::Error::other("schedstat: not a number first"))
}

/// Time of all cores together that was not idle, in steps of 10 ms.
pub(crate) fn machine_busy() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = *ticks else {
        return Err(io::Error::other("/proc/stat: fewer fields than known"));
    };
    Ok(Duration::from_millis(
        10 * (user + nice + system + irq + softirq + steal),
    ))
}

/// Proportional set size in KiB: a page that n processes share counts 1/n for each.
pub(crate) fn proportional_kib(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let value = text.lines().find_map(|line| {
        line.strip_prefix("Pss:")?
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()
    });
    value.ok_or_else(|| io::Error::other("smaps_rollup has no Pss"))
}

/// How many descriptors a process holds.
pub(crate) fn descriptors(pid: i32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// When a process was started, in the kernel's ticks: with the pid, this names a process for good. `None` for a zombie too.
pub(crate) fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

pub(crate) fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "?".to_owned(), |(_, name)| name.to_owned())
}

pub(crate) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}
