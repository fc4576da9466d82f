//! Upgrade in place: another program goes on in the same process (L4, L5, L18; T4).

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, sized},
    support::{Conn, Server, Signal, TempDir, example},
};

const MS: Duration = Duration::from_millis(1);

/// Copies an example to where a deploy would put it, by rename as a deploy has to.
fn deploy(name: &str, change: impl FnOnce(&mut Vec<u8>), to: &str) {
    let mut program = fs::read(example(name)).unwrap();
    change(&mut program);
    let fresh = format!("{to}.fresh");
    fs::write(&fresh, program).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(fresh, to).unwrap();
}

/// The example `rolling_restart`, as if it had been built with another text.
fn build(text: &str, to: &str) {
    let from = b"build one";
    assert_eq!(text.len(), from.len());
    let change = |program: &mut Vec<u8>| {
        let at = program.windows(from.len()).position(|bytes| bytes == from);
        let at = at.expect("the text that the program says");
        program[at..at + from.len()].copy_from_slice(text.as_bytes());
    };
    deploy("rolling_restart", change, to);
}

/// The same program as another file.
fn rebuilt(name: &str, to: &str) {
    deploy(name, |program| program.push(0), to);
}

/// Two workers of this example, from a file of its own that may be replaced; the directory is to be kept until they have ended.
fn deployed(name: &'static str, put: impl FnOnce(&str)) -> (TempDir, String, Server) {
    let directory = TempDir::new();
    let program = directory.path("app");
    put(&program);
    let server = Server::run(name).program(&program).workers(2).start();
    (directory, program, server)
}

fn body(conn: &mut Conn) -> String {
    conn.ask("GET", "/", &[], "").unwrap();
    conn.response().unwrap().body
}

#[test]
fn a_deploy_reaches_workers_and_primary_and_keeps_pid_connections_and_counters() {
    let (_directory, program, server) = deployed("rolling_restart", |to| build("build one", to));
    let addr = server.addr().split(',').next().unwrap().to_owned();
    let mut conn = Conn::open(&addr).unwrap();
    assert!(body(&mut conn).starts_with("build one"));
    for (n, (from, to)) in [("build one", "build two"), ("build two", "build six")]
        .into_iter()
        .enumerate()
    {
        build(to, &program);
        server.signal(Signal::SIGHUP);
        server.wait_for_take_over(n + 1);
        server.wait_for_line(&format!("{to} after {from}, {} requests so far", n + 1));
        assert!(body(&mut conn).starts_with(to), "on the first connection");
        server.wait_until("the old workers have gone", |server| {
            server.worker_pids().len() == 2
        });
    }
    let listening = format!("listening on {addr}, pid {}", server.pid());
    assert_eq!(server.lines(&listening).len(), 3, "{}", server.output());
    // Once a generation, before anything of it serves.
    for name in ["build one", "build two", "build six"] {
        assert_eq!(server.lines(&format!("{name}: prepare")).len(), 1);
    }
    let output = server.output();
    let at = |text: &str| output.find(text).unwrap();
    assert!(at("build two: prepare") < at("executing the new program"));
    // A crash replacement runs the new program too.
    let victim = server.worker_pids()[0];
    server.signal_to(victim, Signal::SIGKILL);
    server.wait_until("it is replaced", |server| {
        let pids = server.worker_pids();
        pids.len() == 2 && !pids.contains(&victim)
    });
    for _ in 0..4 {
        let mut conn = Conn::open(&addr).unwrap();
        assert!(body(&mut conn).starts_with("build six"));
    }
    assert!(server.stop().success());
}

