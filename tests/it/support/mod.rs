//! Runs the real examples as real processes, waits for what they print, and asserts that nothing of them is left.

mod http;
mod output;
pub mod procfs;
mod run;
mod server;

pub use http::{Conn, Response, get, request, try_get};
pub use nix::sys::signal::Signal;
pub use run::{Run, example};
pub use server::Server;

use std::time::{Duration, Instant};

/// The longest that anything is waited for.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What the new program of an upgrade says.
pub const TOOK_OVER: &str = "took over from the program before";

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks at a condition again and again until it holds; false when it does not within `limit`.
pub fn poll_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// A fresh directory for one test, removed at its end.
pub struct TempDir(std::path::PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("axum-cluster-it-{}", unique()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A path in it, as text.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left of it in the system's temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A text that no other test and no other run has.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// Prints a line from a fixture, in one piece and on a line of its own: the harness of another process prints half lines meanwhile.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::support::print_line(format_args!($($text)*))
    };
}
pub(crate) use say;

pub fn print_line(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let line = format!("\n{text}\n");
    // The test may have seen enough and gone.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// Runs a future on a runtime of one thread, as the examples do.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(future)
}
