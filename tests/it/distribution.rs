//! Strict rotation: who answers is no matter of chance.

use crate::{
    client::{Load, Mode, Running, Tally},
    support::Server,
};

fn each_of_four_gets_100(server: &Server) {
    let tally = Load::new(server.addr()).count(400).run();
    tally.must_be_perfect();
    tally.must(
        "each worker has 100",
        tally.by_worker().values().eq(&[100; 4]),
    );
}

//
#[test]
fn four_hundred_connections_are_a_hundred_for_each_of_four_workers() {
    let server = Server::run("playground").workers(4).start();
    each_of_four_gets_100(&server);
}

//
// Under load windows fill and workers are skipped, so it is only nearly equal.
#[test]
fn sixteen_clients_at_once_are_spread_evenly() {
    let server = Server::run("playground").workers(4).start();
    let tally = Load::new(server.addr()).clients(16).count(4000).run();
    tally.must_be_perfect();
    tally.must(
        "each worker has about 1000",
        tally
            .by_worker()
            .values()
            .all(|answers| (900..=1100).contains(answers)),
    );
}

#[test]
fn a_unix_socket_rotates_as_well() {
    let directory = crate::support::TempDir::new();
    let server = Server::run("playground")
        .workers(4)
        .env("ADDR", format!("unix:{}", directory.path("s")))
        .start();
    each_of_four_gets_100(&server);
}

// All requests of a connection are one worker's: its rotation turns once a connection.
#[test]
fn every_way_to_ask_is_answered() {
    let server = Server::run("playground").workers(2).start();
    let think = std::time::Duration::from_millis(3);
    let loads = [
        Load::new(server.addr()).mode(Mode::KeepAlive { think }),
        Load::new(server.addr()).mode(Mode::Pipelined { depth: 8 }),
        Load::new(server.addr()).echo(64 * 1024, 1, std::time::Duration::ZERO),
        Load::new(server.addr())
            .mode(Mode::KeepAlive { think })
            .echo(10_000, 5, think),
    ];
    let running: Vec<_> = loads
        .into_iter()
        .map(|load| load.clients(4).count(200).start())
        .collect();
    // Together: the rotation turns over the connections of all four, so one of them alone may meet one worker only.
    let tally = running.into_iter().map(Running::wait).reduce(Tally::and);
    let tally = tally.expect("four loads");
    tally.must_be_perfect();
    tally.must("both workers answered", tally.by_worker().len() == 2);
}