#[test]
fn a_crash_in_the_middle_of_a_deploy_respawns_the_right_generation() {
    let (_directory, program, server) = deployed("rolling_restart", |to| build("build one", to));
    let addr = server.addr().split(',').next().unwrap().to_owned();
    let old = server.worker_pids();
    let every_worker_says = |texts: &[&str]| {
        let mut said = BTreeSet::new();
        for _ in 0..8 {
            let text = body(&mut Conn::open(&addr).unwrap());
            said.insert(text.split(": ").next().unwrap().to_owned());
        }
        said.iter().map(String::as_str).eq(texts.iter().copied())
    };
    build("build two", &program);
    server.signal(Signal::SIGHUP);
    server.wait_until("the canary listens", |server| {
        server.count("worker listening") == 3
    });
    // The canary is on trial; the worker of the other slot dies. The old file is not there any more, only held open.
    server.signal_to(old[1], Signal::SIGKILL);
    server.wait_until("its replacement listens", |server| {
        server.count("worker listening") >= 4
    });
    assert!(server.output().contains("worker listening worker=4 slot=1"));
    assert!(every_worker_says(&["build one", "build two"]));
    server.wait_for_line("worker listening worker=5 slot=1");
    // On trial as well: now a new worker dies, and its place is taken by one of its own kind.
    let new = server.worker_pids();
    let first = new.iter().find(|&&pid| {
        server
            .output()
            .contains(&format!("worker started worker=3 slot=0 pid={pid}"))
    });
    server.signal_to(*first.unwrap(), Signal::SIGKILL);
    server.wait_for_take_over(1);
    server.wait_until("both workers are new", |_| {
        every_worker_says(&["build two"])
    });
    assert_eq!(server.lines("build two: prepare").len(), 1);
    assert_eq!(server.lines("build one: prepare").len(), 1);
}

#[test]
fn upgrades_under_load_lose_nothing_and_leave_nothing() {
    let server = Server::run("playground").workers(2).start();
    let upgrades = sized(20, 4);
    let clients = |mode| Load::new(server.addr()).mode(mode).clients(3).start();
    let moving = [
        clients(Mode::KeepAlive { think: 20 * MS }),
        clients(Mode::Fresh),
    ];
    let mut before = None;
    for n in 1..=upgrades {
        let done: Vec<_> = moving.iter().map(crate::client::Running::done).collect();
        server.wait_until("both kinds are answered", |_| {
            moving
                .iter()
                .zip(&done)
                .all(|(now, was)| now.done() > was + 30)
        });
        let old: BTreeSet<_> = server.worker_pids().into_iter().collect();
        server.signal(Signal::SIGUSR2);
        server.wait_for_take_over(n);
        server.wait_until("the old workers have gone", |server| {
            let now: BTreeSet<_> = server.worker_pids().into_iter().collect();
            now.len() == 2 && now.is_disjoint(&old)
        });
        let now = || (server.fds(), threads(server.pid()), memory(server.pid()));
        let before = *before.get_or_insert_with(now);
        server.wait_until(
            "it has no more descriptors and threads, and hardly more memory",
            |_| {
                let now = now();
                now.0 <= before.0 && now.1 <= before.1 && now.2 <= before.2 + 1024
            },
        );
    }
    let done = moving[0].done();
    server.wait_until("the last generation answers", |_| {
        moving[0].done() > done + 30
    });
    let [kept, new] = moving.map(crate::client::Running::stop);
    kept.must_be_perfect();
    new.must_be_perfect();
    kept.must("each client needed one connection", kept.connections() == 3);
    kept.must(
        "every generation answered",
        kept.generations().len() == upgrades + 1,
    );
}

/// Of its own, in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn no_message_is_lost_and_none_counted_twice_over_upgrades() {
    let server = Server::run("request_count").workers(2).start();
    let running = Load::new(server.addr())
        .mode(Mode::KeepAlive {
            think: Duration::ZERO,
        })
        .clients(4)
        .start();
    let upgrades = sized(10, 3);
    for n in 1..=upgrades {
        let done = running.done();
        server.wait_until("some are answered", |_| running.done() > done + 200);
        server.signal(Signal::SIGUSR2);
        server.wait_for_take_over(n);
    }
    let tally = running.stop();
    tally.must("all were answered", tally.failed() == 0);
    server.signal(Signal::SIGTERM);
    assert!(server.wait_exit().success());
    let expected = format!("final: messages = {0}, scoreboard = {0}", tally.ok());
    assert_eq!(server.lines("final: "), [expected]);
}

type Broken<'a> = Vec<(&'static str, Box<dyn Fn() + 'a>)>;

