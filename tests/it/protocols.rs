//! What cannot move to another process is ended cleanly by a restart: HTTP/2, WebSockets, streams of events, long requests (L15, L16).

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, Wire, sized},
    restart::{cluster, must_have_lost_nothing, restart_under},
    support::{Conn, Server, Signal},
};

const MS: Duration = Duration::from_millis(1);

/// Restarts, and returns when every worker of before is gone.
fn restart(server: &Server) {
    let before: BTreeSet<_> = server.worker_pids().into_iter().collect();
    server.signal(Signal::SIGHUP);
    server.wait_until("every worker is replaced and gone", |server| {
        let now: BTreeSet<_> = server.worker_pids().into_iter().collect();
        now.len() == before.len() && now.is_disjoint(&before)
    });
}

#[test]
fn l15_http2_loses_no_stream() {
    let (server, restarts) = (cluster(), 10);
    let load = Load::new(server.addr()).mode(Mode::Http2 {
        streams: sized(32, 8),
    });
    let tally = restart_under(&server, load, restarts);
    eprintln!("{tally}");
    must_have_lost_nothing(&tally, restarts);
}

#[test]
fn http2_requests_that_take_their_time_are_finished() {
    let (server, restarts) = (cluster(), sized(10, 3));
    let running = Load::new(server.addr())
        .clients(8)
        .mode(Mode::Http2 { streams: 8 })
        .get("/slow?ms=100")
        .start();
    for _ in 0..restarts {
        let done = running.done();
        server.wait_until("some are answered", |_| running.done() > done + 32);
        restart(&server);
    }
    let tally = running.stop();
    must_have_lost_nothing(&tally, restarts);
}

// GOAWAY is followed by a PING, whose answer shows that the client has read it. Who does not answer holds up nobody.
#[test]
fn an_http2_client_that_answers_no_ping_is_left_behind() {
    let server = Server::run("playground").workers(2).start();
    let mut silent = TcpStream::connect(server.addr()).unwrap();
    // The preface, empty settings, and GET / on stream 1 with indexed fields of HPACK's table.
    let headers = [0x82, 0x84, 0x86, 0x41, 4, b't', b'e', b's', b't'];
    let head = [0, 0, headers.len() as u8, 1, 5, 0, 0, 0, 1];
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    silent
        .write_all(
            &[
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                &settings[..],
                &head,
                &headers,
            ]
            .concat(),
        )
        .unwrap();
    silent
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut read = Vec::new();
    while !read.windows(11).any(|window| window == b"hello world") {
        let mut buffer = [0; 1024];
        let more = silent.read(&mut buffer).unwrap();
        assert!(more > 0, "the connection ended: {read:?}");
        read.extend(&buffer[..more]);
    }
    let before = server.worker_pids();
    server.signal(Signal::SIGHUP);
    server.wait_for_line(" restarted ");
    // Every old worker has its order now.
    let begun = Instant::now();
    server.wait_until("the end of the old workers", |server| {
        server.worker_pids().iter().all(|pid| !before.contains(pid))
    });
    let took = begun.elapsed();
    assert!(took <= 3_000 * MS, "held up for {took:?}");
    // To the end: GOAWAY was there, and the connection was not just let fall.
    silent.read_to_end(&mut read).unwrap();
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0];
    assert!(read.windows(9).any(|window| window == goaway), "{read:?}");
    eprintln!("a client that answers no PING held its worker for {took:?}");
}

#[test]
fn l16_websockets_are_closed_cleanly_and_come_back() {
    let (server, restarts) = (cluster(), sized(10, 5));
    let load = Load::new(server.addr()).mode(Mode::WebSocket { think: 4 * MS });
    let tally = restart_under(&server, load, restarts);
    must_have_lost_nothing(&tally, restarts);
}

#[test]
fn l16_streams_of_events_end_cleanly_and_come_back() {
    const CLIENTS: u64 = 8;
    let (server, restarts) = (cluster(), sized(10, 4));
    let running = Load::new(server.addr())
        .clients(CLIENTS as usize)
        .mode(Mode::KeepAlive {
            think: Duration::ZERO,
        })
        .events()
        .start();
    for n in 1..=restarts {
        restart(&server);
        // A stream that came in the middle of a restart may have ended twice.
        server.wait_until("the end of some streams", |_| {
            running.done() >= (n as u64 - 1) * CLIENTS
        });
    }
    running.send_no_more();
    restart(&server);
    let tally = running.wait();
    tally.must_be_perfect();
    tally.must(
        "several generations answered",
        tally.generations().len() >= restarts,
    );
}

#[test]
fn a_five_second_request_finishes_on_the_worker_that_has_it() {
    let server = Server::run("playground").workers(2).start();
    let ms = sized(5_000, 900);
    let mut wire = Wire::to(server.addr()).unwrap();
    let old = wire.get("/").unwrap().number("x-pid");
    // Both in one segment: when the first is answered, the worker has the second.
    let first = "GET /number/1 HTTP/1.1\r\nHost: test\r\n\r\n";
    wire.send(format!("{first}GET /slow?ms={ms} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(wire.response().unwrap().body, b"1");
    server.signal(Signal::SIGHUP);
    server.wait_for_line(" restarted ");
    assert_eq!(server.get("/").header("x-generation"), Some("2"));
    let answer = wire.response().unwrap();
    assert_eq!((answer.status, answer.number("x-pid")), (200, old));
    // And the connection goes on with a new one.
    assert_eq!(wire.get("/").unwrap().number("x-generation"), 2);
}

#[test]
fn l07_a_request_longer_than_the_deadline_is_cut_there_counted_and_named() {
    let server = Server::run("playground")
        .workers(2)
        .env("DRAIN_MS", 400)
        .start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/slow?ms=30000", &[], "").unwrap();
    // Handed over in order: when each worker has answered a later one, this one has been taken.
    (0..4).for_each(|_| drop(server.get("/")));
    let begun = Instant::now();
    restart(&server);
    assert!(conn.response().is_err());
    let took = begun.elapsed();
    assert!((400 * MS..=5_000 * MS).contains(&took), "{took:?}");
    server.wait_for_line("cut at the drain deadline worker=1 connections=1 requests=1");
    server.wait_until("the request is named", |server| {
        let output = server.output();
        output
            .lines()
            .any(|line| line.contains("GET") && line.contains("/slow"))
    });
    Load::new(server.addr()).count(50).run().must_be_perfect();
}
