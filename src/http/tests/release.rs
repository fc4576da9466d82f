use tokio::{
    io::{DuplexStream, duplex},
    net::TcpStream,
    task::JoinHandle,
};

use super::support::{Client, PATIENT, Server, having_read, let_run};
use crate::http::{End, Leave, Start};

async fn released<IO>(task: JoinHandle<End<IO>>) -> (IO, String) {
    match task.await.unwrap() {
        End::Released(stream, moved) => (stream, String::from_utf8(moved.read.to_vec()).unwrap()),
        End::Closed => panic!("closed"),
        End::Upgraded => panic!("upgraded"),
    }
}

/// Lets a second process go on.
fn moves<IO>(stream: IO, read: &str) -> (Server, JoinHandle<End<IO>>)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let next = Server::new(PATIENT);
    let task = next.serve(stream, Start::Moved(having_read(read)));
    (next, task)
}

#[tokio::test]
async fn an_idle_connection_goes_on_elsewhere() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client.get("/").await;
    server.connections.leave(Leave::Release);
    let (stream, read): (TcpStream, _) = released(task).await;
    assert_eq!(read, "");
    assert_eq!(
        (
            server.connections.open(),
            server.closed(),
            server.in_flight()
        ),
        (0, 0, 0)
    );
    server.connections.all_closed().await;
    let (_next, _task) = moves(stream, &read);
    assert_eq!(client.get("/n/2").await.body, "2");
}

#[tokio::test]
async fn so_does_one_without_a_byte_or_with_a_beginning_of_the_preface() {
    for start in ["", "PRI * HT"] {
        let server = Server::new(PATIENT);
        let (mut client, task) = server.memory();
        client.send(start).await;
        let_run().await;
        server.connections.leave(Leave::Release);
        assert_eq!(released(task).await.1, start);
    }
}

#[tokio::test]
async fn one_that_comes_after_the_order_sees_it_too() {
    let server = Server::new(PATIENT);
    server.connections.leave(Leave::Release);
    let (mut client, task) = server.memory();
    client
        .send("GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /n/2")
        .await;
    let (_stream, read) = released(task).await;
    assert_eq!(read, "GET /n/2");
    assert_eq!(client.reply().await.body, "hello");
}

#[tokio::test]
async fn part_of_a_head_comes_back_exactly() {
    let head = "GET /n/7 HTTP/1.1\r\nhost: x\r\nx-more: some\r\n\r\n";
    for first in ["", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        for n in 1..head.len() {
            let server = Server::new(PATIENT);
            let (mut client, task) = server.memory();
            client.send(format!("{first}{}", &head[..n])).await;
            let_run().await;
            server.connections.leave(Leave::Release);
            let (stream, read): (DuplexStream, _) = released(task).await;
            assert_eq!(read, head[..n]);
            let (_next, _task) = moves(stream, &read);
            client.send(&head[n..]).await;
            if !first.is_empty() {
                assert_eq!(client.reply().await.body, "hello");
            }
            assert_eq!(client.reply().await.body, "7");
        }
    }
}

#[tokio::test]
async fn a_request_is_finished_first_and_says_nothing_of_a_close() {
    for path in ["/wait", "/drip"] {
        let server = Server::new(PATIENT);
        let (mut client, task) = server.tcp().await;
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        super::support::until(|| server.in_flight() == 1).await;
        server.connections.leave(Leave::Release);
        let_run().await;
        assert!(!task.is_finished());
        server.gate.add_permits(2);
        let reply = client.reply().await;
        assert!(reply.status == 200 && !reply.says_close());
        released(task).await;
    }
}

