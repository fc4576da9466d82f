//! The quick start, as the README has it.

use std::collections::BTreeSet;

use crate::support::Server;

// C-6: the workers are processes, started from the program itself.
#[test]
fn hello_answers_from_real_workers() {
    let server = Server::run("hello").workers(2).start();
    for _ in 0..4 {
        let answer = server.get("/");
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello world"));
    }
    // DESIGN 3: executed through a descriptor a process is called by its number; ours have names, each as it
    // starts: the first may have answered everything before the second has its own.
    server.wait_until("both workers by name", |server| {
        let names = server.children().into_iter().map(|child| child.name);
        BTreeSet::from_iter(names) == BTreeSet::from(["hello:0", "hello:1"].map(String::from))
    });
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn hello_has_the_four_workers_that_it_asks_for() {
    let server = Server::run("hello").start();
    server.wait_until("4 workers", |server| server.worker_pids().len() == 4);
}

#[test]
fn there_are_as_many_workers_as_cores_by_default() {
    let server = Server::run("playground").start();
    assert_eq!(
        server.worker_pids().len(),
        std::thread::available_parallelism().unwrap().get()
    );
}

// W-10, K-23: ids count up and are unique, slots are the places.
#[test]
fn every_answer_tells_who_gave_it() {
    let server = Server::run("playground").workers(2).start();
    let answers: Vec<_> = (0..4).map(|_| server.get("/")).collect();
    let pids: BTreeSet<_> = answers.iter().map(|answer| answer.pid()).collect();
    assert_eq!(pids, server.worker_pids().into_iter().collect());
    let workers: BTreeSet<_> = answers.iter().map(|answer| answer.worker()).collect();
    assert_eq!(workers, BTreeSet::from([1, 2]), "ids count up from 1");
    for answer in &answers {
        let slot: u32 = answer.header("x-slot").unwrap().parse().unwrap();
        assert_eq!(slot + 1, answer.worker(), "slots count up from 0");
        assert_eq!(
            answer.header("x-generation"),
            answers[0].header("x-generation")
        );
    }
}

// L-22: what is printed is the real address.
#[test]
fn one_server_listens_on_several_addresses() {
    let server = Server::run("playground")
        .workers(1)
        .env("ADDR", "127.0.0.1:0,localhost:0")
        .start();
    let line = server.lines("listening on ").remove(0);
    let addrs: Vec<_> = line["listening on ".len()..].split(", ").collect();
    assert_eq!(addrs.len(), 2);
    for addr in addrs {
        assert_eq!(crate::support::get(addr, "/").body, "hello world", "{addr}");
    }
}
