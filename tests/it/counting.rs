//! Counting: what the primary says, by messages and from the scoreboard, against what an outside client has seen.

use std::time::Duration;

use crate::{
    client::{Load, Mode, sized},
    support::{Server, Signal},
};

/// The numbers of the line that `request_count` prints last.
fn finally(server: &Server) -> (u64, u64) {
    let line = server
        .lines("final: ")
        .pop()
        .unwrap_or_else(|| panic!("no last line in\n{}", server.output()));
    let mut numbers = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn load(server: &Server) -> Load {
    Load::new(server.addr())
        .clients(16)
        .mode(Mode::Pipelined { depth: 8 })
        .time(Duration::from_secs(600))
}

#[test]
fn messages_and_scoreboard_count_what_the_client_counted() {
    let server = Server::run("request_count").workers(4).start();
    let requests = sized(1_000_000, 50_000);
    let tally = load(&server).count(requests).run();
    tally.must_be_perfect();
    server.signal(Signal::SIGTERM);
    assert!(server.wait_exit().success());
    let (messages, scoreboard) = finally(&server);
    eprintln!("{tally}  beside {messages} by messages, {scoreboard} on the scoreboard");
    assert_eq!(
        (tally.ok(), messages, scoreboard),
        (requests, requests, requests),
        "{tally}"
    );
}

#[test]
fn after_kills_the_scoreboard_is_between_answers_and_requests() {
    let server = Server::run("request_count").workers(4).start();
    let running = load(&server).start();
    for round in 0..sized(20, 4) {
        let goal = running.done() + 1000;
        server.wait_until("a thousand more requests", |_| running.done() >= goal);
        let workers = server.worker_pids();
        server.signal_to(workers[round % workers.len()], Signal::SIGKILL);
    }
    let tally = running.stop();
    server.signal(Signal::SIGTERM);
    assert!(server.wait_exit().success());
    let (messages, scoreboard) = finally(&server);
    eprintln!("{tally}  beside {messages} by messages, {scoreboard} on the scoreboard");
    // Every answer but a killed worker's last ones; pipelined requests behind one that was cut were sent as well.
    let sent = tally.sent() + 7 * (tally.failed());
    assert!(
        tally.ok() <= scoreboard && scoreboard <= sent,
        "{scoreboard}:\n{tally}"
    );
    assert!(
        messages <= scoreboard,
        "{messages} messages, but {scoreboard}"
    );
}
