//! Run with: cargo run --example send_socket
//!
//! Node's example of sending a socket to a child process: the primary accepts connections itself and sends each with a message to one
//! of two workers, by who connects. Each worker serves what it gets with its router, as if it had come the ordinary way.
//!
//! ```text
//! $ cargo run --example send_socket
//! handing out at 127.0.0.1:1337
//! listening on 127.0.0.1:8000
//! $ curl http://127.0.0.1:1337/
//! Request handled with normal priority
//! $ curl --interface 127.0.0.2 http://127.0.0.1:1337/
//! Request handled with special priority
//! ```
//!
//! `SPECIAL` is the address of clients that are special (127.0.0.2), `SOCKETS` is where the primary accepts (127.0.0.1:1337).

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::net::{IpAddr, Ipv4Addr};

use axum::{Router, routing::get};
use axum_cluster::{ClusteredServer, Primary, Worker};
use tokio::net::TcpListener;

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// In the primary: `special.send('socket', socket)`, or `normal.send('socket', socket)`.
async fn hand_out(primary: Primary) -> std::io::Result<()> {
    let listener = TcpListener::bind(variable("SOCKETS", "127.0.0.1:1337")).await?;
    println!("handing out at {}", listener.local_addr()?);
    println!("listening on {}", primary.local_addrs()[0]);
    let special: IpAddr = variable("SPECIAL", "127.0.0.2")
        .parse()
        .unwrap_or(Ipv4Addr::LOCALHOST.into());
    loop {
        let (socket, peer) = listener.accept().await?;
        let slot = u32::from(peer.ip() == special);
        let workers = primary.workers();
        // While a worker is being replaced, another one does.
        let worker = workers.iter().find(|worker| worker.slot().get() == slot);
        let Some(worker) = worker.or(workers.first()) else {
            continue;
        };
        if let Err(error) = worker.send_with(&"socket", [socket.into_std()?]) {
            println!("worker {} cannot have it: {error}", worker.id());
        }
    }
}

/// In a worker: `process.on('message', (m, socket) => …)`.
async fn receive(worker: Worker) {
    let mut messages = worker.messages();
    while let Some(message) = messages.recv().await {
        let Ok(socket) = message.take_tcp_stream() else {
            continue;
        };
        if let Err(error) = worker.serve_connection(socket).await {
            println!("a client has gone: {error}");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> axum_cluster::Result<()> {
    ClusteredServer::bind(variable("ADDR", "127.0.0.1:8000"))
        .workers(2)
        .on_ready(|primary| {
            let primary = primary.clone();
            tokio::spawn(async move {
                if let Err(error) = hand_out(primary).await {
                    println!("cannot hand out sockets: {error}");
                }
            });
        })
        .serve_with(|worker| async move {
            let priority = ["normal", "special"][worker.slot().get() as usize % 2];
            tokio::spawn(receive(worker));
            let answer = format!("Request handled with {priority} priority\n");
            Ok(Router::new().route("/", get(move || async move { answer })))
        })
        .await
}
