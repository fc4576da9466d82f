//! `cluster::listen`: listeners that workers open themselves, and share.
//!
//! The server is this very test binary: [`fixture`] is a test that is run again as a process of its own.

#![allow(
    clippy::print_stdout,
    reason = "the fixture tells the tests what happens"
)]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Path},
    routing::{get, post},
};
use axum_cluster::{
    ClusteredServer, Worker,
    cluster::{self, Peer},
};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, sync::oneshot};

use crate::{
    limits::cpu,
    support::{Server, Signal, TempDir, poll_for, request, say},
};

/// What a worker is told to open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Order {
    /// By which it is closed again.
    name: String,
    addr: String,
    how: How,
    exclusive: bool,
    reuse_port: bool,
    ipv6_only: bool,
    backlog: Option<u32>,
    mode: Option<u32>,
    max_connections: Option<usize>,
}

/// What is done with connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
enum How {
    /// Told which worker has them, and closed.
    #[default]
    Tell,
    /// Not accepted at all.
    Never,
    /// Kept open until the client closes.
    Keep,
    /// Served by axum.
    Axum,
    /// Nobody waits until it listens.
    Forget,
    /// UDP: each datagram is answered.
    Udp,
    /// Asked for twice at once.
    Twice,
    /// Asked for when the worker leaves.
    Late,
}

// ===== the tests =====

fn start(workers: u32) -> Server {
    Server::fixture("listening::fixture")
        .workers(workers)
        .start()
}

/// Has one worker do something.
fn tell(server: &Server, worker: u32, path: &str, body: &str) -> String {
    let path = format!("/{worker}/{path}");
    loop {
        let response = request(server.addr(), "POST", &path, &[], body)
            .unwrap_or_else(|error| panic!("{path}: {error}\n{}", server.output()));
        // It is another worker's turn; the next one may be right.
        if response.status != 409 {
            assert_eq!(response.status, 200, "{}", server.output());
            return response.body;
        }
    }
}

fn listen_as(server: &Server, worker: u32, order: &Order) -> String {
    tell(
        server,
        worker,
        "listen",
        &serde_json::to_string(order).unwrap(),
    )
}

/// Where it listens, or why not.
fn listen(server: &Server, worker: u32, name: &str, addr: &str) -> String {
    let order = Order {
        name: name.to_owned(),
        addr: addr.to_owned(),
        ..Order::default()
    };
    listen_as(server, worker, &order)
}

fn close(server: &Server, worker: u32, name: &str) {
    tell(server, worker, &format!("close/{name}"), "");
}

