//! What cannot work is one clear error within a second, and no worker is started. T20, L-5.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    time::{Duration, Instant},
};

use std::future::IntoFuture as _;

use axum::Router;
use axum_cluster::{ClusteredServer, Error};
use tokio::sync::oneshot;

use crate::support::{Run, Server, TempDir, get, procfs};

/// Nobody's uid on most systems.
const NOBODY: u32 = 65_534;

/// A server that cannot start: within a second, with an exit code, without a worker. With what it said.
fn refused(run: Run) -> String {
    let begun = Instant::now();
    let (status, output) = run.start_expecting_exit();
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(!output.contains("worker started"), "{output}");
    assert!(!output.contains("panicked"), "{output}");
    assert!(took < Duration::from_secs(1), "took {took:?}: {output}");
    output
}

fn refused_at(addr: &str) -> String {
    let output = refused(Server::run("playground").workers(2).env("ADDR", addr));
    assert!(
        output.contains(addr.trim_start_matches("unix:")),
        "does not name {addr}: {output}"
    );
    output
}

#[test]
fn an_address_in_use() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = refused_at(&holder.local_addr().unwrap().to_string());
    assert!(output.contains("another program listens there"), "{output}");
}

#[test]
fn one_of_two_addresses_in_use() {
    let dir = TempDir::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let first = dir.path("first");
    let output = refused(
        Server::run("playground")
            .workers(2)
            .env("ADDR", format!("unix:{first},{taken}")),
    );
    assert!(output.contains(&taken), "{output}");
    assert!(
        !fs::exists(first).unwrap(),
        "the socket file of the first address is left"
    );
}

#[test]
fn an_address_of_another_machine() {
    refused_at("192.0.2.1:8000");
}

#[test]
fn an_unknown_host() {
    let output = refused_at("no-such-host.invalid:8000");
    assert!(
        output.contains("a host name without an address"),
        "{output}"
    );
}

#[test]
fn no_address_at_all() {
    for addr in ["nonsense", "127.0.0.1:99999", ":8000x"] {
        let output = refused_at(addr);
        assert!(
            output.contains("is no address to listen on"),
            "{addr}: {output}"
        );
    }
}

#[test]
fn a_port_without_the_privilege() {
    let lowest: u16 = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if lowest <= 81 {
        eprintln!("every user may listen on port 81 here: not shown");
        return;
    }
    let output = refused(
        Server::run("playground")
            .workers(2)
            .user(NOBODY)
            .env("ADDR", "127.0.0.1:81"),
    );
    assert!(output.contains("127.0.0.1:81: not permitted"), "{output}");
}

#[test]
fn a_unix_path_without_the_permission() {
    let dir = TempDir::new();
    let closed = dir.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let path = format!("{closed}/socket");
    let output = refused(
        Server::run("playground")
            .workers(2)
            .user(NOBODY)
            .env("ADDR", format!("unix:{path}")),
    );
    assert!(
        output.contains(&path) && output.contains("not permitted"),
        "{output}"
    );
}

#[test]
fn a_unix_path_in_no_directory() {
    let dir = TempDir::new();
    refused_at(&format!("unix:{}", dir.path("missing/socket")));
}

#[test]
fn a_unix_path_that_is_too_long() {
    let dir = TempDir::new();
    refused_at(&format!("unix:{}", dir.path(&"x".repeat(120))));
}

#[test]
fn a_live_unix_socket_is_left_alone() {
    let dir = TempDir::new();
    let path = dir.path("live");
    let owner = Server::run("playground")
        .workers(1)
        .env("ADDR", format!("unix:{path}"))
        .start();
    refused_at(owner.addr());
    assert_eq!(
        owner.get("/").body,
        "hello world",
        "still there, still answering"
    );
}

#[test]
fn a_regular_file_is_left_alone() {
    let dir = TempDir::new();
    let path = dir.path("file");
    fs::write(&path, "precious").unwrap();
    refused_at(&format!("unix:{path}"));
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
}

