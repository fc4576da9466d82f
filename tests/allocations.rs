//! How often a request allocates, counted: what it costs beyond axum and hyper must not creep in.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    future::Future,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    pin::Pin,
    sync::mpsc,
    thread,
};

use axum::{Router, routing::get};
use axum_cluster::{ClusteredServer, Worker};
use serde::Serialize;
use tokio::{net::TcpListener, sync::oneshot};

const REQUESTS: usize = 1000;

/// A server, which tells where it listens.
type Serve = fn(oneshot::Sender<SocketAddr>) -> Pin<Box<dyn Future<Output = ()>>>;

/// As many as a request of the bare `axum::serve`, at most: although it is counted, timed, and knows its peer.
// K-17: a message a request adds next to nothing.
#[test]
fn a_request_allocates_no_more_than_a_bare_one_and_a_message_hardly_anything() {
    let [bare, _] = allocations_a_request(|address| Box::pin(by_axum(address)));
    let [counted, with_message] = allocations_a_request(|address| Box::pin(worker(address)));
    assert!(counted > 1.0, "they are counted at all: {counted}");
    assert!(counted <= bare, "{counted} instead of {bare}");
    // Datagrams and events, of which many messages share one; here, with one request at a time, a few.
    let message = with_message - counted;
    assert!(message <= 1.0, "{with_message} instead of {counted}");
}

async fn by_axum(address: oneshot::Sender<SocketAddr>) {
    let app = Router::new()
        .route("/", get(|| async { "hello world" }))
        .route("/notify", get(|| async { "hello world" }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    address.send(listener.local_addr().unwrap()).unwrap();
    axum::serve(listener, app).await.unwrap();
}

async fn worker(address: oneshot::Sender<SocketAddr>) {
    let app = Router::new()
        .route("/", get(|| async { "hello world" }))
        .route("/notify", get(notify));
    ClusteredServer::bind("127.0.0.1:0")
        .workers(0)
        .on_message(|_, message| assert!(message.bytes().starts_with(b"{\"cmd\":")))
        .on_ready(|primary| {
            let bound = primary.local_addrs()[0].socket_addr().unwrap();
            address.send(bound).unwrap();
        })
        .serve(app)
        .await
        .unwrap();
}

async fn notify(worker: Worker) -> axum_cluster::Result<&'static str> {
    #[derive(Serialize)]
    struct Notify {
        cmd: &'static str,
    }
    worker.send(&Notify {
        cmd: "notifyRequest",
    })?;
    Ok("hello world")
}

/// Of the thread that serves, for both paths; the client is another.
fn allocations_a_request(serve: Serve) -> [f64; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let served = tokio::task::LocalSet::new();
    let (address, bound) = oneshot::channel();
    served.spawn_local(serve(address));
    let bound = runtime.block_on(served.run_until(bound)).unwrap();
    ["/", "/notify"].map(|path| {
        let (warm, warmed) = oneshot::channel();
        let (go, gone) = mpsc::channel();
        let (done, finished) = oneshot::channel();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(bound).unwrap();
            ask(&mut stream, path, 50);
            warm.send(()).unwrap();
            gone.recv().unwrap();
            ask(&mut stream, path, REQUESTS);
            done.send(()).unwrap();
            stream // open until here: closing is not measured
        });
        runtime.block_on(served.run_until(warmed)).unwrap();
        go.send(()).unwrap();
        let measured = allocation_counter::measure(|| {
            runtime.block_on(served.run_until(finished)).unwrap();
        });
        client.join().unwrap();
        measured.count_total as f64 / REQUESTS as f64
    })
}

fn ask(stream: &mut TcpStream, path: &str, requests: usize) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\n");
    let mut buffer = [0; 1024];
    for _ in 0..requests {
        stream.write_all(request.as_bytes()).unwrap();
        let mut len = 0;
        while !buffer[..len].ends_with(b"hello world") {
            let read = stream.read(&mut buffer[len..]).unwrap();
            assert!(read > 0, "the server has closed");
            len += read;
        }
    }
}