/// What a client is told: `worker N`. Empty when it is refused or closed.
fn who(addr: &str) -> String {
    let mut said = String::new();
    if let Ok(mut client) = TcpStream::connect(addr) {
        let _ = client.set_read_timeout(Some(Duration::from_secs(10)));
        let _ = client.read_to_string(&mut said);
    }
    said.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn counts(addr: &str, clients: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..clients {
        *counts.entry(who(addr)).or_default() += 1;
    }
    counts
}

fn all(counts: &[(&str, u32)]) -> BTreeMap<String, u32> {
    let owned = |&(name, count): &(&str, u32)| (name.to_owned(), count);
    counts.iter().map(owned).collect()
}

const ANY: &str = "127.0.0.1:0";

// L-1, L-2, L-22: the first port 0 of every worker is one port, the second another one, and each is told the real address.
#[test]
fn workers_share_what_they_all_ask_for() {
    let server = start(3);
    let first: Vec<_> = (1..=3).map(|n| listen(&server, n, "a", ANY)).collect();
    let second: Vec<_> = (1..=2).map(|n| listen(&server, n, "b", ANY)).collect();
    assert!(first.iter().all(|addr| *addr == first[0]), "{first:?}");
    assert_eq!(second[0], second[1]);
    assert_ne!(first[0], second[0]);
    assert!(!first[0].ends_with(":0"), "{first:?}");
    let each = [("worker 1", 10), ("worker 2", 10), ("worker 3", 10)];
    assert_eq!(counts(&first[0], 30), all(&each), "in turn");
    // The third does not listen there.
    assert_eq!(
        counts(&second[0], 30),
        all(&[("worker 1", 15), ("worker 2", 15)])
    );
    // Each belongs to its listener; what is served besides goes on.
    assert_eq!(server.get("/").status, 200);
    assert!(server.stop().success());
}

// L-7, L-20: who closes gets no more; with the last the socket closes; then it can be had again.
#[test]
fn a_listener_is_closed_by_each_and_opened_again() {
    let server = start(2);
    let addr = listen(&server, 1, "a", ANY);
    assert_eq!(listen(&server, 2, "a", ANY), addr);
    close(&server, 1, "a");
    assert_eq!(counts(&addr, 10), all(&[("worker 2", 10)]));
    assert_eq!(listen(&server, 1, "a", ANY), addr, "the others keep it");
    assert_eq!(counts(&addr, 10), all(&[("worker 1", 5), ("worker 2", 5)]));
    close(&server, 1, "a");
    close(&server, 2, "a");
    server.wait_until("it is closed", |_| TcpStream::connect(&addr).is_err());
    for _ in 0..5 {
        assert_eq!(listen(&server, 2, "a", &addr), addr, "at once");
        assert_eq!(who(&addr), "worker 2");
        close(&server, 2, "a");
    }
}

// L-5: the asker is told, nobody is harmed, and it may be tried again. L-3, L-6, K-22: what is in use within the cluster.
#[test]
fn an_address_that_cannot_be_had_is_the_askers_error() {
    let server = start(2);
    let other = TcpListener::bind(ANY).unwrap();
    let addr = other.local_addr().unwrap().to_string();
    for worker in [1, 2] {
        let error = listen(&server, worker, "a", &addr);
        assert!(error.contains("Bind AddrInUse"), "{error}");
    }
    drop(other);
    assert_eq!(listen(&server, 1, "a", &addr), addr);
    assert_eq!(listen(&server, 2, "a", &addr), addr);
    assert!(who(&addr).starts_with("worker"));
    let twice = listen(&server, 1, "again", &addr);
    assert!(
        twice.contains("this worker listens there already"),
        "{twice}"
    );
    let order = Order {
        addr: addr.clone(),
        backlog: Some(7),
        ..Order::default()
    };
    close(&server, 1, "a");
    let other_options = listen_as(&server, 1, &order);
    assert!(other_options.contains("other options"), "{other_options}");
    let any = listen(&server, 1, "any", ANY);
    let assigned = listen(&server, 2, "assigned", &any);
    assert!(assigned.contains("AddrInUse"), "{assigned}");
    for bad in ["no such host:80", "nonsense"] {
        let error = listen(&server, 1, "bad", bad);
        assert!(error.starts_with("Address"), "{error}");
    }
    if !rustix::process::geteuid().is_root() {
        let error = listen(&server, 1, "low", "127.0.0.1:1");
        assert!(error.contains("Bind PermissionDenied"), "{error}");
    }
    assert_eq!(server.worker_pids().len(), 2);
}

// L-10, L-11: bound by the worker itself.
#[test]
fn what_is_exclusive_is_the_workers_own() {
    let server = start(2);
    let exclusive = |addr: &str| Order {
        name: "own".into(),
        addr: addr.into(),
        exclusive: true,
        ..Order::default()
    };
    let first = listen_as(&server, 1, &exclusive(ANY));
    let second = listen_as(&server, 2, &exclusive(ANY));
    assert_ne!(first, second);
    assert_eq!(counts(&first, 5), all(&[("worker 1", 5)]));
    assert_eq!(counts(&second, 5), all(&[("worker 2", 5)]));
    let error = listen_as(&server, 2, &exclusive(&first));
    assert!(error.contains("Bind AddrInUse"), "{error}");
    assert!(!server.output().contains(&format!("{first} for a worker")));
    let mut shared = Order {
        name: "reused".into(),
        addr: ANY.into(),
        reuse_port: true,
        ..Order::default()
    };
    shared.addr = listen_as(&server, 1, &shared);
    assert_eq!(listen_as(&server, 2, &shared), shared.addr);
    let counts = counts(&shared.addr, 60);
    assert_eq!(counts.values().sum::<u32>(), 60, "{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
}

// L-10, L-17, L-21: who has no room waits for nobody when its worker leaves.
#[test]
fn a_full_listener_of_a_workers_own_ends_with_its_worker() {
    let server = start(1);
    let mut kept = Vec::new();
    for limit in 0..2 {
        let order = Order {
            name: format!("own {limit}"),
            addr: ANY.into(),
            exclusive: true,
            how: How::Keep,
            max_connections: Some(limit),
            ..Order::default()
        };
        let addr = listen_as(&server, 1, &order);
        if limit > 0 {
            let mut client = TcpStream::connect(&addr).unwrap();
            client.read_exact(&mut [0; 9]).unwrap();
            kept.push(client);
        }
    }
    // It has something to do until this has been read.
    let mut busy = crate::support::Conn::open(server.addr()).unwrap();
    busy.send("GET / HTTP/1.1\r\n").unwrap();
    server.signal(Signal::SIGTERM);
    server.wait_until("both have ended", |server| {
        server.lines("worker 1 accepts no more").len() == 2
    });
    busy.send("host: test\r\n\r\n").unwrap();
    assert_eq!(busy.response().unwrap().body, "worker 1");
    drop(kept);
    assert_eq!(server.wait_exit().code(), Some(0));
}

// L-10, K-7: its connections are waited for like all others, and who has come is still accepted.
#[test]
fn a_worker_that_leaves_finishes_what_it_accepted_by_itself() {
    let server = start(1);
    let order = Order {
        name: "own".into(),
        addr: ANY.into(),
        exclusive: true,
        how: How::Keep,
        max_connections: Some(2),
        ..Order::default()
    };
    let addr = listen_as(&server, 1, &order);
    let mut kept: Vec<_> = (0..2).map(|_| TcpStream::connect(&addr).unwrap()).collect();
    for client in &mut kept {
        client.read_exact(&mut [0; 9]).unwrap();
    }
    server.signal(Signal::SIGTERM);
    server.wait_for_line("worker 1 accepts no more");
    for client in &mut kept {
        assert_eq!(server.worker_pids().len(), 1, "it waits for each");
        client.write_all(b"x").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, " bye");
    }
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(!server.output().contains("cut at the drain deadline"));
}

// L-10: stopped while they come, the worker finds them together with the order to leave.
#[test]
fn who_has_come_to_a_workers_own_listener_is_served_when_it_leaves() {
    let server = start(1);
    let order = Order {
        name: "own".into(),
        addr: ANY.into(),
        exclusive: true,
        ..Order::default()
    };
    let addr = listen_as(&server, 1, &order);
    let worker = server.worker_pids()[0];
    server.signal_to(worker, Signal::SIGSTOP);
    let clients: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(&addr).unwrap())
        .collect();
    server.signal(Signal::SIGTERM);
    server.wait_until("it has been told to leave", |server| {
        TcpStream::connect(server.addr()).is_err()
    });
    server.signal_to(worker, Signal::SIGCONT);
    for mut client in clients {
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("worker 1"), "{said}");
    }
    assert_eq!(server.wait_exit().code(), Some(0));
}