/// What a program is that does not come up, and how it gets there.
fn broken(path: &str) -> Broken<'_> {
    let put = move |content: Vec<u8>, mode: u32| {
        let fresh = format!("{path}.fresh");
        fs::write(&fresh, content).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(fresh, path).unwrap();
    };
    let elf = || fs::read(example("playground")).unwrap();
    vec![
        (
            "no such file",
            Box::new(move || fs::remove_file(path).unwrap()),
        ),
        (
            "truncated",
            Box::new(move || put(elf()[..4096].to_vec(), 0o755)),
        ),
        ("not permitted", Box::new(move || put(elf(), 0o644))),
        (
            "a script",
            Box::new(move || put(b"#!/bin/sh\nexit 0\n".to_vec(), 0o755)),
        ),
        (
            "another program, which ends at once",
            Box::new(move || put(fs::read("/bin/true").unwrap(), 0o755)),
        ),
    ]
}

#[test]
fn l18_a_program_that_cannot_even_be_started_changes_nothing() {
    let (_directory, program, server) = deployed("playground", |to| rebuilt("playground", to));
    let running = Load::new(server.addr())
        .mode(Mode::KeepAlive { think: 2 * MS })
        .clients(4)
        .start();
    let workers = server.worker_pids();
    for (n, (what, put)) in broken(&program).into_iter().enumerate() {
        put();
        server.signal(if n % 2 == 0 {
            Signal::SIGHUP
        } else {
            Signal::SIGUSR2
        });
        server.wait_until(&format!("abandoned: {what}"), |server| {
            server.count("restart abandoned") > n
        });
        server.wait_until("only the old workers are there", |server| {
            server.worker_pids() == workers
        });
    }
    // What is mended comes up, and the primary follows.
    rebuilt("playground", &program);
    server.signal(Signal::SIGHUP);
    server.wait_for_take_over(1);
    let tally = running.stop();
    tally.must_be_perfect();
    tally.must(
        "each client needed one connection",
        tally.connections() == 4,
    );
}

/// What an execution that fails must leave as it was.
fn surroundings(pid: u32) -> [String; 4] {
    let link = |name: &str| {
        let link = fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap().to_owned()
    };
    [link("fd/0"), link("cwd"), line("SigIgn"), line("SigBlk")]
}

#[test]
fn an_execution_that_fails_leaves_the_old_primary_as_it_was() {
    let directory = TempDir::new();
    let (program, stdin) = (directory.path("app"), directory.path("stdin"));
    fs::write(&stdin, "x").unwrap();
    rebuilt("playground", &program);
    let server = Server::run("playground")
        .program(&program)
        .stdin(fs::File::open(&stdin).unwrap())
        .workers(1)
        .start();
    let mut conn = Conn::open(server.addr()).unwrap();
    body(&mut conn);
    let (before, fds) = (surroundings(server.pid()), server.fds());
    deploy("playground", |program| program.extend([0; 2]), &program);
    server.signal(Signal::SIGHUP);
    server.wait_until("the new worker is there", |server| {
        server.count("worker listening") == 2
    });
    // The new worker is on trial still: what it runs can be executed no more when its turn comes.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    server.wait_for_line("upgrade given up, this program goes on");
    server.wait_until("the old worker has gone", |server| {
        server.worker_pids().len() == 1
    });
    assert_eq!(surroundings(server.pid()), before);
    // The program that workers run is another one now, and is held open too.
    server.wait_until("nothing else is open", |server| server.fds() <= fds + 1);
    body(&mut conn);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_take_over(1);
    body(&mut conn);
    assert_eq!(
        surroundings(server.pid())[0],
        stdin,
        "standard input is what it was"
    );
}

#[test]
fn a_canary_killed_at_any_point_changes_nothing() {
    let (_directory, program, server) = deployed("playground", |to| rebuilt("playground", to));
    let running = Load::new(server.addr())
        .mode(Mode::KeepAlive { think: MS })
        .clients(4)
        .start();
    let workers: BTreeSet<_> = server.worker_pids().into_iter().collect();
    deploy("playground", |program| program.extend([0; 2]), &program);
    for n in 0..sized(20, 5) {
        server.signal(Signal::SIGHUP);
        let mut canary = None;
        server.wait_until("a canary is there", |server| {
            canary = server
                .worker_pids()
                .into_iter()
                .find(|pid| !workers.contains(pid));
            canary.is_some()
        });
        // From before its hello to well after it listens.
        std::thread::sleep(Duration::from_micros(n * n * 2_000));
        server.signal_to(canary.unwrap(), Signal::SIGKILL);
        server.wait_until("the restart is abandoned", |server| {
            server.count("restart abandoned") == usize::try_from(n).unwrap() + 1
        });
        let now: BTreeSet<_> = server.worker_pids().into_iter().collect();
        assert_eq!(now, workers, "{}", server.output());
    }
    let tally = running.stop();
    tally.must(
        "all failures are the canary's own connections",
        tally.failed() <= sized(20, 5),
    );
}

