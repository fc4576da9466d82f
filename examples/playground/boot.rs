//! What goes wrong before a worker serves, or soon after.
//!
//! `BREAK_FILE=PATH`: a worker reads how to break when it starts: `panic`, `exit0`, `segv`, `hang` (never listens) or `die` (soon after it
//! listens), and with ` SLOT` behind it only in that slot. A file, so that a next generation breaks and this one does not.

use std::{
    env, fs,
    thread::{self, sleep},
    time::Duration,
};

use axum_cluster::BoxError;

use crate::crash::segv;

pub(crate) const FOR_EVER: Duration = Duration::from_secs(86_400);

/// Before the first call into the crate, in a worker.
pub(crate) fn dawdle() {
    if env::var_os("AXUM_CLUSTER_WORKER").is_some() {
        sleep(boot_time("late:").unwrap_or_default());
    }
}

#[allow(clippy::exit, reason = "to end the process is what was asked for")]
pub(crate) fn misbehave() {
    break_if_told();
    let boot = env::var("BOOT").unwrap_or_default();
    match boot.as_str() {
        "exit0" => std::process::exit(0),
        "exit1" => std::process::exit(1),
        "panic" => panic!("asked to panic at boot"),
        "hang" => sleep(FOR_EVER),
        _ => sleep(boot_time("slow:").unwrap_or_default()),
    }
}

fn boot_time(kind: &str) -> Option<Duration> {
    let ms = env::var("BOOT").ok()?.strip_prefix(kind)?.parse().ok()?;
    Some(Duration::from_millis(ms))
}

/// Breaks a worker if it was told to.
#[allow(clippy::exit, reason = "to end the process is what was asked for")]
fn break_if_told() {
    let told = env::var_os("BREAK_FILE").and_then(|path| fs::read_to_string(path).ok());
    let told = told.unwrap_or_default();
    let mut words = told.split_whitespace();
    let how = words.next().unwrap_or_default();
    let born = env::var("AXUM_CLUSTER_WORKER").unwrap_or_default();
    if words
        .next()
        .is_some_and(|slot| !born.ends_with(&format!(".{slot}")))
    {
        return;
    }
    match how {
        "panic" => panic!("told to break"),
        "exit0" => std::process::exit(0),
        "segv" => segv(),
        "hang" => sleep(FOR_EVER),
        "die" => drop(thread::spawn(|| {
            sleep(Duration::from_millis(300));
            segv();
        })),
        _ => {}
    }
}

/// What `READY` asks for.
pub(crate) async fn get_ready() -> Result<(), BoxError> {
    let Ok(ready) = env::var("READY") else {
        return Ok(());
    };
    match (ready.as_str(), ready.strip_prefix("late:")) {
        ("fail", _) => Err("asked not to get ready".into()),
        ("never", _) => std::future::pending().await,
        (_, Some(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms.parse()?)).await;
            Ok(())
        }
        _ => Err(format!("READY is `{ready}`; expected `late:MS`, `fail` or `never`").into()),
    }
}
