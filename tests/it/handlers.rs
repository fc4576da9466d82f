//! axum's own ways of answering work in a worker as anywhere, and end well. T12.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::support::{Conn, Server, Signal, request};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    crate::support::block_on(async {
        tokio::time::timeout(Duration::from_secs(20), future)
            .await
            .unwrap()
    })
}

#[test]
fn a_websocket_echoes_and_is_closed_when_its_worker_drains() {
    let server = Server::run("playground").workers(2).start();
    block_on(async {
        let (mut socket, _) = connect_async(format!("ws://{}/ws", server.addr()))
            .await
            .unwrap();
        for frame in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
            socket.send(frame.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), frame);
        }
        server.signal(Signal::SIGTERM);
        let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
            panic!("no close frame")
        };
        assert_eq!(frame.code, CloseCode::Away);
        // The close handshake ends the connection: nobody waits for the drain deadline.
        while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
    });
    let begun = Instant::now();
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_stream_of_events_ends_cleanly_when_its_worker_drains() {
    let server = Server::run("playground").workers(2).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/sse", &[], "").unwrap();
    let head = conn.head().unwrap();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut events = String::new();
    while !events.contains("data: 2\n\n") {
        events += std::str::from_utf8(&conn.chunk().unwrap().unwrap()).unwrap();
    }
    assert!(events.starts_with("data: 0\n\ndata: 1\n\n"), "{events:?}");
    server.signal(Signal::SIGTERM);
    while conn
        .chunk()
        .expect("the last chunk is missing: the stream was cut")
        .is_some()
    {}
    assert_eq!(conn.rest().unwrap(), b"");
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(!server.output().contains("cut at"), "{}", server.output());
}

// The peer's address is the client's, though the primary accepted the connection.
#[test]
fn connect_info_is_the_client() {
    for workers in [2, 0] {
        let server = Server::run("playground").workers(workers).start();
        for _ in 0..4 {
            let mut conn = Conn::open(server.addr()).unwrap();
            conn.ask("GET", "/peer", &[], "").unwrap();
            assert_eq!(conn.response().unwrap().body, conn.local_addr());
        }
    }
}

#[test]
fn a_handler_that_panics_costs_its_connection_only() {
    let server = Server::run("playground").workers(1).start();
    let mut neighbour = Conn::open(server.addr()).unwrap();
    neighbour.ask("GET", "/", &[], "").unwrap();
    let before = neighbour.response().unwrap().pid();

    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/panic", &[], "").unwrap();
    assert!(conn.response().is_err());

    neighbour.ask("GET", "/", &[], "").unwrap();
    assert_eq!(neighbour.response().unwrap().pid(), before);
    assert_eq!(server.get("/").pid(), before);
    drop((conn, neighbour));
    // Its guards let go of what they had counted.
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(
        server.lines("exit ")[0].contains("in_flight=0 open=0"),
        "{:?}",
        server.lines("exit ")
    );
}

// K-3: the answer says that the connection ends.
#[test]
fn a_slow_request_finishes_on_term_and_its_connection_is_closed() {
    let server = Server::run("playground").workers(1).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/", &[], "").unwrap();
    assert_eq!(
        conn.response().unwrap().header("connection"),
        None,
        "before: kept alive"
    );
    conn.ask("GET", "/slow?ms=700", &[], "").unwrap();
    server.get("/");
    server.signal(Signal::SIGTERM);
    let answer = conn.response().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "after 700 ms"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(conn.rest().unwrap(), b"", "closed, not reset");
    assert_eq!(server.wait_exit().code(), Some(0));
}

#[test]
fn a_connection_lasts_for_many_requests() {
    let server = Server::run("playground").workers(2).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    let body = "x".repeat(300_000);
    let mut pids: Vec<u32> = Vec::new();
    for _ in 0..20 {
        conn.ask("POST", "/echo", &[], &body).unwrap();
        let answer = conn.response().unwrap();
        assert!(answer.body == body);
        pids.push(answer.pid());
    }
    pids.dedup();
    assert_eq!(pids.len(), 1);
    // Asked for by the client.
    conn.ask("GET", "/", &[("connection", "close")], "")
        .unwrap();
    assert_eq!(conn.response().unwrap().header("connection"), Some("close"));
    assert_eq!(conn.rest().unwrap(), b"");
}

// A client that shuts down its side after the request is answered all the same.
#[test]
fn a_half_closed_client_is_answered() {
    let server = Server::run("playground").workers(1).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/slow?ms=200", &[], "").unwrap();
    conn.shut_down_writing().unwrap();
    assert_eq!(conn.response().unwrap().body, "after 200 ms");
}

#[test]
fn an_unknown_route_and_a_malformed_request_are_answered() {
    let server = Server::run("playground").workers(1).start();
    assert_eq!(server.get("/nothing/here").status, 404);
    assert_eq!(
        request(server.addr(), "POST", "/", &[], "").unwrap().status,
        405
    );
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.send("this is no HTTP\r\n\r\n").unwrap();
    assert_eq!(conn.response().unwrap().status, 400);
    assert_eq!(server.get("/").body, "hello world");
}

#[test]
fn http2_without_tls_is_served_and_told_to_go_away() {
    use http_body_util::{BodyExt, Empty};
    use hyper::{Request, body::Bytes};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let server = Server::run("playground").workers(2).start();
    block_on(async {
        let stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let mut ask = |path: &str| {
            let request = Request::get(format!("http://test{path}"))
                .body(Empty::<Bytes>::new())
                .unwrap();
            sender.send_request(request)
        };
        let ten: Vec<_> = (0..10).map(|_| ask("/")).collect();
        for answer in ten {
            let body = answer.await.unwrap().collect().await.unwrap().to_bytes();
            assert_eq!(body, "hello world");
        }
        let slow = tokio::spawn(ask("/slow?ms=500"));
        // A later stream that was answered shows that the slow one has begun.
        ask("/").await.unwrap();
        server.signal(Signal::SIGTERM);
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(
            answer.into_body().collect().await.unwrap().to_bytes(),
            "after 500 ms"
        );
        connection.await.unwrap().unwrap();
    });
    assert_eq!(server.wait_exit().code(), Some(0));
}
