//! A child that inherits standard input.

use std::{
    env,
    process::{Command, Stdio},
};

use axum_cluster::{BoxError, cluster};

use crate::hooks::in_a_word;

/// Runs a child that inherits standard input, and prints what it says.
pub(crate) fn run() -> Result<(), BoxError> {
    let kind = env::var("CHILD").unwrap_or_default();
    let mut command = match kind.as_str() {
        "cat" | "early" => Command::new("cat"),
        "label" => {
            let mut again = Command::new(env::current_exe()?);
            again.arg("label");
            again
        }
        _ => return Ok(()),
    };
    // A program that starts children above `serve` calls this first: it takes the worker's channel off standard input.
    let label = if kind == "early" {
        "somebody".to_owned()
    } else {
        cluster::label()
    };
    let output = command.stdin(Stdio::inherit()).output()?;
    println!(
        "child of {label}: {} {}",
        in_a_word(output.status),
        String::from_utf8_lossy(&output.stdout).trim()
    );
    Ok(())
}

/// Whether this process is such a child, asked what it is in a cluster.
pub(crate) fn is_this() -> bool {
    env::args().any(|arg| arg == "label")
}
