use tokio::{io::AsyncWriteExt, task::yield_now};

use super::support::{Client, PATIENT, Server, having_read, tcp_pair};
use crate::http::{End, Start};

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn keeps_a_connection_alive() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.body, "hello");
    }
    drop(client);
    assert!(matches!(task.await.unwrap(), End::Closed));
}

#[tokio::test]
async fn answers_pipelined_requests_in_order() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.tcp().await;
    let requests: String = (0..40)
        .map(|n| format!("GET /n/{n} HTTP/1.1\r\nhost: x\r\n\r\n"))
        .collect();
    client.send(requests).await;
    for n in 0..40 {
        assert_eq!(client.reply().await.body, n.to_string());
    }
}

#[tokio::test]
async fn reads_bodies_of_both_kinds() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.tcp().await;
    client.send(post("/echo", "some text")).await;
    assert_eq!(client.reply().await.body, "some text");
    client
        .send("POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n")
        .await;
    yield_now().await;
    client.send("5\r\n text\r\n0\r\n\r\n").await;
    assert_eq!(client.reply().await.body, "some text");
    client.send(post("/echo", "")).await;
    assert_eq!(client.reply().await.body, "");
}

#[tokio::test]
async fn a_short_body_that_nobody_reads_costs_nothing() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.tcp().await;
    client
        .send(post("/ignore", "GET /smuggled HTTP/1.1\r\n\r\n"))
        .await;
    assert_eq!(client.reply().await.body, "ignored");
    assert_eq!(client.get("/").await.body, "hello");
    assert_eq!(server.calls(), ["/ignore", "/"]);
}

#[tokio::test]
async fn the_answer_to_a_body_that_nobody_reads_arrives() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client
        .send("POST /ignore HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n")
        .await;
    // The client is still sending when the server has answered and ends: a close at once would be a reset.
    client.send([b'x'; 100_000]).await;
    assert_eq!(client.reply().await.body, "ignored");
    client.send([b'x'; 100_000]).await;
    client.ends().await;
    drop(client);
    assert!(matches!(task.await.unwrap(), End::Closed));
}

#[tokio::test]
async fn continues_when_expected_to() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.tcp().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await;
    assert_eq!(client.try_head().await.unwrap().status, 100);
    client.send("ok").await;
    assert_eq!(client.reply().await.body, "ok");
}

#[tokio::test]
async fn answers_a_client_that_has_shut_down_its_side() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    server.gate.add_permits(1);
    assert_eq!(client.reply().await.body, "waited");
    client.ends().await;
    assert!(matches!(task.await.unwrap(), End::Closed));
}

#[tokio::test]
async fn sends_all_of_a_large_response_to_a_slow_reader() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.tcp().await;
    client
        .send("GET /large/8000000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(client.reply().await.body.len(), 8_000_000);
    client.ends().await;
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.tcp().await;
    for (request, status) in [("HEAD /", 200), ("GET /empty", 204), ("GET /same", 304)] {
        client
            .send(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        assert_eq!(client.try_head().await.unwrap().status, status);
    }
    assert_eq!(client.get("/").await.body, "hello");
}

#[tokio::test]
async fn http_1_0_keeps_alive_only_when_asked() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client
        .send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.body, "hello");
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.reply().await.body, "hello");
    client.ends().await;
    assert!(matches!(task.await.unwrap(), End::Closed));
}

#[tokio::test]
async fn a_bad_request_is_told_so() {
    let server = Server::new(PATIENT);
    for bad in ["GET\r\n\r\n", "PRI nonsense\r\n\r\n"] {
        let (mut client, _task) = server.tcp().await;
        client.send(bad).await;
        assert_eq!(client.reply().await.status, 400);
        client.ends().await;
    }
    let (mut client, _task) = server.tcp().await;
    client.send("PRI * HT").await;
    client.stream.shutdown().await.unwrap();
    client.ends().await;
}

#[tokio::test]
async fn takes_up_where_another_stopped() {
    let server = Server::new(PATIENT);
    let (near, far) = tcp_pair().await;
    let _task = server.serve(far, Start::Moved(having_read("GET / HTTP")));
    let mut client = Client::new(near);
    client
        .send("/1.1\r\nhost: x\r\n\r\nGET /n/2 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.body, "hello");
    assert_eq!(client.reply().await.body, "2");
}

#[tokio::test]
async fn a_panic_costs_its_connection_only() {
    let server = Server::new(PATIENT);
    let (mut healthy, _task) = server.tcp().await;
    assert_eq!(healthy.get("/").await.status, 200);
    let (mut client, task) = server.tcp().await;
    client.send("GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(task.await.unwrap_err().is_panic());
    client.ends().await;
    assert_eq!(
        (
            server.in_flight(),
            server.closed(),
            server.connections.open()
        ),
        (0, 1, 1)
    );
    assert_eq!(healthy.get("/").await.status, 200);
}