// L-12, L-13
#[test]
fn options_reach_the_socket() {
    let server = start(1);
    let mut order = Order {
        name: "six".into(),
        addr: "[::]:0".into(),
        backlog: Some(7),
        ..Order::default()
    };
    let port = |addr: &str| addr.rsplit(':').next().unwrap().to_owned();
    let both = port(&listen_as(&server, 1, &order));
    assert_eq!(who(&format!("127.0.0.1:{both}")), "worker 1");
    assert_eq!(who(&format!("[::1]:{both}")), "worker 1");
    order.name = "only".into();
    order.ipv6_only = true;
    let only = port(&listen_as(&server, 1, &order));
    assert_eq!(who(&format!("[::1]:{only}")), "worker 1");
    assert!(TcpStream::connect(format!("127.0.0.1:{only}")).is_err());
    let queues = std::process::Command::new("ss").args(["-Hltn"]).output();
    if let Ok(queues) = queues {
        let queues = String::from_utf8_lossy(&queues.stdout).into_owned();
        let line = queues
            .lines()
            .find(|line| line.contains(&format!(":{both} ")));
        let backlog = line.and_then(|line| line.split_whitespace().nth(2));
        assert_eq!(backlog, Some("7"), "{queues}");
    }
}

// L-21, K-9: one that does not keep up passes on what it has no room for.
#[test]
fn a_worker_that_does_not_accept_is_passed_over() {
    let server = start(2);
    let mut order = Order {
        name: "a".into(),
        addr: ANY.into(),
        how: How::Never,
        ..Order::default()
    };
    let addr = listen_as(&server, 1, &order);
    order.how = How::Tell;
    assert_eq!(listen_as(&server, 2, &order), addr);
    let mut clients: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(&addr).unwrap())
        .collect();
    let mut told = 0;
    // All but those that wait in the queue of the first one.
    server.wait_until("the other has the rest", |_| {
        clients.retain_mut(|client| {
            let _ = client.set_read_timeout(Some(Duration::from_millis(5)));
            let answered = client.read(&mut [0; 64]).is_ok_and(|read| read > 0);
            told += u32::from(answered);
            !answered
        });
        told >= 300 - 64
    });
    assert_eq!(told, 300 - 64);
    // It closes: they are the other's.
    close(&server, 1, "a");
    for mut client in clients {
        let mut said = String::new();
        let _ = client.set_read_timeout(Some(Duration::from_secs(10)));
        client.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("worker 2"), "{said}");
    }
}

