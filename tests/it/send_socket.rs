//! Connections that the primary accepts itself and sends to a worker, which serves them with its router.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::support::{Conn, Server, Signal, poll_for};

fn start() -> (Server, String) {
    let server = Server::run("send_socket")
        .env("SOCKETS", "127.0.0.1:0")
        .start();
    let line = server.lines("handing out at ").remove(0);
    let sockets = line.rsplit(' ').next().unwrap().to_owned();
    (server, sockets)
}

/// Asks from an address of one's own.
fn ask_from(source: &str, addr: &str) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let source: std::net::SocketAddr = format!("{source}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    let addr: std::net::SocketAddr = addr.parse().unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

// I-10, I-12: Node's documented example.
#[test]
fn the_primary_chooses_who_serves_a_connection() {
    let (server, sockets) = start();
    for _ in 0..5 {
        let answer = ask_from("127.0.0.1", &sockets);
        assert!(
            answer.ends_with("handled with normal priority\n"),
            "{answer}"
        );
        let answer = ask_from("127.0.0.2", &sockets);
        assert!(
            answer.ends_with("handled with special priority\n"),
            "{answer}"
        );
    }
    assert_eq!(server.get("/").status, 200, "and the ordinary way");
    assert!(server.stop().success());
}

// It is served as all others: kept alive, and drained in a restart, with a word to the client.
#[test]
fn a_connection_sent_to_a_worker_is_drained_with_it() {
    let (server, sockets) = start();
    let mut conn = Conn::open(&sockets).unwrap();
    for _ in 0..3 {
        conn.ask("GET", "/", &[], "").unwrap();
        assert_eq!(conn.response().unwrap().status, 200);
    }
    let before = server.worker_pids();
    server.signal(Signal::SIGHUP);
    server.wait_until("they are replaced", |server| {
        let now = server.worker_pids();
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    });
    // Idle when its worker left: closed by it, in order.
    let _ = conn.ask("GET", "/", &[], "");
    assert!(poll_for(std::time::Duration::from_secs(5), || conn
        .response()
        .is_err()));
    assert!(!server.output().contains("died"), "{}", server.output());
    let answer = ask_from("127.0.0.2", &sockets);
    assert!(answer.ends_with("special priority\n"), "{answer}");
    assert!(server.stop().success());
}