#[tokio::test(start_paused = true)]
async fn never_within_a_body_and_never_with_a_body_for_a_request() {
    let body = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    for path in ["/ignore", "/half/1", "/keep"] {
        for sent in [0, 1, 500, body.len() - 1, body.len()] {
            let mut server = Server::new(PATIENT);
            let (mut client, task) = server.memory();
            client
                .send(format!(
                    "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                ))
                .await;
            client.send(&body[..sent]).await;
            let_run().await;
            server.connections.leave(Leave::Release);
            let_run().await;
            drop(server.kept.try_recv()); // the task that kept it has not read it
            client.send(&body[sent..]).await;
            client.send("GET /n/2 HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let next = match task.await.unwrap() {
                End::Released(stream, moved) => {
                    let read = String::from_utf8(moved.read.to_vec()).unwrap();
                    Some(moves(stream, &read))
                }
                End::Closed => None,
                End::Upgraded => panic!(),
            };
            let mut bodies = Vec::new();
            while let Some(reply) = client.try_reply().await {
                bodies.push(reply.body);
                if next.is_some() && bodies.len() == 2 {
                    break;
                }
            }
            assert!(
                bodies.len() <= 2 && bodies.get(1).is_none_or(|body| body == "2"),
                "{path} {sent}: {bodies:?}"
            );
            let mut calls = server.calls();
            calls.extend(next.iter().flat_map(|(next, _)| next.calls()));
            assert!(
                !calls.iter().any(|path| path == "/smuggled"),
                "{path} {sent}: {calls:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_body_that_a_task_reads_later_is_waited_for() {
    let mut server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client
        .send("POST /keep HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nGET \r\n")
        .await;
    assert_eq!(client.reply().await.body, "kept");
    let body = server.kept.recv().await.unwrap();
    server.connections.leave(Leave::Release);
    let_run().await;
    assert!(!task.is_finished());
    let reading = tokio::spawn(axum::body::to_bytes(body, 100));
    client.send("1\r\n/\r\n0\r\n\r\nGET /n/2").await;
    assert_eq!(reading.await.unwrap().unwrap(), "GET /");
    let (stream, read) = released(task).await;
    let (_next, _task) = moves(stream, &read);
    client.send(" HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.reply().await.body, "2");
}

#[tokio::test]
async fn a_body_that_is_read_and_kept_holds_nothing_up() {
    for head in [
        "content-length: 2\r\n\r\nok",
        "transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let mut server = Server::new(PATIENT);
        let (mut client, task) = server.tcp().await;
        client
            .send(format!("POST /keep HTTP/1.1\r\nhost: x\r\n{head}"))
            .await;
        client.reply().await;
        let mut body = server.kept.recv().await.unwrap();
        while http_body_util::BodyExt::frame(&mut body).await.is_some() {}
        server.connections.leave(Leave::Release);
        released(task).await;
        drop(body);
    }
}

#[tokio::test]
async fn every_pipelined_request_is_answered_or_handed_back_once() {
    for count in 2..=20 {
        for turns in 0..6 {
            let server = Server::new(PATIENT);
            let (mut client, task) = server.memory();
            let requests: String = (0..count)
                .map(|n| format!("GET /n/{n} HTTP/1.1\r\nhost: x\r\n\r\n"))
                .collect();
            client.send(requests).await;
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            server.connections.leave(Leave::Release);
            let (stream, read) = released(task).await;
            let (_next, _task) = moves(stream, &read);
            for n in 0..count {
                assert_eq!(client.reply().await.body, n.to_string());
            }
        }
    }
}

#[tokio::test]
async fn a_large_response_is_written_out_first() {
    let server = Server::new(PATIENT);
    let (near, far) = duplex(1000);
    let task = server.serve(far, Start::Fresh);
    let mut client = Client::new(near);
    client
        .send("GET /large/100000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let_run().await;
    server.connections.leave(Leave::Release);
    let_run().await;
    assert!(!task.is_finished());
    assert_eq!(client.reply().await.body.len(), 100_000);
    released(task).await;
}

#[tokio::test]
async fn one_that_nobody_took_stays_and_is_told_to_close() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client.get("/").await;
    server.connections.leave(Leave::Release);
    let (stream, read) = released(task).await;
    let task = server.serve(stream, Start::Stays(having_read(&read)));
    let_run().await;
    assert_eq!(server.connections.open(), 1);
    let reply = client.get("/").await;
    assert!(reply.says_close());
    client.ends().await;
    drop(client);
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert_eq!(server.closed(), 1);
}
