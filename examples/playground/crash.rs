//! Ways in which a worker ends.

use axum::extract::Query;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum How {
    Exit,
    Abort,
    Panic,
    Segv,
}

#[derive(Deserialize)]
pub(crate) struct Crash {
    how: How,
}

#[allow(clippy::exit, reason = "to end the process is what was asked for")]
pub(crate) async fn crash(Query(Crash { how }): Query<Crash>) {
    match how {
        How::Exit => std::process::exit(1),
        How::Abort => std::process::abort(),
        How::Panic => {
            // As where `panic = "abort"` is set, or a hook like this one: a handler's panic alone does not end a worker.
            std::panic::set_hook(Box::new(|panic| {
                eprintln!("{panic}");
                std::process::exit(101);
            }));
            panic!("asked to panic");
        }
        How::Segv => segv(),
    }
}

pub(crate) fn segv() -> ! {
    // The first is swallowed by Rust's own handler, which looks for stack overflows and then takes itself away.
    loop {
        // Raised in this very process, which cannot fail.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
    }
}
