//! What was found by trying to break upgrades in place.

use std::fs;

use crate::support::{Conn, Server, Signal, TOOK_OVER, TempDir, example};

/// What the hook `on_upgrade` says when it is called, and when it is done.
const HOOK_SLEEPS: &str = "a hook sleeps";
const HOOK_WAKES: &str = "a hook woke up";

fn ask(server: &Server) {
    assert_eq!(server.get("/").body, "hello world");
}

#[test]
fn restarts_while_an_upgrade_is_due_leave_it_due_and_the_cluster_serving() {
    let server = Server::run("playground")
        .workers(2)
        .env("UPGRADE_MS", 100)
        .start();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line(HOOK_SLEEPS);
    // What was due is a generation that has no workers any more when the second restart is done.
    for n in 2..8 {
        server.signal(Signal::SIGHUP);
        server.wait_until("a restart more", |server| {
            server.count("order=Restart") >= n - 1
        });
    }
    server.wait_for_line(TOOK_OVER);
    ask(&server);
    assert_eq!(server.count(TOOK_OVER), 1);
}

#[test]
fn a_program_that_was_taken_back_is_not_executed() {
    let directory = TempDir::new();
    let [program, saved, fresh] = ["app", "saved", "fresh"].map(|name| directory.path(name));
    fs::copy(example("playground"), &program).unwrap();
    fs::hard_link(&program, &saved).unwrap();
    let server = Server::run("playground")
        .program(&program)
        .workers(1)
        .env("UPGRADE_MS", 100)
        .start();
    fs::copy(&program, &fresh).unwrap();
    fs::rename(&fresh, &program).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_line(HOOK_SLEEPS);
    fs::rename(&saved, &program).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_until("both restarts are done", |server| {
        server.count(": restarted generation") == 2 && server.worker_pids().len() == 1
    });
    // Another one comes behind anything that was due.
    server.signal(Signal::SIGHUP);
    server.wait_until("one more", |server| {
        server.count(": restarted generation") == 3
    });
    ask(&server);
    assert_eq!(server.count(TOOK_OVER), 0, "{}", server.output());
}

#[test]
fn a_slow_hook_keeps_no_client_waiting_at_an_upgrade() {
    let server = Server::run("playground")
        .workers(2)
        .env("UPGRADE_MS", 1_000)
        .start();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line(HOOK_SLEEPS);
    for _ in 0..20 {
        ask(&server);
    }
    // A worker that stands still keeps nobody waiting either.
    let stopped = server.worker_pids()[0];
    server.signal_to(stopped, Signal::SIGSTOP);
    for _ in 0..6 {
        ask(&server);
    }
    assert_eq!(
        server.count(HOOK_WAKES),
        0,
        "answered before the hook was done"
    );
    server.signal_to(stopped, Signal::SIGCONT);
    server.wait_for_line(TOOK_OVER);
    ask(&server);
}

#[test]
fn a_cluster_with_workers_that_are_recycled_all_the_time_is_upgraded() {
    let server = Server::run("playground")
        .workers(2)
        .env("MAX_REQUESTS", 20)
        .start();
    let load = crate::client::Load::new(server.addr()).clients(4).start();
    server.wait_until("recycling", |server| server.count("is recycled") > 4);
    for n in 1..=2 {
        server.signal(Signal::SIGUSR2);
        server.wait_until("it is followed", |server| server.count(TOOK_OVER) == n);
    }
    load.stop().must_be_perfect();
}

#[test]
fn an_upgrade_starts_where_the_program_was_started() {
    let directory = TempDir::new();
    fs::write(directory.path("addresses"), "127.0.0.1:0").unwrap();
    let server = Server::run("playground")
        .through("env")
        .through("-C")
        .through(&directory.path(""))
        .env("ADDR", "file:addresses")
        .env("CHDIR", "/")
        .workers(1)
        .start();
    let cwd = || fs::read_link(format!("/proc/{}/cwd", server.pid())).unwrap();
    server.wait_until("it went elsewhere", |_| cwd().as_os_str() == "/");
    for n in 1..=2 {
        server.signal(Signal::SIGUSR2);
        server.wait_until("it found its file", |server| server.count(TOOK_OVER) == n);
        ask(&server);
    }
}

#[test]
fn an_address_of_a_program_that_is_not_executed_is_let_go() {
    let directory = TempDir::new();
    let (addresses, other) = (directory.path("addresses"), directory.path("new.sock"));
    fs::write(&addresses, "127.0.0.1:0").unwrap();
    // Longer than hooks are waited for.
    let server = Server::run("playground")
        .env("ADDR", format!("file:{addresses}"))
        .env("UPGRADE_MS", 5_500)
        .workers(1)
        .start();
    fs::write(&addresses, format!("127.0.0.1:0,unix:{other}")).unwrap();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line("upgrade given up");
    server.wait_until("nobody listens there", |_| {
        Conn::open(&format!("unix:{other}")).is_err()
    });
    ask(&server);
    server.wait_for_line(HOOK_WAKES);
}
