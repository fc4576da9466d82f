//! Hooks that print what happens, and misbehave when told to. They run in the primary.

use std::{
    collections::HashMap,
    env,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    thread::sleep,
    time::{Duration, Instant},
};

use axum_cluster::{ClusteredServer, Exit, Primary, WorkerHandle, cluster};
use tokio::time::interval;

use crate::{messages, server::number};

pub(crate) fn watched(server: ClusteredServer) -> Result<ClusteredServer, String> {
    let forked = Arc::new(Mutex::new(HashMap::new()));
    let listening = forked.clone();
    let requests = Arc::new(AtomicU64::new(0));
    let counted = requests.clone();
    let greeting = env::var("GREET").ok();
    let trouble = Trouble::asked_for()?;
    let upgrade = Duration::from_millis(number("UPGRADE_MS")?.unwrap_or(0));
    Ok(server
        .on_upgrade(move || {
            Trouble::Sleep(upgrade).make();
            Vec::new()
        })
        .on_ready(|primary| {
            if let Some(path) = env::var_os("CHDIR") {
                env::set_current_dir(path).unwrap_or_else(|error| println!("error: {error}"));
            }
            let addrs: Vec<_> = primary
                .local_addrs()
                .iter()
                .map(ToString::to_string)
                .collect();
            println!("listening on {}", addrs.join(", "));
            if env::var("READINESS").is_ok_and(|readiness| readiness == "print") {
                tokio::spawn(print_readiness(primary));
            }
            tokio::spawn(messages::count(requests));
        })
        .on_fork(move |worker| {
            forked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(worker.id(), Instant::now());
            if let Some(greeting) = &greeting {
                report(worker.send(greeting));
            }
        })
        .on_listening(move |worker, _| {
            if let Some(forked) = listening
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&worker.id())
            {
                println!("fork to listening {} us", forked.elapsed().as_micros());
            }
        })
        .on_online(move |_| assert!(trouble != Trouble::Panic, "a hook was asked to panic"))
        .on_message(move |_, message| {
            messages::take(&message, &counted);
            trouble.make();
        })
        .on_reopen(|| println!("{} opens its log anew", cluster::label()))
        .on_exit(|worker, exit| on_exit(worker, &exit))
        .on_error(|error| println!("error: {error:?}")))
}

fn on_exit(worker: &WorkerHandle, exit: &Exit) {
    println!(
        "exit worker={} slot={} pid={} status={} in_flight={} open={} after_disconnect={} given_back={}",
        worker.id(),
        worker.slot(),
        worker.pid(),
        in_a_word(exit.status),
        exit.in_flight,
        exit.open_connections,
        exit.after_disconnect,
        exit.given_back
    );
    for cut in &exit.cut {
        println!(
            "cut worker={} of={} {} {} after {} ms",
            worker.id(),
            exit.requests_cut,
            cut.method,
            cut.path,
            cut.age.as_millis()
        );
    }
}

/// `exit:1` or `signal:9`.
pub(crate) fn in_a_word(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit:{code}"),
        (None, signal) => format!("signal:{}", signal.unwrap_or_default()),
    }
}

pub(crate) fn report<T>(result: axum_cluster::Result<T>) {
    if let Err(error) = result {
        println!("error: {error:?}");
    }
}

async fn print_readiness(primary: Primary) {
    let mut often = interval(Duration::from_millis(10));
    let mut printed = None;
    loop {
        let ready = primary.is_ready();
        if printed.replace(ready) != Some(ready) {
            println!("cluster ready: {ready}");
        }
        often.tick().await;
    }
}

/// What hooks do beside their work.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Panic,
    Sleep(Duration),
}

impl Trouble {
    fn asked_for() -> Result<Self, String> {
        let Ok(value) = env::var("HOOK") else {
            return Ok(Self::None);
        };
        match value.split_once(':') {
            None if value == "panic" => Ok(Self::Panic),
            Some(("sleep", ms)) => ms
                .parse()
                .map(|ms| Self::Sleep(Duration::from_millis(ms)))
                .map_err(|_| format!("HOOK is `{value}`")),
            _ => Err(format!("HOOK is `{value}`; expected `panic` or `sleep:MS`")),
        }
    }

    fn make(self) {
        match self {
            Self::None => {}
            Self::Panic => panic!("a hook was asked to panic"),
            Self::Sleep(Duration::ZERO) => {}
            Self::Sleep(time) => {
                println!("a hook sleeps");
                sleep(time);
                println!("a hook woke up");
            }
        }
    }
}
