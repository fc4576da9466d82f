//! Connections that are given back although the process stays.

use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::duplex;

use super::support::{PATIENT, Server, having_read, let_run, until};
use crate::http::{End, Leave, Start};

#[tokio::test]
async fn as_many_idle_ones_as_asked_for_are_released_and_the_others_serve_on() {
    let server = Server::new(PATIENT);
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (mut client, task) = server.tcp().await;
        client.get("/").await;
        clients.push((client, task));
    }
    assert_eq!(server.connections.give_back(0), 0);
    assert_eq!(server.connections.give_back(2), 2);
    until(|| server.connections.open() == 3).await;
    let (mut moved, mut kept) = (0, Vec::new());
    for (mut client, task) in clients {
        if task.is_finished() {
            let End::Released(stream, read) = task.await.unwrap() else {
                panic!("not released");
            };
            let next = Server::new(PATIENT);
            let _task = next.serve(stream, Start::Moved(read));
            assert_eq!(client.get("/n/2").await.body, "2");
            moved += 1;
        } else {
            assert!(!client.get("/").await.says_close());
            kept.push(client);
        }
    }
    assert_eq!((moved, server.closed(), server.in_flight()), (2, 0, 0));
    assert_eq!(server.connections.give_back(100), 3);
    let (mut client, _task) = server.tcp().await;
    assert_eq!(client.get("/").await.body, "hello", "new ones are served");
}

#[tokio::test]
async fn silent_busy_and_half_asked_ones_stay() {
    let server = Server::new(PATIENT);
    let (_silent, _first) = server.memory();
    let (mut busy, second) = server.memory();
    busy.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (mut asking, third) = server.memory();
    asking.get("/").await;
    asking.send("GET /n/3 HT").await;
    until(|| server.in_flight() == 1).await;
    let_run().await;
    assert_eq!(server.connections.give_back(10), 0);
    server.gate.add_permits(1);
    assert!(!busy.reply().await.says_close());
    asking.send("TP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(asking.reply().await.body, "3");
    assert_eq!(server.connections.give_back(10), 2);
    assert!(matches!(second.await.unwrap(), End::Released(..)));
    assert!(matches!(third.await.unwrap(), End::Released(..)));
}

#[tokio::test]
async fn one_of_which_a_request_comes_meanwhile_answers_it_first() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.memory();
    client.get("/").await;
    client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // Nothing has run since: to the process it still looks idle.
    assert_eq!(server.connections.give_back(1), 1);
    until(|| server.in_flight() == 1).await;
    let_run().await;
    assert!(!task.is_finished());
    server.gate.add_permits(1);
    let reply = client.reply().await;
    assert!(reply.status == 200 && !reply.says_close());
    assert!(matches!(task.await.unwrap(), End::Released(..)));
}

#[tokio::test]
async fn http2_is_never_told_and_hears_of_nothing() {
    let server = Server::new(PATIENT);
    let (near, far) = duplex(1 << 16);
    // As one that moved before its first byte: it looks like an idle connection of HTTP/1.1, until it speaks.
    let task = server.serve(far, Start::Moved(having_read("")));
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, axum::body::Body>(
        TokioExecutor::new(),
        TokioIo::new(near),
    )
    .await
    .unwrap();
    let closed = tokio::spawn(connection);
    let request = || hyper::Request::get("http://x/").body(axum::body::Body::empty());
    let mut told = 0;
    for n in 0..20 {
        let response = sender.send_request(request().unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        drop(response);
        let_run().await;
        told += if n > 0 {
            server.connections.give_back(1)
        } else {
            0
        };
    }
    assert_eq!(told, 0);
    assert!(!task.is_finished() && !closed.is_finished());
}

#[tokio::test]
async fn who_is_told_to_close_is_not_given_back() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.memory();
    client.get("/").await;
    server.connections.leave(Leave::Close);
    server.connections.give_back(1);
    let_run().await;
    assert!(!task.is_finished());
    assert!(client.get("/").await.says_close());
    drop(client);
    assert!(matches!(task.await.unwrap(), End::Closed));
}
