//! Time is paused: it moves on when nothing else can.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use super::support::{Client, Server, having_read};
use crate::{
    http::{End, Leave, Start, Timeouts},
    moved::Awaits,
};

const SECOND: Duration = Duration::from_secs(1);

const TIMEOUTS: Timeouts = Timeouts {
    first_byte: Some(Duration::from_secs(10)),
    head: Some(Duration::from_secs(20)),
    idle: Some(Duration::from_secs(70)),
    linger: Duration::from_secs(2),
};

/// Never early, and late by a quarter at most (and a second for a lingering close that nobody ends).
fn assert_about(elapsed: Duration, seconds: u64) {
    let limit = SECOND * seconds as u32;
    assert!(
        elapsed >= limit && elapsed <= limit * 5 / 4 + SECOND,
        "{elapsed:?} for {limit:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let server = Server::timed(TIMEOUTS);
    let (mut client, task) = server.memory();
    let start = Instant::now();
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert_about(start.elapsed(), 10);
    client.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_a_byte_at_a_time_gets_no_more_time() {
    let server = Server::timed(TIMEOUTS);
    for start in ["", "P"] {
        let (mut client, mut task) = server.memory();
        client.send(start).await;
        let began = Instant::now();
        let head = format!("POST /{}", "a".repeat(100));
        for byte in head[start.len()..].bytes() {
            client.send([byte]).await;
            sleep(SECOND).await;
            if task.is_finished() {
                break;
            }
        }
        assert!(matches!((&mut task).await.unwrap(), End::Closed));
        assert_about(began.elapsed(), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let server = Server::timed(TIMEOUTS);
    let (mut client, task) = server.memory();
    for _ in 0..3 {
        client.get("/").await;
        sleep(60 * SECOND).await;
    }
    client.get("/").await;
    let start = Instant::now();
    client.ends().await;
    assert_about(start.elapsed(), 70);
    assert!(matches!(task.await.unwrap(), End::Closed));
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_idle_from_elsewhere_has_the_idle_timeout() {
    let server = Server::timed(TIMEOUTS);
    let (near, far) = tokio::io::duplex(100);
    let task = server.serve(far, Start::Moved(having_read("")));
    let start = Instant::now();
    task.await.unwrap();
    assert_about(start.elapsed(), 70);
    drop(near);
}

/// Has one process after the other let a connection go until it is closed; how long that took, and how often it moved.
async fn moves_until_closed(
    mut stream: tokio::io::DuplexStream,
    start: Start,
    stay: Duration,
) -> (Duration, u32) {
    let begun = Instant::now();
    let (mut start, mut moves) = (start, 0);
    loop {
        let server = Server::timed(TIMEOUTS);
        let task = server.serve(stream, start);
        sleep(stay).await;
        server.connections.leave(Leave::Release);
        match task.await.unwrap() {
            End::Released(back, moved) => (stream, start) = (back, Start::Moved(moved)),
            _ => return (begun.elapsed(), moves),
        }
        moves += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_gets_no_time_by_moving() {
    for stay in [90, 700, 3_000] {
        let (near, far) = tokio::io::duplex(100);
        let stay = Duration::from_millis(stay);
        let (elapsed, moves) = moves_until_closed(far, Start::Fresh, stay).await;
        assert!(moves >= 3, "{moves}");
        assert_about(elapsed, 10);
        drop(near);
    }
}

#[tokio::test(start_paused = true)]
async fn neither_does_a_head_that_is_never_complete() {
    for stay in [90, 700, 3_000] {
        let (mut near, far) = tokio::io::duplex(1000);
        let trickle = tokio::spawn(async move {
            while near.write_all(b"P").await.is_ok() {
                sleep(SECOND).await;
            }
        });
        let stay = Duration::from_millis(stay);
        let (elapsed, moves) = moves_until_closed(far, Start::Fresh, stay).await;
        assert!(moves >= 6, "{moves}");
        assert_about(elapsed, 20);
        trickle.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nor_an_idle_one() {
    let (near, far) = tokio::io::duplex(1000);
    let (elapsed, moves) = moves_until_closed(far, Start::Moved(having_read("")), SECOND).await;
    assert!(moves >= 60, "{moves}");
    assert_about(elapsed, 70);
    drop(near);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_with_the_request_before_is_a_head_when_it_moves() {
    let server = Server::timed(TIMEOUTS);
    let (mut client, task) = server.memory();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\nGE").await;
    client.reply().await;
    sleep(5 * SECOND).await;
    server.connections.leave(Leave::Release);
    let End::Released(stream, moved) = task.await.unwrap() else {
        panic!("not released")
    };
    assert_eq!((&moved.read[..], moved.awaits), (&b"GE"[..], Awaits::Head));
    let next = Server::timed(TIMEOUTS);
    let start = Instant::now();
    let _task = next.serve(stream, Start::Moved(moved));
    client.ends().await;
    assert_about(start.elapsed(), 15);
}

#[tokio::test(start_paused = true)]
async fn what_is_busy_is_never_late() {
    let server = Server::timed(TIMEOUTS);
    let (mut client, _task) = server.memory();
    client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    sleep(1000 * SECOND).await;
    server.gate.add_permits(1);
    assert_eq!(client.reply().await.body, "waited");
    client.send("GET /drip HTTP/1.1\r\nhost: x\r\n\r\n").await;
    sleep(1000 * SECOND).await;
    server.gate.add_permits(1);
    sleep(1000 * SECOND).await;
    server.gate.add_permits(1);
    assert_eq!(client.reply().await.body, "piecepiece");
    client
        .send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n")
        .await;
    sleep(1000 * SECOND).await;
    client.send("ok").await;
    assert_eq!(client.reply().await.body, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_a_task_keeps_is_busy_and_then_idle() {
    let mut server = Server::timed(TIMEOUTS);
    let (mut client, task) = server.memory();
    client
        .send("POST /keep HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.body, "kept");
    let body = server.kept.recv().await.unwrap();
    sleep(1000 * SECOND).await;
    client.send("ok").await;
    assert_eq!(axum::body::to_bytes(body, 10).await.unwrap(), "ok");
    let start = Instant::now();
    task.await.unwrap();
    assert_about(start.elapsed(), 70);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_busy() {
    let server = Server::timed(TIMEOUTS);
    let (near, far) = tokio::io::duplex(1000);
    let _task = server.serve(far, Start::Fresh);
    let mut client = Client::new(near);
    client
        .send("GET /large/5000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    for _ in 0..20 {
        sleep(30 * SECOND).await;
        assert_eq!(server.in_flight(), 1);
        client.stream.read_exact(&mut [0; 100]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lingering_close_has_an_end() {
    let server = Server::timed(TIMEOUTS);
    let (mut client, task) = server.memory();
    client
        .send("POST /ignore HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\nx")
        .await;
    assert_eq!(client.reply().await.body, "ignored");
    client.ends().await;
    let start = Instant::now();
    task.await.unwrap();
    assert!(start.elapsed() <= SECOND);
}