// L-21, K-9, R-6, R-7: past its limit a worker passes on; when all are full, clients wait, and nobody spins.
#[test]
fn a_listener_has_a_limit_of_connections() {
    let server = start(3);
    let mut order = Order {
        name: "a".into(),
        addr: ANY.into(),
        how: How::Keep,
        max_connections: Some(2),
        ..Order::default()
    };
    let addr = listen_as(&server, 1, &order);
    listen_as(&server, 2, &order);
    order.max_connections = Some(0);
    listen_as(&server, 3, &order);
    let mut clients: Vec<_> = (0..6).map(|_| TcpStream::connect(&addr).unwrap()).collect();
    let mut told = Vec::new();
    let greeted = |clients: &mut Vec<TcpStream>| {
        let mut greeting = [0; 9];
        let fresh = clients.iter_mut().position(|client| {
            client
                .set_read_timeout(Some(Duration::from_millis(5)))
                .unwrap();
            client.read_exact(&mut greeting).is_ok()
        })?;
        let who = String::from_utf8_lossy(&greeting).trim().to_owned();
        Some((who, clients.swap_remove(fresh)))
    };
    server.wait_until("all places are taken", |_| {
        told.extend(greeted(&mut clients));
        told.len() == 4
    });
    let count = |who: &str| told.iter().filter(|(by, _)| by == who).count();
    assert_eq!((count("worker 1"), count("worker 2")), (2, 2));
    let before = cpu(server.pid());
    std::thread::sleep(Duration::from_millis(500));
    let used = cpu(server.pid()).saturating_sub(before);
    assert!(
        used <= Duration::from_millis(50),
        "{used:?} of half a second"
    );
    assert!(greeted(&mut clients).is_none(), "the others wait");
    // As soon as one is free, it is the next one's.
    for _ in 0..2 {
        let (who, client) = told.remove(0);
        drop(client);
        let mut next = None;
        server.wait_until("the next one has its place", |_| {
            next = greeted(&mut clients);
            next.is_some()
        });
        let (by, client) = next.unwrap();
        assert_eq!(by, who);
        told.push((by, client));
    }
}

// L-8, L-15, E-4: a socket of the primary's own, by its number there; the primary tells who listens, and where.
#[test]
fn a_descriptor_of_the_primary_is_listened_at() {
    let server = start(2);
    let of = |kind: &str| {
        let line = server.lines(kind).remove(0);
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    };
    let (stream, addr) = of("stream ");
    for worker in [1, 2] {
        assert_eq!(listen(&server, worker, "fd", &stream), addr);
        server.wait_for_line(&format!("worker {worker} listens at {addr}"));
    }
    assert_eq!(counts(&addr, 10), all(&[("worker 1", 5), ("worker 2", 5)]));
    let (datagrams, udp) = of("datagrams ");
    let order = Order {
        name: "udp".into(),
        addr: datagrams.clone(),
        how: How::Udp,
        ..Order::default()
    };
    assert_eq!(listen_as(&server, 1, &order), udp);
    server.wait_for_line(&format!("worker 1 listens at {udp}"));
    let wrong = listen(&server, 1, "wrong", &datagrams);
    assert!(wrong.contains("Bind InvalidInput"), "{wrong}");
    assert!(wrong.contains("no stream socket"), "{wrong}");
    let none = listen(&server, 1, "none", "fd:99999");
    assert!(none.contains("no descriptor of this number"), "{none}");
    let exclusive = Order {
        addr: stream.clone(),
        exclusive: true,
        ..Order::default()
    };
    let exclusive = listen_as(&server, 1, &exclusive);
    assert!(exclusive.contains("shared by all workers"), "{exclusive}");
    // The program's own descriptor stays open: who comes while nobody listens waits.
    close(&server, 1, "fd");
    close(&server, 2, "fd");
    server.wait_for_line(&format!("not listening on {addr}"));
    let client = {
        let addr = addr.clone();
        std::thread::spawn(move || who(&addr))
    };
    assert_eq!(listen(&server, 2, "fd", &stream), addr);
    assert_eq!(client.join().unwrap(), "worker 2");
}

