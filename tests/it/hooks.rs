//! What hooks do is their own affair: connections do not wait for them. I-6.

use std::time::{Duration, Instant};

use crate::support::{Server, request};

fn notify(server: &Server) {
    assert_eq!(
        request(server.addr(), "POST", "/notify", &[], "")
            .unwrap()
            .status,
        200
    );
}

#[test]
fn a_hook_that_panics_is_logged_and_the_cluster_goes_on() {
    let server = Server::run("playground")
        .workers(2)
        .env("HOOK", "panic")
        .start();
    notify(&server);
    notify(&server);
    let panics = |server: &Server, hook: &str| {
        let output = server.output();
        output
            .lines()
            .filter(|line| line.contains("a hook panicked") && line.contains(hook))
            .count()
    };
    server.wait_until("2 panics of each hook", |server| {
        panics(server, "on_online") == 2 && panics(server, "on_message") == 2
    });
    // It had counted before it panicked; so did the second, after the first had panicked.
    server.wait_for_line("numReqs = 2");
    assert_eq!(server.get("/").body, "hello world");
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn no_connection_waits_for_a_hook_that_sleeps() {
    let server = Server::run("playground")
        .workers(2)
        .env("HOOK", "sleep:3000")
        .start();
    notify(&server);
    server.wait_for_line("a hook sleeps");
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(server.get("/").body, "hello world");
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "waited {:?}",
            asked.elapsed()
        );
    }
    assert!(
        !server.output().contains("a hook woke up"),
        "it was over before the last of them"
    );
}
