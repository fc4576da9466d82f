use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::{
    Request,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional, duplex},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::support::{PATIENT, Server, let_run, named, until};
use crate::http::{End, Leave, Start, Timeouts};

type Closed = JoinHandle<hyper::Result<()>>;

async fn connect<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: IO,
) -> (SendRequest<Body>, Closed) {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    (sender, tokio::spawn(connection))
}

fn request(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .uri(format!("http://x{path}"))
        .body(body.into())
        .unwrap()
}

async fn fetch(sender: &mut SendRequest<Body>, path: &str, body: impl Into<Body>) -> String {
    let response = sender.send_request(request(path, body)).await.unwrap();
    String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap()
}

#[tokio::test]
async fn serves_streams() {
    let server = Server::new(PATIENT);
    let (client, task) = server.tcp().await;
    let (mut sender, _closed) = connect(client.stream).await;
    assert_eq!(fetch(&mut sender, "/", "").await, "hello");
    assert_eq!(fetch(&mut sender, "/echo", "some text").await, "some text");
    assert_eq!(
        fetch(&mut sender, "/ignore", "x".repeat(100_000)).await,
        "ignored"
    );
    assert_eq!(
        fetch(&mut sender, "/large/3000000", "").await.len(),
        3_000_000
    );
    until(|| server.in_flight() == 0).await;
    drop(sender);
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert_eq!(server.closed(), 1);
}

#[tokio::test]
async fn the_preface_may_come_a_byte_at_a_time() {
    let server = Server::new(PATIENT);
    let (mut near, far) = duplex(1 << 16);
    let _task = server.serve(far, Start::Fresh);
    let (client, mut relay) = duplex(1 << 16);
    tokio::spawn(async move {
        for _ in 0..40 {
            let byte = tokio::io::AsyncReadExt::read_u8(&mut relay).await.unwrap();
            near.write_all(&[byte]).await.unwrap();
            let_run().await;
        }
        copy_bidirectional(&mut relay, &mut near).await
    });
    let (mut sender, _closed) = connect(client).await;
    assert_eq!(fetch(&mut sender, "/", "").await, "hello");
}

#[tokio::test]
async fn in_flight_until_the_client_has_let_the_last_byte_come() {
    let server = Server::new(PATIENT);
    let (client, _task) = server.memory();
    let (mut sender, _closed) = connect(client.stream).await;
    // One piece, larger than any window: hyper gives all of it to the connection, which waits for the client.
    let response = sender
        .send_request(request("/large/8000000", ""))
        .await
        .unwrap();
    let_run().await;
    assert_eq!(server.in_flight(), 1);
    assert_eq!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .len(),
        8_000_000
    );
    let_run().await;
    assert_eq!(server.in_flight(), 0);
}

#[tokio::test]
async fn a_reset_and_a_panic_end_a_stream_only() {
    let server = Server::new(PATIENT);
    let (client, _task) = server.memory();
    let (mut sender, _closed) = connect(client.stream).await;
    let waiting = tokio::spawn(sender.send_request(request("/wait", "")));
    until(|| server.in_flight() == 1).await;
    waiting.abort();
    until(|| server.in_flight() == 0).await;
    assert!(sender.send_request(request("/panic", "")).await.is_err());
    until(|| server.in_flight() == 0).await;
    assert_eq!(fetch(&mut sender, "/", "").await, "hello");
    assert_eq!(server.connections.open(), 1);
}

#[tokio::test]
async fn leaving_says_goaway_and_finishes_streams() {
    for leave in [Leave::Release, Leave::Close] {
        let server = Server::new(PATIENT);
        let (client, task) = server.tcp().await;
        let (mut sender, closed) = connect(client.stream).await;
        let waiting = tokio::spawn(sender.send_request(request("/wait", "")));
        until(|| server.in_flight() == 1).await;
        server.connections.leave(leave);
        server.gate.add_permits(1);
        assert_eq!(
            waiting
                .await
                .unwrap()
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes(),
            "waited"
        );
        closed.await.unwrap().unwrap();
        assert!(sender.send_request(request("/", "")).await.is_err());
        assert!(matches!(task.await.unwrap(), End::Closed));
        assert_eq!((server.in_flight(), server.closed()), (0, 1));
    }
}

#[tokio::test]
async fn a_cut_ends_streams_too() {
    let server = Server::new(PATIENT);
    let (client, task) = server.tcp().await;
    let (mut sender, _closed) = connect(client.stream).await;
    let waiting = tokio::spawn(sender.send_request(request("/wait", "")));
    until(|| server.in_flight() == 1).await;
    let (connections, requests) = server.connections.cut();
    assert_eq!(connections, 1);
    assert_eq!(named(&requests), ["GET /wait"]);
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert!(waiting.await.unwrap().is_err());
    until(|| server.in_flight() == 0).await;
}

const TIMEOUTS: Timeouts = Timeouts {
    first_byte: Some(Duration::from_secs(10)),
    head: Some(Duration::from_secs(5)),
    idle: Some(Duration::from_secs(70)),
    linger: Duration::from_secs(2),
};

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_shut_down_gracefully() {
    let server = Server::timed(TIMEOUTS);
    let (client, task) = server.memory();
    let (mut sender, closed) = connect(client.stream).await;
    sleep(Duration::from_secs(60)).await; // with pings in between, which begin no head
    assert_eq!(fetch(&mut sender, "/", "").await, "hello");
    let start = Instant::now();
    closed.await.unwrap().unwrap();
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert!(
        start.elapsed() >= Duration::from_secs(70) && start.elapsed() < Duration::from_secs(80)
    );
}

#[tokio::test(start_paused = true)]
async fn one_with_a_stream_is_not_idle() {
    let server = Server::timed(TIMEOUTS);
    let (client, _task) = server.memory();
    let (mut sender, _closed) = connect(client.stream).await;
    let waiting = tokio::spawn(sender.send_request(request("/wait", "")));
    sleep(Duration::from_secs(500)).await;
    server.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_goaway_is_cut() {
    let server = Server::timed(TIMEOUTS);
    let (mut client, task) = server.memory();
    client
        .send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await; // an empty SETTINGS, and silence
    let_run().await;
    let start = Instant::now();
    server.connections.leave(Leave::Close);
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert!(start.elapsed() >= Duration::from_secs(2) && start.elapsed() < Duration::from_secs(4));
}