// L-17, K-22: Node never answers. Here it is an error.
#[test]
fn a_worker_that_leaves_is_told_that_it_cannot_listen() {
    let server = start(1);
    let order = |name: &str, how| Order {
        name: name.into(),
        addr: ANY.into(),
        how,
        ..Order::default()
    };
    // Held, so that there is time to ask.
    let addr = listen_as(&server, 1, &order("held", How::Keep));
    let mut held = TcpStream::connect(&addr).unwrap();
    held.read_exact(&mut [0; 9]).unwrap();
    assert_eq!(listen_as(&server, 1, &order("late", How::Late)), "later");
    server.signal(Signal::SIGHUP);
    server.wait_for_line("late: ");
    let said = server.lines("late: ").remove(0);
    assert!(said.contains("this worker leaves the cluster"), "{said}");
}

// L-19: each is a listener of its own, so the second one is told; and of what is open there is one event.
#[test]
fn of_two_at_once_one_listens() {
    let server = start(1);
    let addr = listen(&server, 1, "a", ANY);
    close(&server, 1, "a");
    server.wait_for_line(&format!("not listening on {addr}"));
    let order = Order {
        name: "twice".into(),
        addr: addr.clone(),
        how: How::Twice,
        ..Order::default()
    };
    let said = listen_as(&server, 1, &order);
    let (first, second) = said.split_once(", ").unwrap();
    assert_eq!(first, addr);
    assert!(second.contains("listens there already"), "{second}");
    assert_eq!(who(&addr), "worker 1");
    // The primary's hooks are told beside the answer.
    let line = format!("worker 1 listens at {addr}");
    server.wait_until("it was told of", |server| server.lines(&line).len() >= 2);
    let told = server.lines(&line);
    assert_eq!(told.len(), 2, "once before, once now: {told:?}");
}

// L-18: nobody waits for the answer any more.
#[test]
fn what_nobody_waits_for_is_closed() {
    let server = start(1);
    let order = Order {
        name: "a".into(),
        addr: ANY.into(),
        how: How::Forget,
        ..Order::default()
    };
    assert_eq!(listen_as(&server, 1, &order), "forgotten");
    server.wait_for_line("not listening on 127.0.0.1:");
    // Where it serves, and nowhere else.
    assert_eq!(server.lines("worker 1 listens at ").len(), 1);
    // The index is free again, and another one is not hurt.
    let addr = listen(&server, 1, "b", ANY);
    assert_eq!(who(&addr), "worker 1");
}

// The only one who listens is killed: clients wait for its successor.
#[test]
fn a_successor_finds_the_clients_of_one_that_was_killed() {
    let server = start(1);
    let addr = listen(&server, 1, "a", ANY);
    assert_eq!(who(&addr), "worker 1");
    server.signal_to(server.worker_pids()[0], Signal::SIGKILL);
    server.wait_for_line("worker died");
    let client = {
        let addr = addr.clone();
        std::thread::spawn(move || who(&addr))
    };
    server.wait_until("a replacement serves", |_| {
        crate::support::try_get(server.addr(), "/").is_ok()
    });
    assert_eq!(listen(&server, 2, "a", ANY), addr, "the same port");
    assert_eq!(client.join().unwrap(), "worker 2");
    assert_eq!(counts(&addr, 4), all(&[("worker 2", 4)]));
}

// A leaving worker's loop ends after what is queued; what it has accepted is its program's to finish.
#[test]
fn a_worker_that_leaves_finishes_what_it_accepted() {
    let server = start(1);
    let order = Order {
        name: "a".into(),
        addr: ANY.into(),
        how: How::Keep,
        ..Order::default()
    };
    let addr = listen_as(&server, 1, &order);
    let mut kept = TcpStream::connect(&addr).unwrap();
    let mut first = [0; 9];
    kept.read_exact(&mut first).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_line("worker 1 accepts no more");
    server.wait_until("the next one serves", |server| {
        server.get("/").body == "worker 2"
    });
    assert_eq!(listen(&server, 2, "a", ANY), addr);
    assert_eq!(who(&addr), "worker 2");
    assert_eq!(server.worker_pids().len(), 2, "it waits for its connection");
    kept.write_all(b"x").unwrap();
    kept.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    kept.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " bye");
    server.wait_until("it has ended", |server| server.worker_pids().len() == 1);
    assert!(!server.output().contains("cut at the drain deadline"));
}

