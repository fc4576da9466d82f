//! A restart finds the program broken: it is given up, the old workers stay, no request fails, and the error says where and why (L5, L18).

use std::{collections::BTreeMap, fs};

use crate::{
    client::{Load, Mode, sized},
    support::{Run, Server, Signal, TempDir, example},
};

const WORKERS: usize = 4;

/// Clients that connect anew for each request.
const FRESH: u64 = 2;

/// The pid of each slot's newest worker that has come to listen.
fn by_slot(server: &Server) -> BTreeMap<usize, u32> {
    let output = server.output();
    let listening = output
        .lines()
        .filter(|line| line.contains("worker listening"));
    let number = |line: &str, name: &str| -> u32 {
        let value = line.split(' ').find_map(|word| word.strip_prefix(name));
        value.unwrap().parse().unwrap()
    };
    listening
        .map(|line| (number(line, "slot=") as usize, number(line, "pid=")))
        .collect()
}

/// A server under load, and a file that breaks its next workers.
struct Deploy {
    directory: TempDir,
    server: Server,
    before: BTreeMap<usize, u32>,
    /// What is broken listens before it dies, and is given connections meanwhile.
    dies_serving: bool,
}

impl Deploy {
    fn new(run: impl FnOnce(Run, &TempDir) -> Run) -> Self {
        let directory = TempDir::new();
        let run_with = Server::run("playground")
            .workers(WORKERS as u32)
            .env("BREAK_FILE", directory.path("break"))
            .env("BOOT_MS", 1_500);
        let server = run(run_with, &directory).start();
        server.wait_until("all workers", |server| by_slot(server).len() == WORKERS);
        let before = by_slot(&server);
        Self {
            directory,
            server,
            before,
            dies_serving: false,
        }
    }

    fn breaks(&self, how: &str, slot: usize) {
        fs::write(self.directory.path("break"), format!("{how} {slot}")).unwrap();
    }

    /// Restarts under load, and sees the restart given up in this slot; `died` is what the log says of the worker. Returns the error.
    fn must_be_given_up(&self, slot: usize, died: &str) -> String {
        let server = &self.server;
        let keep = Mode::KeepAlive {
            think: std::time::Duration::from_millis(2),
        };
        let kept = Load::new(server.addr()).clients(6).mode(keep).start();
        let fresh = Load::new(server.addr()).clients(FRESH as usize).start();
        server.wait_until("answers", |_| kept.done() > 50 && fresh.done() > 50);
        server.signal(Signal::SIGHUP);
        server.wait_until("the error", |server| !server.lines("error: ").is_empty());
        let done = (kept.done(), fresh.done());
        server.wait_until("answers after it", |_| {
            kept.done() > done.0 + 200 && fresh.done() > done.1 + 200
        });
        kept.stop().must_be_perfect();
        let fresh = fresh.stop();
        // One that dies while it serves takes with it what it is answering: of each new client's requests one at the most.
        let most = if self.dies_serving { FRESH } else { 0 };
        fresh.must("no other request failed", fresh.failed() <= most);

        let mut errors = server.lines("error: ");
        assert_eq!(errors.len(), 1, "{errors:?}");
        for part in ["the old workers stay", &format!("slot {slot} ")] {
            assert!(errors[0].contains(part), "no {part:?} in {:?}", errors[0]);
        }
        let logged = |server: &Server, words: [&str; 2]| {
            let output = server.output();
            output
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        };
        let named = format!("slot={slot}");
        assert!(logged(server, ["restart abandoned", &named]));
        server.wait_until("the worker's end in the log", |server| {
            logged(server, ["worker", died])
        });
        // Those before it are replaced already; nobody else is touched.
        server.wait_until("four workers", |server| {
            server.worker_pids().len() == WORKERS
        });
        let living = server.worker_pids();
        for (at, pid) in &self.before {
            assert_eq!(living.contains(pid), *at >= slot, "slot {at}: {living:?}");
        }
        errors.remove(0)
    }

    /// Once it is mended, the next restart replaces everybody.
    fn must_work_when_mended(&self) {
        fs::remove_file(self.directory.path("break")).unwrap();
        let before = self.server.worker_pids();
        self.server.signal(Signal::SIGHUP);
        self.server.wait_until("four new workers", |server| {
            let now = server.worker_pids();
            now.len() == WORKERS && now.iter().all(|pid| !before.contains(pid))
        });
        assert_eq!(self.server.lines("error: ").len(), 1);
    }
}

fn never_listens(how: &str, died: &str) {
    for slot in [0, 2] {
        let deploy = Deploy::new(|run, _| run);
        deploy.breaks(how, slot);
        deploy.must_be_given_up(slot, died);
        deploy.must_work_when_mended();
    }
}

#[test]
fn l18_a_worker_that_panics_at_boot_changes_nothing() {
    never_listens("panic", "exit status: 101");
}

#[test]
fn a_worker_that_ends_at_once_as_if_all_were_well() {
    never_listens("exit0", "exit status: 0");
}

#[test]
fn a_worker_that_crashes_at_boot() {
    never_listens("segv", "signal: 11");
}

#[test]
fn l05_a_worker_that_never_listens_changes_nothing() {
    never_listens("hang", "signal: 9");
}

// Only a program that is new has to show that it stays up.
#[test]
fn a_new_program_that_listens_and_dies() {
    for slot in sized(vec![0, 2], vec![0]) {
        let mut deploy = Deploy::new(|run, directory| {
            let program = directory.path("playground");
            fs::copy(example("playground"), &program).unwrap();
            run.program(&program)
        });
        deploy.dies_serving = true;
        let (program, next) = (
            deploy.directory.path("playground"),
            deploy.directory.path("next"),
        );
        fs::copy(example("playground"), &next).unwrap();
        fs::rename(next, program).unwrap();
        deploy.breaks("die", slot);
        deploy.must_be_given_up(slot, "signal: 11");
    }
}

#[test]
fn the_error_of_one_that_never_listens_says_so() {
    let deploy = Deploy::new(|run, _| run);
    deploy.breaks("hang", 1);
    let error = deploy.must_be_given_up(1, "signal: 9");
    assert!(
        error.contains("not ready within the boot timeout"),
        "{error}"
    );
}

#[test]
fn the_error_of_one_that_dies_names_the_cause() {
    for (how, died) in [
        ("panic", "exit status: 101"),
        ("exit0", "exit status: 0"),
        ("segv", "signal: 11"),
    ] {
        let deploy = Deploy::new(|run, _| run);
        deploy.breaks(how, 1);
        let error = deploy.must_be_given_up(1, died);
        assert!(
            error.contains("before it reached `serve`"),
            "{how}: {error}"
        );
    }
}
