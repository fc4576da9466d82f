//! What a server prints, both streams in one text.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

/// Collected by a thread a stream, while the server runs.
pub(super) struct Output {
    text: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Output {
    pub(super) fn of(streams: [Box<dyn Read + Send>; 2]) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let readers = streams.map(|stream| {
            let text = text.clone();
            std::thread::spawn(move || collect(stream, &text))
        });
        Self {
            text,
            readers: readers.into(),
        }
    }

    pub(super) fn text(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether both streams have ended: nobody who could print is left.
    pub(super) fn is_complete(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }

    /// The numbers after `pid=`: every worker that was ever started.
    pub(super) fn pids(&self) -> Vec<u32> {
        let text = self.text();
        let numbers = text.split("pid=").skip(1).map(|rest| {
            rest.split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap_or_default()
        });
        numbers.filter_map(|number| number.parse().ok()).collect()
    }
}

/// Whole lines, so that the two streams never mix within one.
fn collect(stream: Box<dyn Read + Send>, text: &Mutex<String>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        text.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
}