#[test]
fn axum_serves_it_with_connect_info_and_ends_gracefully() {
    let server = start(2);
    let order = Order {
        name: "a".into(),
        addr: ANY.into(),
        how: How::Axum,
        ..Order::default()
    };
    let addr = listen_as(&server, 1, &order);
    listen_as(&server, 2, &order);
    for _ in 0..4 {
        let body = crate::support::get(&addr, "/").body;
        assert!(body.contains("127.0.0.1:"), "{body}");
    }
    assert!(server.stop().success());
    assert!(poll_for(Duration::from_secs(1), || TcpStream::connect(
        &addr
    )
    .is_err()));
}

// L-15: one socket, which all have; closed with the last.
#[test]
fn workers_share_a_udp_socket() {
    let server = start(2);
    let order = Order {
        name: "udp".into(),
        addr: ANY.into(),
        how: How::Udp,
        ..Order::default()
    };
    let addr = listen_as(&server, 1, &order);
    assert_eq!(listen_as(&server, 2, &order), addr);
    let client = std::net::UdpSocket::bind(ANY).unwrap();
    client.connect(&addr).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let ask = || {
        client.send(b"?").unwrap();
        let mut buffer = [0; 64];
        let size = client.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    };
    for _ in 0..40 {
        assert!(["worker 1", "worker 2"].contains(&&*ask()));
    }
    let taken = Order {
        addr: addr.clone(),
        ..order.clone()
    };
    let error = listen_as(&server, 1, &taken);
    assert!(error.contains("another program listens there"), "{error}");
    close(&server, 1, "udp");
    for _ in 0..10 {
        assert_eq!(ask(), "worker 2");
    }
    close(&server, 2, "udp");
    server.wait_for_line(&format!("not listening on {addr}"));
    // The worker closes its own after it has told the primary.
    server.wait_until("the address is free", |_| {
        std::net::UdpSocket::bind(&addr).is_ok()
    });
}

// L-14: bound once, with the mode that was asked for, and removed with the last who listens.
#[test]
fn a_unix_socket_has_its_mode_and_goes_with_the_last() {
    use std::os::unix::{fs::PermissionsExt, net::UnixStream};
    let directory = TempDir::new();
    let long = format!("{}/x", "d".repeat(150));
    std::fs::create_dir(directory.path(&"d".repeat(150))).unwrap();
    for name in ["x", &long] {
        let server = start(2);
        let path = directory.path(name);
        let order = Order {
            name: "unix".into(),
            addr: format!("unix:{path}"),
            mode: Some(0o620),
            ..Order::default()
        };
        for worker in [1, 2] {
            assert_eq!(listen_as(&server, worker, &order), order.addr);
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        // A path that is too long for the system leads there too.
        let short = directory.path("link");
        let parent = std::path::Path::new(&path).parent().unwrap();
        std::os::unix::fs::symlink(parent, &short).unwrap();
        for worker in [1, 2] {
            let mut said = String::new();
            let mut client = UnixStream::connect(format!("{short}/x")).unwrap();
            client.read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("worker {worker} unix"));
        }
        std::fs::remove_file(&short).unwrap();
        close(&server, 1, "unix");
        assert!(std::fs::exists(&path).unwrap());
        close(&server, 2, "unix");
        server.wait_until("its file is gone", |_| !std::fs::exists(&path).unwrap());
        assert!(server.stop().success());
    }
}

/// The example `listen`, and where it also listens.
fn example() -> (Server, String) {
    let server = Server::run("listen")
        .env("ALSO", ANY)
        .env("RUST_LOG", "info")
        .workers(2)
        .start();
    let line = server.lines("worker 1 also listens on ").remove(0);
    (server, line.rsplit(' ').next().unwrap().to_owned())
}

