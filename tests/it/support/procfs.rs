//! What `/proc` says about processes.

use std::fs;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub name: String,
    /// `R`, `S`, `T`, `Z`, …
    pub state: char,
}

impl Process {
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// One process; `None` when there is none of this pid.
pub fn process(pid: u32) -> Option<Process> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // Ended before it was opened, or before it was read.
        Err(error) if matches!(error.raw_os_error(), Some(2 | 3)) => return None,
        Err(error) => panic!("what /proc says of {pid} cannot be read: {error}"),
    };
    // The name stands in brackets and may hold any of them itself.
    let (name, rest) = (stat.find('(')?, stat.rfind(')')?);
    let mut fields = stat[rest + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        group,
        name: stat[name + 1..rest].to_owned(),
        state,
    })
}

/// All processes.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// The children of a process, zombies included.
pub fn children(pid: u32) -> Vec<Process> {
    processes()
        .into_iter()
        .filter(|process| process.parent == pid)
        .collect()
}

/// The processes whose environment holds this entry (`NAME=value`), as they were started. A zombie has none any more.
pub fn with_environment(entry: &str) -> Vec<Process> {
    processes()
        .into_iter()
        .filter(|process| has_environment(process.pid, entry))
        .collect()
}

fn has_environment(pid: u32, entry: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|&byte| byte == 0)
            .any(|found| found == entry.as_bytes())
    })
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
