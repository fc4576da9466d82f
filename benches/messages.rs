//! Messages a second, and the time there and back, worker to primary: `cargo bench --bench messages`
//!
//! On 2 cores (AMD EPYC, Linux 6.18), with other builds running, so at the least:
//!
//! ```text
//! small JSON, worker to primary:        6332327 messages a second (full 157 times)
//! there and back, one after the other  median 41.161µs, 99 % within 260.787µs
//! there and back, 2 ms apart           median 154.359µs, 99 % within 3.688213ms
//! 50 MB, worker to primary:           192.772919ms
//! ```
//!
//! Each small message is made by `send` (where that is full, by `send_wait`), and parsed by the primary's hook; a last question makes
//! sure that all have come.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench"
)]

use std::time::{Duration, Instant};

use axum_cluster::{ClusteredServer, Error, Worker};
use serde::{Deserialize, Serialize};

/// Node's documented message.
#[derive(Serialize, Deserialize)]
struct Notify<'a> {
    cmd: &'a str,
}

const NOTIFY: Notify<'_> = Notify {
    cmd: "notifyRequest",
};
const MESSAGES: u64 = 2_000_000;
const ROUNDS: usize = 20_000;

fn main() {
    let is_worker = axum_cluster::cluster::is_worker();
    // As `cargo test --all-targets` starts it: nothing is measured.
    if !is_worker && !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let mut received = 0_u64;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async move {
            ClusteredServer::bind("127.0.0.1:0")
                .workers(1)
                .program(std::env::current_exe().unwrap())
                .on_message(move |_, message| {
                    if message.is_request() {
                        // How many have come so far; the question was sent after them.
                        message.reply(&received).unwrap();
                    } else if message.bytes().len() < 100 {
                        let notify: Notify<'_> = serde_json::from_slice(message.bytes()).unwrap();
                        received += u64::from(notify.cmd == "notifyRequest");
                    }
                })
                .serve_with(|worker| async move {
                    tokio::spawn(measure(worker));
                    Ok(axum::Router::new())
                })
                .await
                .unwrap();
        });
}

/// In the worker, which ends the cluster when it is done.
async fn measure(worker: Worker) {
    for _ in 0..3 {
        let before = asked(&worker).await;
        let begun = Instant::now();
        let mut full = 0;
        for _ in 0..MESSAGES {
            match worker.send(&NOTIFY) {
                Ok(()) => {}
                Err(Error::Full) => {
                    full += 1;
                    worker.send_wait(&NOTIFY).await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(asked(&worker).await - before, MESSAGES);
        let took = begun.elapsed();
        println!(
            "small JSON, worker to primary:       {:>8.0} messages a second (full {full} times)",
            MESSAGES as f64 / took.as_secs_f64()
        );
    }
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        asked(&worker).await;
        times.push(begun.elapsed());
    }
    print("there and back, one after the other", times);
    let mut times = Vec::new();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let begun = Instant::now();
        asked(&worker).await;
        times.push(begun.elapsed());
    }
    print("there and back, 2 ms apart", times);
    let large = vec![b'x'; 50_000_000];
    let begun = Instant::now();
    worker.send_bytes(large).unwrap();
    asked(&worker).await;
    println!("50 MB, worker to primary:            {:?}", begun.elapsed());
    // Its parent is the primary.
    let primary = rustix::process::getppid().unwrap();
    rustix::process::kill_process(primary, rustix::process::Signal::TERM).unwrap();
}

async fn asked(worker: &Worker) -> u64 {
    worker.request(&"how many?").await.unwrap().json().unwrap()
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{what:<36} median {:?}, 99 % within {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
}