/// Asks one question a connection until told to stop; how many were answered. Panics at the first that is refused, or cut in its answer.
///
/// A reset before the first byte of an answer is `axum::serve`'s own: told to end, it closes connections that it has not read from yet.
fn keep_asking(addr: &str) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<u32>) {
    let (stop, stopped) = std::sync::mpsc::channel();
    let addr = addr.to_owned();
    let asking = std::thread::spawn(move || {
        let mut answered = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            match crate::support::try_get(&addr, "/") {
                Ok(response) => {
                    assert!(response.body.contains("says hello"), "{response:?}");
                    answered += 1;
                }
                Err(error) => {
                    let kind = error.kind();
                    use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
                    assert!(matches!(kind, ConnectionReset | UnexpectedEof), "{error}");
                }
            }
        }
        answered
    });
    (stop, asking)
}

// A rolling restart: those that leave take no more, and nobody is refused.
#[test]
fn a_restart_refuses_nobody_at_a_workers_listener() {
    let (server, addr) = example();
    let (stop, asking) = keep_asking(&addr);
    for n in 1..=2 {
        server.signal(Signal::SIGHUP);
        server.wait_until("restarted", |server| {
            server.output().matches(" restarted ").count() == n
        });
    }
    drop(stop);
    assert!(asking.join().unwrap() > 0);
    let listening = format!("also listens on {addr}");
    assert_eq!(server.output().matches(&listening).count(), 6);
    assert!(!server.output().contains("not listening on"));
    assert!(server.stop().success());
}

// An upgrade in place carries them: socket, members, and who comes later.
#[test]
fn an_upgrade_carries_a_workers_listener() {
    let (server, addr) = example();
    let (stop, asking) = keep_asking(&addr);
    for n in 1..=2 {
        server.signal(Signal::SIGUSR2);
        server.wait_for_take_over(n);
        assert_eq!(server.count(crate::support::TOOK_OVER), n);
    }
    server.wait_until("the old workers have gone", |server| {
        server.worker_pids().len() == 2
    });
    server.signal_to(server.worker_pids()[0], Signal::SIGKILL);
    server.wait_for_line(&format!("worker 7 also listens on {addr}"));
    drop(stop);
    // Killed, it may take one with it.
    let _ = asking.join();
    let mut told: Vec<_> = (0..4)
        .map(|_| crate::support::get(&addr, "/").body)
        .collect();
    told.sort();
    assert!(
        told[0].starts_with("worker 6") && told[3].starts_with("worker 7"),
        "{told:?}"
    );
    assert!(server.stop().success());
    assert!(TcpStream::connect(&addr).is_err(), "nothing is left open");
}

// ===== the fixture =====

type Open = Arc<Mutex<BTreeMap<String, oneshot::Sender<()>>>>;

async fn open(worker: Worker, open: Open, order: Order) -> String {
    let mut listen = cluster::listen(&*order.addr);
    if order.exclusive {
        listen = listen.exclusive();
    }
    if order.reuse_port {
        listen = listen.reuse_port();
    }
    if order.ipv6_only {
        listen = listen.ipv6_only();
    }
    if let Some(backlog) = order.backlog {
        listen = listen.backlog(backlog);
    }
    if let Some(mode) = order.mode {
        listen = listen.mode(mode);
    }
    if let Some(connections) = order.max_connections {
        listen = listen.max_connections(connections);
    }
    if let How::Late = order.how {
        tokio::spawn(async move {
            worker.draining().await;
            say!("late: {:?}", listen.await.map(drop));
        });
        return "later".into();
    }
    if let How::Forget = order.how {
        // Asked by the first poll, and let go.
        let early = listen.into_future().now_or_never();
        return early.map_or("forgotten".into(), |_| "too late".into());
    }
    if let How::Udp = order.how {
        return open_udp(&worker, &open, order).await;
    }
    let second = matches!(order.how, How::Twice).then(|| listen.clone());
    let second = async {
        match second {
            Some(second) => second.await.err(),
            None => None,
        }
    };
    let (first, second) = tokio::join!(listen.into_future(), second);
    let listener = match first {
        Ok(listener) => listener,
        Err(error) => return said(&error),
    };
    let mut addr = listener.local_addr().to_string();
    if let Some(error) = second {
        addr = format!("{addr}, {}", said(&error));
    }
    let (closer, closed) = oneshot::channel::<()>();
    open.lock().unwrap().insert(order.name, closer);
    tokio::spawn(async move {
        let id = worker.id();
        match order.how {
            How::Axum => {
                let app = Router::new().route(
                    "/",
                    get(|ConnectInfo(peer): ConnectInfo<Peer>| async move { peer.to_string() }),
                );
                let app = app.into_make_service_with_connect_info::<Peer>();
                axum::serve(listener, app)
                    .with_graceful_shutdown(worker.draining())
                    .await
                    .unwrap();
            }
            How::Never => drop(closed.await),
            _ => tokio::select! {
                _ = closed => {}
                () = accept(&listener, id.get(), order.how) => {
                    say!("worker {id} accepts no more");
                }
            },
        }
    });
    addr
}