#[test]
fn addresses_may_come_and_go_with_an_upgrade() {
    let directory = TempDir::new();
    let (program, addresses) = (directory.path("app"), directory.path("addresses"));
    let (unix, other) = (directory.path("kept.sock"), directory.path("new.sock"));
    fs::write(&addresses, format!("unix:{unix},127.0.0.1:0")).unwrap();
    rebuilt("playground", &program);
    let server = Server::run("playground")
        .program(&program)
        .env("ADDR", format!("file:{addresses}"))
        .workers(2)
        .start();
    let line = server.lines("listening on ").remove(0);
    let tcp = line.rsplit(", ").next().unwrap().to_owned();
    let kept = format!("unix:{unix}");
    let think = Mode::KeepAlive { think: 2 * MS };
    let running = [kept.as_str(), tcp.as_str()]
        .map(|target| Load::new(target).mode(think).clients(4).start());
    let more = Load::new(kept.as_str()).clients(2).start();
    // One more.
    fs::write(&addresses, format!("unix:{unix},127.0.0.1:0,unix:{other}")).unwrap();
    server.signal(Signal::SIGUSR2);
    server.wait_for_take_over(1);
    server.wait_until("it answers there", |_| {
        Conn::open(&format!("unix:{other}")).is_ok_and(|mut conn| body(&mut conn) == "hello world")
    });
    // One fewer; its connections are served on.
    fs::write(&addresses, format!("unix:{unix},unix:{other}")).unwrap();
    server.signal(Signal::SIGUSR2);
    server.wait_for_take_over(2);
    server.wait_until("nobody listens there", |_| Conn::open(&tcp).is_err());
    let done: Vec<_> = running.iter().map(crate::client::Running::done).collect();
    server.wait_until("all are answered on", |_| {
        running
            .iter()
            .zip(&done)
            .all(|(now, was)| now.done() > was + 20)
    });
    for tally in running.map(crate::client::Running::stop) {
        tally.must_be_perfect();
        tally.must(
            "each client needed one connection",
            tally.connections() == 4,
        );
    }
    more.stop().must_be_perfect();
    // One that cannot be had: nothing changes.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    fs::write(
        &addresses,
        format!("unix:{unix},{}", taken.local_addr().unwrap()),
    )
    .unwrap();
    server.signal(Signal::SIGUSR2);
    server.wait_for_line("restart abandoned");
    assert!(
        server.output().contains("another program listens there"),
        "{}",
        server.output()
    );
    assert!(Conn::open(&format!("unix:{other}")).is_ok());
    assert!(server.stop().success());
    assert!(!Path::new(&unix).exists() && !Path::new(&other).exists());
}

#[test]
fn a_term_aimed_at_the_execution_ends_the_cluster_and_is_never_lost() {
    for n in 0..sized(100, 6) {
        let server = Server::run("rolling_restart").workers(1).start();
        server.signal(Signal::SIGUSR2);
        if n % 3 == 0 {
            server.wait_for_line("restarted");
        } else {
            server.wait_for_line("worker started");
            let aim = Instant::now() + Duration::from_micros(n * 1_003 % 20_000);
            while Instant::now() < aim {
                std::hint::spin_loop();
            }
        }
        // Lost, it would leave the server running; too early for a handler, it would end it by the signal.
        let status = server.stop();
        assert_eq!(status.code(), Some(0), "{status} in round {n}");
    }
}

#[test]
fn a_storm_of_orders_ends_in_a_cluster_that_serves() {
    let server = Server::run("playground").workers(2).start();
    let running = Load::new(server.addr())
        .mode(Mode::KeepAlive { think: MS })
        .clients(4)
        .start();
    for n in 0..sized(400, 60) {
        server.signal([Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGUSR1][n % 3]);
        std::thread::sleep(3 * MS);
    }
    let done = running.done();
    server.wait_until("it serves", |_| running.done() > done + 100);
    let tally = running.stop();
    tally.must_be_perfect();
    tally.must(
        "each client needed one connection",
        tally.connections() == 4,
    );
}
