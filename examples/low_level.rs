//! Run with: cargo run --example low_level
//!
//! Node's contract: nothing is forked unless the program asks, and nothing is started again when it ends. Two workers are forked; the first
//! ends by an accident and is replaced by hand; then all are told to leave.
//!
//! ```text
//! $ cargo run --example low_level
//! set up
//! worker 1 in slot 0 forked
//! worker 2 in slot 1 forked
//! worker 1 online
//! worker 1 says: I have an accident
//! worker 1 disconnected
//! worker 1 ended with code 3: an accident, so another is forked
//! worker 3 in slot 0 forked
//! worker 3 online
//! worker 3 says: I wait
//! worker 3 disconnected
//! worker 3 ended with code 0: it was told to
//! all have ended
//! ```
//!
//! with the lines of worker 2, which waits, anywhere in between.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::process::ExitCode;

use axum_cluster::{
    Worker,
    cluster::{Cluster, Event, Primary, Role},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<ExitCode> {
    match Cluster::new().start().await? {
        Role::Primary(primary) => supervise(primary).await,
        Role::Worker(worker) => work(worker).await,
    }
}

async fn supervise(primary: Primary) -> axum_cluster::Result<ExitCode> {
    let mut events = primary.events();
    primary.fork()?;
    primary.fork()?;
    while let Some(event) = events.recv().await {
        match event {
            Event::Setup => println!("set up"),
            Event::Fork { worker } => {
                println!("worker {} in slot {} forked", worker.id(), worker.slot());
            }
            Event::Online { worker } => println!("worker {} online", worker.id()),
            Event::Message { worker, message } => {
                println!("worker {} says: {}", worker.id(), message.json::<String>()?);
                if worker.id().get() == 3 {
                    // It completes when all have ended. Then this program has nothing more to do.
                    let all = primary.disconnect();
                    let primary = primary.clone();
                    tokio::spawn(async move {
                        all.await;
                        primary.shutdown().await;
                    });
                }
            }
            Event::Disconnect { worker } => println!("worker {} disconnected", worker.id()),
            Event::Exit { worker, exit } => {
                let code = exit.code().unwrap_or(-1);
                if exit.after_disconnect {
                    println!(
                        "worker {} ended with code {code}: it was told to",
                        worker.id()
                    );
                } else {
                    println!(
                        "worker {} ended with code {code}: an accident, so another is forked",
                        worker.id()
                    );
                    primary.fork()?;
                }
            }
            other => println!("{other:?}"),
        }
    }
    println!("all have ended");
    Ok(ExitCode::SUCCESS)
}

async fn work(worker: Worker) -> axum_cluster::Result<ExitCode> {
    if worker.id().get() == 1 {
        // An accident takes with it what is sent and not yet on its way. That nobody answers this shows that it has arrived.
        drop(worker.request(&"I have an accident").await);
        return Ok(ExitCode::from(3));
    }
    worker.send(&"I wait")?;
    worker.draining().await;
    // Sends what it has still to send, and says good-bye.
    worker.disconnect().await;
    Ok(ExitCode::SUCCESS)
}
