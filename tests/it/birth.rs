//! What a process is: a worker never becomes a primary, and nobody else becomes a worker. N-1.

use std::{fs, thread};

use crate::support::{Conn, Server, Signal, TempDir, procfs};

// K-18. Rounds differ in when the primary dies: before a worker is executed, before it has said hello, before it serves.
#[test]
fn a_primary_killed_while_its_workers_boot_leaves_nothing() {
    for round in 0..10 {
        let server = Server::run("playground")
            .workers(4)
            .env("BOOT", "slow:100")
            .start_only();
        server.wait_until("the first workers", |server| {
            server.output().matches("worker started").count() > round % 4
        });
        thread::sleep(std::time::Duration::from_millis(round as u64 / 3 * 4));
        server.signal(Signal::SIGKILL);
        server.wait_exit();
        server.wait_until("the end of every process of the tree", |server| {
            server.left().iter().all(procfs::Process::is_zombie)
        });
        // Each primary counts its workers from 1.
        let firsts = server.output().matches("worker started worker=1 ").count();
        assert_eq!(firsts, 1, "one became a primary: {}", server.output());
    }
}

#[test]
fn a_worker_whose_primary_is_gone_before_its_first_word_says_so() {
    let server = Server::run("playground")
        .workers(2)
        .env("BOOT", "late:1000")
        .start_only();
    server.wait_until("2 workers", |server| {
        server.output().matches("worker started").count() == 2
    });
    server.wait_until("their execution", |server| {
        server
            .children()
            .iter()
            .filter(|child| child.name.parse::<u32>().is_ok())
            .count()
            == 2
    });
    server.signal(Signal::SIGKILL);
    server.wait_exit();
    server.wait_until("2 errors", |server| {
        server
            .output()
            .matches("a worker never becomes a primary")
            .count()
            == 2
    });
    assert!(!server.output().contains("listening on"));
}

//
// T8, N-10: Node drops what is in flight.
#[test]
fn workers_whose_primary_is_killed_finish_and_end() {
    let server = Server::run("playground").workers(2).start();
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/slow?ms=700", &[], "").unwrap();
    (0..2).for_each(|_| drop(server.get("/")));
    server.signal(Signal::SIGKILL);
    assert_eq!(conn.response().unwrap().body, "after 700 ms");
    server.wait_until("the end of both workers", |server| {
        server.left().iter().all(procfs::Process::is_zombie)
    });
}

// N-1.
// A program that never serves is no part of any cluster, whatever it asks the crate.
#[test]
fn a_program_that_only_asks_what_it_is_is_a_primary_to_be() {
    let (status, output) = Server::run("playground")
        .arg("label")
        .start_expecting_exit();
    assert_eq!(
        (status.code(), output.as_str()),
        (Some(0), "in a cluster I am: primary\n")
    );
}

// N-2: a grandchild that inherited the variable is rightly a plain program.
#[test]
fn a_grandchild_that_inherited_the_variable_is_plain() {
    let server = Server::run("playground")
        .workers(1)
        .env("CHILD", "label")
        .start();
    assert_eq!(
        server.lines("child of primary"),
        ["child of primary: exit:0 in a cluster I am: primary"]
    );
    assert_eq!(
        server.lines("child of worker 0"),
        ["child of worker 0: exit:0 in a cluster I am: primary"]
    );
}

// N-5, T21.
#[test]
fn a_child_spawned_above_serve_inherits_no_channel() {
    let dir = TempDir::new();
    let input = dir.path("input");
    fs::write(&input, "for the primary").unwrap();
    let run = Server::run("playground").workers(2).env("CHILD", "cat");
    let server = run.stdin(fs::File::open(input).unwrap()).start();
    // The primary's standard input stays its own; a worker's is empty.
    assert_eq!(
        server.lines("child of primary"),
        ["child of primary: exit:0 for the primary"]
    );
    assert_eq!(
        server.lines("child of worker 0"),
        ["child of worker 0: exit:0 "]
    );
    assert_eq!(
        server.lines("child of worker 1"),
        ["child of worker 1: exit:0 "]
    );
    assert_eq!(server.get("/").body, "hello world");
}

// Read too early, a worker's standard input fails, and does not hang; the worker itself is none the worse for it.
#[test]
fn a_child_spawned_before_the_first_call_does_not_hang() {
    let server = Server::run("playground")
        .workers(2)
        .env("CHILD", "early")
        .start();
    let children = server.lines("child of somebody");
    assert_eq!(children.len(), 3, "{children:?}");
    assert_eq!(
        children
            .iter()
            .filter(|child| child.contains("exit:0"))
            .count(),
        1,
        "the primary's: {children:?}"
    );
    assert_eq!(server.get("/").body, "hello world");
}

// N-11.
#[test]
fn ctrl_c_reaches_the_primary_alone() {
    let server = Server::run("playground").workers(2).own_group().start();
    for worker in server.children() {
        assert_eq!(worker.group, worker.pid, "a group of its own");
    }
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/slow?ms=500", &[], "").unwrap();
    (0..2).for_each(|_| drop(server.get("/")));
    server.signal_group(Signal::SIGINT);
    assert_eq!(conn.response().unwrap().body, "after 500 ms");
    assert_eq!(server.wait_exit().code(), Some(0));
    let exits = server.lines("exit ");
    assert!(
        exits.len() == 2 && exits.iter().all(|exit| exit.contains("status=exit:0")),
        "{exits:?}"
    );
}

#[test]
fn a_hup_ignored_at_the_start_stays_ignored() {
    let server = Server::run("playground")
        .workers(2)
        .through("nohup")
        .start();
    let before = server.worker_pids();
    server.signal(Signal::SIGHUP);
    server.signal(Signal::SIGUSR1);
    // The second signal was answered, so the first one would have been.
    server.wait_for_line("order=Reopen");
    assert!(!server.output().contains("order=Restart"));
    assert_eq!(server.worker_pids(), before);
    assert_eq!(server.get("/").body, "hello world");
}