#[test]
fn a_stale_unix_socket_is_replaced() {
    let dir = TempDir::new();
    let path = dir.path("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert!(fs::exists(&path).unwrap());
    let server = Server::run("playground")
        .workers(1)
        .env("ADDR", format!("unix:{path}"))
        .start();
    assert_eq!(server.get("/").body, "hello world");
    assert_eq!(server.stop().code(), Some(0));
    assert!(!fs::exists(&path).unwrap());
}

// N-7, K-22: an unknown value is never ignored.
#[test]
fn variables_that_mean_nothing() {
    let bad = [
        ("AXUM_CLUSTER_WORKERS", "many"),
        ("AXUM_CLUSTER_WORKERS", "-1"),
        ("AXUM_CLUSTER_WORKERS", "99999"),
        ("AXUM_CLUSTER_WORKERS", ""),
        ("AXUM_CLUSTER_SCHEDULING", "rr"),
        ("AXUM_CLUSTER_SCHEDULING", ""),
    ];
    for (name, value) in bad {
        let output = refused(Server::run("playground").env(name, value));
        assert!(
            output.contains(&format!("{name} is `{value}`; expected")),
            "{output}"
        );
    }
}

#[test]
fn parts_that_are_not_built_yet_are_refused() {
    for name in ["CONTROL", "ADMIN", "TLS_CERT", "TLS_KEY"] {
        let output = refused(Server::run("playground").env(name, "/tmp/x"));
        assert!(output.contains(name), "{output}");
    }
}

// N-4: only a process with the primary's socket on descriptor 0 takes the variable seriously.
#[test]
fn the_workers_variable_set_by_hand_makes_no_worker() {
    let run = Server::run("playground")
        .workers(2)
        .env("AXUM_CLUSTER_WORKER", "1.0")
        .env("RUST_LOG", "axum_cluster=debug");
    let server = run.start();
    assert_eq!(server.get("/").body, "hello world");
    assert_eq!(server.worker_pids().len(), 2);
    let said = server
        .output()
        .lines()
        .filter(|line| line.contains("DEBUG") && line.contains("AXUM_CLUSTER_WORKER is set"))
        .count();
    assert_eq!(said, 1, "said once, at debug level: {}", server.output());
}

/// Everything about `serve` in this very process, which is a test binary. One after the other: one process has one cluster.
#[test]
fn calls_that_cannot_work_are_errors_of_their_own() {
    let server = || ClusteredServer::bind("127.0.0.1:0");
    crate::support::block_on(async {
        // Each worker would run every test again, and fork.
        let error = server().workers(2).serve(Router::new()).await.unwrap_err();
        assert!(matches!(error, Error::TestBinary { .. }), "{error:?}");
        let error = server().workers(2).start().await.unwrap_err();
        assert!(matches!(error, Error::TestBinary { .. }), "{error:?}");

        let error = server().workers(0).serve(Router::new()).run().unwrap_err();
        assert!(matches!(error, Error::InsideRuntime), "{error:?}");

        let error = ClusteredServer::bind("127.0.0.1:x")
            .workers(0)
            .serve(Router::new())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = ClusteredServer::bind(holder.local_addr().unwrap())
            .workers(0)
            .serve(Router::new())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Bind { .. }), "{error:?}");
        let prepared = server()
            .workers(0)
            .prepare(|| async { Err("no database".into()) });
        let error = prepared.serve(Router::new()).await.unwrap_err();
        assert!(matches!(error, Error::Prepare(_)), "{error:?}");
        assert!(format!("{error:?}").contains("no database"), "{error:?}");
        let error = server()
            .program("/no/such/program")
            .serve(Router::new())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Program { .. }), "{error:?}");

        // None of these took the process's one cluster.
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, listening) = oneshot::channel();
        let first = server()
            .workers(0)
            .on_ready(|primary| ready.send(primary.local_addrs()[0].to_string()).unwrap());
        let first = tokio::spawn(
            first
                .serve(Router::new())
                .with_graceful_shutdown(async { drop(stopped.await) })
                .into_future(),
        );
        let addr = listening.await.unwrap();
        let error = server().workers(2).serve(Router::new()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyStarted), "{error:?}");
        let error = server().workers(0).start().await.unwrap_err();
        assert!(matches!(error, Error::AlreadyStarted), "{error:?}");
        let answer = tokio::task::spawn_blocking(move || get(&addr, "/"))
            .await
            .unwrap();
        assert_eq!(answer.status, 404, "the first goes on");
        stop.send(()).unwrap();
        first.await.unwrap().unwrap();
    });
    let own = procfs::children(std::process::id())
        .into_iter()
        .filter(|child| child.name.starts_with("it:"));
    assert_eq!(own.count(), 0, "a worker of this test binary was started");
}
