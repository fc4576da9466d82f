//! What a server prints: where it listens, how long a worker took to start, why it failed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a server has printed lately.
#[derive(Debug, Default)]
pub(crate) struct Output {
    lines: Mutex<VecDeque<String>>,
    more: Condvar,
}

impl Output {
    /// Reads on until the stream ends, so that the server never waits for its reader.
    pub(crate) fn follow(self: &Arc<Self>, stream: Option<impl Read + Send + 'static>) {
        let Some(stream) = stream else { return };
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream)
                .split(b'\n')
                .map_while(std::result::Result::ok)
            {
                let mut lines = lock(&output.lines);
                if lines.len() == KEPT_LINES {
                    lines.pop_front();
                }
                lines.push_back(String::from_utf8_lossy(&line).into_owned());
                output.more.notify_all();
            }
        });
    }

    /// The address in the line `listening on ADDRESS`.
    pub(crate) fn address(&self, within: Duration) -> Option<SocketAddrV4> {
        let address = |lines: &VecDeque<String>| {
            lines.iter().find_map(|line| {
                line.split_once("listening on ")?
                    .1
                    .trim()
                    .trim_start_matches("http://")
                    .parse()
                    .ok()
            })
        };
        let lines = lock(&self.lines);
        let waited = self
            .more
            .wait_timeout_while(lines, within, |lines| address(lines).is_none());
        address(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// What lines like `fork to listening 9500 us` say.
    pub(crate) fn fork_to_listening_us(&self) -> Vec<f64> {
        let lines = lock(&self.lines);
        lines
            .iter()
            .filter_map(|line| {
                line.split_once("fork to listening ")?
                    .1
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect()
    }

    pub(crate) fn text(&self) -> String {
        lock(&self.lines)
            .iter()
            .map(|line| format!("  {line}\n"))
            .collect()
    }
}

fn lock(lines: &Mutex<VecDeque<String>>) -> MutexGuard<'_, VecDeque<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

const KEPT_LINES: usize = 200;