fn said(error: &axum_cluster::Error) -> String {
    match error {
        axum_cluster::Error::Bind { source, .. } => format!("Bind {:?} {source}", source.kind()),
        axum_cluster::Error::Address { source, .. } => format!("Address {source}"),
        error => format!("{error:?}"),
    }
}

/// Sockets that only the primary has, and never closes.
async fn sockets_of_its_own() -> Result<(), axum_cluster::BoxError> {
    use std::os::fd::IntoRawFd as _;
    let (stream, udp) = (TcpListener::bind(ANY)?, std::net::UdpSocket::bind(ANY)?);
    let (at, udp_at) = (stream.local_addr()?, udp.local_addr()?);
    say!("stream fd:{} {at}", stream.into_raw_fd());
    say!("datagrams fd:{} {udp_at}", udp.into_raw_fd());
    Ok(())
}

async fn open_udp(worker: &Worker, open: &Open, order: Order) -> String {
    let socket = match cluster::bind_udp(&*order.addr).await {
        Ok(socket) => socket,
        Err(error) => return format!("{error:?}"),
    };
    let addr = socket.local_addr().unwrap().to_string();
    let (closer, mut closed) = oneshot::channel::<()>();
    open.lock().unwrap().insert(order.name, closer);
    let id = worker.id();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            tokio::select! {
                _ = &mut closed => return,
                received = socket.recv_from(&mut buffer) => {
                    let answer = format!("worker {id}");
                    socket.send_to(answer.as_bytes(), received.unwrap().1).await.unwrap();
                }
            }
        }
    });
    addr
}

async fn accept(listener: &cluster::Listener, id: u64, how: How) {
    while let Some((mut stream, peer)) = listener.accept().await {
        if let How::Keep = how {
            tokio::spawn(async move {
                stream
                    .write_all(format!("worker {id} ").as_bytes())
                    .await
                    .unwrap();
                tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new())
                    .await
                    .unwrap();
                stream.write_all(b" bye").await.unwrap();
            });
        } else {
            // A client that does not wait for it does not matter.
            let _ = stream
                .write_all(format!("worker {id} {peer}").as_bytes())
                .await;
        }
    }
}

fn router(worker: &Worker) -> Router {
    let opened = Open::default();
    let id = worker.id();
    let others = move |wanted: u64| wanted != id.get();
    let conflict = (axum::http::StatusCode::CONFLICT, String::new());
    let not_me = conflict.clone();
    let closing = opened.clone();
    Router::new()
        .route(
            "/{id}/listen",
            post(
                move |Path(wanted): Path<u64>, worker: Worker, body: String| async move {
                    if others(wanted) {
                        return conflict;
                    }
                    let order = serde_json::from_str(&body).unwrap();
                    (
                        axum::http::StatusCode::OK,
                        open(worker, opened, order).await,
                    )
                },
            ),
        )
        .route(
            "/{id}/close/{name}",
            post(
                move |Path((wanted, name)): Path<(u64, String)>| async move {
                    if others(wanted) {
                        return not_me;
                    }
                    let closer = closing.lock().unwrap().remove(&name).unwrap();
                    let _ = closer.send(());
                    // The task that has it drops it when it comes around.
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                    (axum::http::StatusCode::OK, String::new())
                },
            ),
        )
        .route("/", get(move || async move { format!("worker {id}") }))
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn fixture() {
    let Ok(addr) = std::env::var("ADDR") else {
        return;
    };
    tracing_subscriber::fmt().with_ansi(false).init();
    let serve = async {
        ClusteredServer::bind(addr)
            .program(std::env::current_exe().unwrap())
            .drain_deadline(Duration::from_secs(10))
            .prepare(sockets_of_its_own)
            .on_ready(|primary| say!("listening on {}", primary.local_addrs()[0]))
            .on_listening(|worker, addresses| {
                say!("worker {} listens at {}", worker.id(), addresses[0]);
            })
            .serve_with(|worker| async move { Ok(router(&worker)) })
            .await
            .unwrap();
    };
    crate::support::block_on(serve);
}
