//! A connection's first request is served before the runtime knows its socket: whatever comes of it there, nothing is lost.

use crate::support::{Conn, Server, Signal};

const LARGE: usize = 10_000_000;

/// The beginnings of connections, and how they go on.
const PIECES: [(&str, &str, &str); 6] = [
    ("", "GET / HTTP/1.1\r\nhost: test\r\n\r\n", "hello world"),
    ("G", "ET / HTTP/1.1\r\nhost: test\r\n\r\n", "hello world"),
    ("GET / HTTP/1.1\r\nhost: t", "est\r\n\r\n", "hello world"),
    ("GET / HTTP/1.1\r\nhost: test\r\n\r", "\n", "hello world"),
    (
        "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n",
        "a b c d e",
        "a b c d e",
    ),
    (
        "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\na b ",
        "c d e",
        "a b c d e",
    ),
];

#[test]
fn a_first_request_in_pieces_is_answered_also_in_a_restart() {
    let server = Server::run("playground").workers(2).start();
    let mut clients: Vec<_> = (0..3)
        .flat_map(|_| PIECES)
        .map(|(first, rest, answer)| {
            let mut conn = Conn::open(server.addr()).unwrap();
            conn.send(first).unwrap();
            (conn, rest, answer)
        })
        .collect();
    for (n, lot) in clients.chunks_mut(PIECES.len()).enumerate() {
        server.signal(Signal::SIGHUP);
        // Those of the first lot while it goes on, all others when they have been moved, or are waited for.
        if n > 0 {
            server.wait_until("a restart more", |server| {
                server.output().matches(": restarted generation").count() >= n
            });
        }
        for (conn, rest, answer) in lot {
            conn.send(rest).unwrap();
            assert_eq!(conn.response().unwrap().body, *answer);
        }
    }
    for (conn, ..) in &mut clients {
        conn.ask("GET", "/", &[], "").unwrap();
        assert_eq!(conn.response().unwrap().body, "hello world");
    }
}

#[test]
fn a_large_first_answer_reaches_whoever_reads_late() {
    let server = Server::run("playground").workers(2).start();
    let path = format!("/bytes?count={LARGE}");
    let closes = [("connection", "close")];
    let mut clients: Vec<_> = (0..6).map(|_| Conn::open(server.addr()).unwrap()).collect();
    for (n, conn) in clients.iter_mut().enumerate() {
        let headers = if n % 3 == 0 { &closes[..] } else { &[] };
        conn.ask("GET", &path, headers, "").unwrap();
        if n % 3 == 1 {
            conn.shut_down_writing().unwrap();
        }
    }
    // All are answered at once, and nobody reads; also while the workers leave.
    server.signal(Signal::SIGTERM);
    for conn in &mut clients {
        assert_eq!(conn.response().unwrap().body.len(), LARGE);
        assert!(conn.rest().unwrap().is_empty(), "ended, and not reset");
    }
    assert_eq!(server.wait_exit().code(), Some(0));
}
