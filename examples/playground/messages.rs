//! What workers and the primary tell each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum_cluster::{Message, Worker, cluster};
use serde::{Deserialize, Serialize};
use tokio::time::interval;

use crate::hooks::report;

/// What workers tell the primary.
#[derive(Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "camelCase")]
pub(crate) enum Order {
    NotifyRequest,
    Broadcast { text: String },
}

/// Prints what the primary sends.
pub(crate) async fn hear(worker: Worker) {
    let mut messages = worker.messages();
    while let Some(message) = messages.recv().await {
        let text: String = message.json().unwrap_or_default();
        // Lines of several processes stay whole up to 4 KiB.
        let text = if text.len() > 1_000 {
            format!("{} bytes", text.len())
        } else {
            text
        };
        println!("worker {} heard {text}", worker.id());
    }
}

pub(crate) fn take(message: &Message, requests: &AtomicU64) {
    match message.json() {
        Ok(Order::NotifyRequest) => {
            requests.fetch_add(1, Relaxed);
        }
        Ok(Order::Broadcast { text }) => {
            if let Some(primary) = cluster::primary() {
                report(primary.broadcast(&text));
            }
        }
        Err(error) => println!("error: {error:?}"),
    }
}

pub(crate) async fn count(requests: Arc<AtomicU64>) {
    let mut printed = 0;
    let mut second = interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let now = requests.load(Relaxed);
        if now != printed {
            println!("numReqs = {now}");
            printed = now;
        }
    }
}
