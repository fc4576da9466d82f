use std::time::Duration;

use tokio::{
    io::duplex,
    time::{Instant, sleep},
};

use super::support::{Client, PATIENT, Server, let_run, named, until};
use crate::http::{End, Leave, RequestBody, Start, Timeouts};

const SECOND: Duration = Duration::from_secs(1);

const TIMEOUTS: Timeouts = Timeouts {
    first_byte: Some(Duration::from_secs(10)),
    head: Some(Duration::from_secs(20)),
    idle: Some(Duration::from_secs(70)),
    linger: Duration::from_secs(2),
};

#[tokio::test]
async fn the_response_in_flight_says_close() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| server.in_flight() == 1).await;
    server.connections.leave(Leave::Close);
    server.gate.add_permits(1);
    assert!(client.reply().await.says_close());
    client.ends().await;
    drop(client);
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert_eq!((server.closed(), server.in_flight()), (1, 0));
}

#[tokio::test]
async fn an_upgrade_is_not_told_to_close() {
    let server = Server::new(PATIENT);
    server.connections.leave(Leave::Close);
    let (mut client, task) = server.tcp().await;
    client
        .send("GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n")
        .await;
    let reply = client.try_head().await.unwrap();
    assert!(reply.status == 101 && !reply.says_close());
    assert!(matches!(task.await.unwrap(), End::Upgraded));
}

#[tokio::test(start_paused = true)]
async fn idle_and_silent_connections_linger_and_close() {
    let server = Server::timed(TIMEOUTS);
    let (mut idle, idle_task) = server.memory();
    idle.get("/").await;
    let (mut silent, silent_task) = server.memory();
    sleep(9 * SECOND).await; // one second short of the first byte's timeout: the grace is whole all the same
    let start = Instant::now();
    server.connections.leave(Leave::Close);
    idle.ends().await;
    silent.ends().await;
    assert!(
        start.elapsed() >= 2 * SECOND && start.elapsed() <= 3 * SECOND,
        "{:?}",
        start.elapsed()
    );
    drop((idle, silent));
    idle_task.await.unwrap();
    silent_task.await.unwrap();
    server.connections.all_closed().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_linger_idle_ones_are_closed_at_once_and_others_after_their_answer() {
    let server = Server::timed(Timeouts {
        linger: Duration::ZERO,
        ..TIMEOUTS
    });
    let (mut idle, idle_task) = server.memory();
    idle.get("/").await;
    let (mut silent, silent_task) = server.memory();
    let (mut busy, busy_task) = server.memory();
    busy.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| server.in_flight() == 1).await;
    let start = Instant::now();
    server.connections.leave(Leave::Close);
    idle.ends().await;
    silent.ends().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    sleep(5 * SECOND).await;
    server.gate.add_permits(1);
    assert!(busy.reply().await.says_close());
    busy.ends().await;
    drop((idle, silent, busy));
    for task in [idle_task, silent_task, busy_task] {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_linger_a_connection_that_somebody_takes_is_released_all_the_same() {
    let server = Server::timed(Timeouts {
        linger: Duration::ZERO,
        ..TIMEOUTS
    });
    let (mut idle, idle_task) = server.memory();
    idle.get("/").await;
    let (_silent, silent_task) = server.memory();
    server.connections.leave(Leave::Release);
    for task in [idle_task, silent_task] {
        assert!(matches!(task.await.unwrap(), End::Released(..)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_within_the_grace_is_answered() {
    let server = Server::timed(TIMEOUTS);
    let (mut client, task) = server.memory();
    client.get("/").await;
    server.connections.leave(Leave::Close);
    sleep(SECOND).await;
    client.send("GET / HT").await;
    sleep(15 * SECOND).await; // part of a head has the head's time
    client.send("TP/1.1\r\nhost: x\r\n\r\n").await;
    let reply = client.reply().await;
    assert!(reply.status == 200 && reply.says_close());
    drop(client);
    task.await.unwrap();
}

#[tokio::test]
async fn a_response_survives_what_the_client_still_sends() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.tcp().await;
    client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| server.in_flight() == 1).await;
    server.connections.leave(Leave::Close);
    server.gate.add_permits(1);
    until(|| server.in_flight() == 0).await;
    client
        .send("GET /too-late HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let_run().await;
    client
        .send("GET /too-late HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.body, "waited");
    client.ends().await;
}

#[tokio::test]
async fn a_cut_ends_everything_at_once() {
    let server = Server::new(PATIENT);
    let (mut silent, first) = server.tcp().await;
    let (mut idle, second) = server.tcp().await;
    idle.get("/").await;
    let (mut waiting, third) = server.tcp().await;
    waiting.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| server.in_flight() == 1).await;
    let (connections, requests) = server.connections.cut();
    assert_eq!(connections, 3);
    assert_eq!(named(&requests), ["GET /wait"]);
    for task in [first, second, third] {
        assert!(matches!(task.await.unwrap(), End::Closed));
    }
    server.connections.all_closed().await;
    assert_eq!((server.closed(), server.in_flight()), (3, 0));
    silent.ends().await;
    idle.ends().await;
    let (near, far) = duplex(100);
    let late = server.serve(far, Start::Fresh);
    assert!(matches!(late.await.unwrap(), End::Closed));
    Client::new(near).ends().await;
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_is_named_with_its_age_and_without_its_query() {
    let server = Server::timed(TIMEOUTS);
    let (mut first, _task) = server.memory();
    first.get("/n/1").await; // done, and not named
    first
        .send("GET /wait?token=secret HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    sleep(30 * SECOND).await;
    let (mut second, _task) = server.memory();
    second
        .send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1")
        .await;
    let (near, far) = duplex(1000);
    let _task = server.serve(far, Start::Fresh);
    let mut slow_to_read = Client::new(near);
    slow_to_read
        .send("GET /large/100000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    sleep(5 * SECOND).await;
    let (_, requests) = server.connections.cut();
    assert_eq!(named(&requests), ["GET /wait", "POST /echo"]);
    assert_eq!(requests.total, 3);
    for (cut, seconds) in requests.oldest.iter().zip([35, 5]) {
        let age = cut.age;
        assert!(
            age >= SECOND * seconds && age <= SECOND * (seconds + 1),
            "{age:?}"
        );
    }
    server.connections.all_closed().await;
}

#[tokio::test]
async fn a_connection_counts_before_its_task_runs() {
    let server = Server::new(PATIENT);
    let (near, far) = duplex(100);
    let future =
        server
            .connections
            .serve::<_, _, RequestBody, _>(far, Start::Fresh, server.router.clone());
    assert_eq!(server.connections.open(), 1);
    server.connections.leave(Leave::Release); // no task to wake yet: its first poll looks
    assert!(matches!(
        tokio::spawn(future).await.unwrap(),
        End::Released(..)
    ));
    let future =
        server
            .connections
            .serve::<_, _, RequestBody, _>(near, Start::Fresh, server.router.clone());
    drop(future);
    assert_eq!((server.connections.open(), server.closed()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_order_misses_a_connection_that_comes_in_at_the_same_time() {
    for _ in 0..300 {
        let server = Server::new(PATIENT);
        let connections = server.connections.clone();
        let mut clients = Vec::new();
        let leaving = tokio::spawn(async move { connections.leave(Leave::Release) });
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let (near, far) = duplex(100);
            clients.push(near);
            tasks.push(server.serve(far, Start::Fresh));
        }
        leaving.await.unwrap();
        for task in tasks {
            assert!(matches!(task.await.unwrap(), End::Released(..)));
        }
    }
}
