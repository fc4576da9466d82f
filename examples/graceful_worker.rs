//! Run with: cargo run --example graceful_worker
//!
//! Node's example of `worker.disconnect()`: a long connection may keep a worker from leaving. So the primary tells the worker by a message, which may
//! close its connections; and where that does not help, kills it after two seconds. Here a client connects that never leaves, and a
//! handler that never ends:
//!
//! ```text
//! $ cargo run --example graceful_worker
//! worker 1 listens on 127.0.0.1:8000
//! worker 1 hears: shutdown
//! worker 1 has not left within 2 s
//! worker 1 was ended by SIGTERM, as it was told to: true
//! ```

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, routing::get};
use axum_cluster::{
    BoxError, ClusteredServer, Signal, Worker, WorkerHandle,
    cluster::{Event, Primary, Role},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    match ClusteredServer::bind(addr).workers(1).start().await? {
        Role::Primary(primary) => supervise(primary).await,
        Role::Worker(worker) => {
            tokio::spawn(listen(worker.clone()));
            Ok(worker.serve(Router::new().route("/", get(endless))).await?)
        }
    }
}

async fn supervise(primary: Primary) -> Result<(), BoxError> {
    let mut events = primary.events();
    while let Some(event) = events.recv().await {
        match event {
            Event::Listening { worker, bound, .. } if worker.id().get() == 1 => {
                println!("worker {} listens on {bound}", worker.id());
                // A client that never leaves.
                let mut client = TcpStream::connect(bound.to_string()).await?;
                client
                    .write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
                    .await?;
                client.read_u8().await?;
                tokio::spawn(send_away(worker, client));
            }
            Event::Exit { worker, exit } if worker.id().get() == 1 => {
                let how = exit
                    .signal()
                    .map_or_else(|| "itself".to_owned(), |signal| signal.to_string());
                println!(
                    "worker {} was ended by {how}, as it was told to: {}",
                    worker.id(),
                    exit.after_disconnect
                );
                // A `ClusteredServer` has started another one, which is not needed any more.
                drop(primary.shutdown());
            }
            _ => {}
        }
    }
    Ok(())
}

async fn send_away(worker: WorkerHandle, _client: TcpStream) -> axum_cluster::Result<()> {
    worker.send(&"shutdown")?;
    let left = worker.disconnect();
    if tokio::time::timeout(Duration::from_secs(2), left)
        .await
        .is_err()
    {
        println!("worker {} has not left within 2 s", worker.id());
        worker.kill(Signal::Term).await;
    }
    Ok(())
}

/// In the worker: what is sent to it.
async fn listen(worker: Worker) -> axum_cluster::Result<()> {
    let mut messages = worker.messages();
    while let Some(message) = messages.recv().await {
        // Here a worker would close its connections.
        println!(
            "worker {} hears: {}",
            worker.id(),
            message.json::<String>()?
        );
    }
    Ok(())
}

/// Begins an answer that never ends.
async fn endless() -> Body {
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"hello"))]);
    Body::from_stream(first.chain(stream::pending()))
}
