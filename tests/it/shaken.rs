//! A server whose workers are replaced without end, and clients of one bad kind against it. Each says what was wrong.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Dice, Outcome, Response, Wire, sized},
    support::{Server, Signal, poll_for},
};

const WORKERS: usize = 2;
/// Clients at a time.
const CLIENTS: usize = 12;
/// Beyond what clients can hold up, old workers are given time to end: else a slow machine fills with them.
const PROCESSES: usize = WORKERS + CLIENTS + 2;

/// Clients wait for restarts in the middle of requests, and on a busy machine these take seconds: no deadline may come first.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is wrong with an answer.
pub(crate) type Verdict = Result<(), String>;

/// The server and what everybody saw of it.
#[derive(Default)]
struct Shaken {
    restarts: AtomicU64,
    claimed: AtomicUsize,
    over: AtomicBool,
    generations: Mutex<BTreeSet<u64>>,
    bad: Mutex<Vec<String>>,
}

/// One connection of a bad client.
pub(crate) struct Case<'a> {
    shaken: &'a Shaken,
    addr: &'a str,
    /// Of all connections, from 0.
    pub(crate) number: usize,
    pub(crate) dice: Dice,
}

/// So many connections of a kind: 500 in full size.
pub(crate) fn some() -> usize {
    sized(500, 40)
}

/// Runs a client for so many connections while all workers are replaced again and again. None may be bad, no body may ever have been
/// taken for a request, and the connections must have seen several generations.
#[track_caller]
pub(crate) fn must_all_be_good(
    connections: usize,
    client: impl Fn(&mut Case<'_>) -> Verdict + Sync,
) {
    let server = Server::run("playground")
        .workers(WORKERS as u32)
        .env("DRAIN_MS", PATIENCE.as_millis())
        .env("HEADER_MS", PATIENCE.as_millis())
        .env("FIRST_BYTE_MS", PATIENCE.as_millis())
        .start();
    let shaken = Shaken::default();
    thread::scope(|scope| {
        let restarting = scope.spawn(|| shaken.restart_without_end(&server));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| shaken.claim_until(connections, server.addr(), &client)))
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        shaken.over.store(true, Relaxed);
        restarting.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    let bad = std::mem::take(&mut *shaken.bad.lock().unwrap());
    assert!(
        bad.is_empty(),
        "{} of {connections} connections were bad: {:#?}\n{}",
        bad.len(),
        &bad[..bad.len().min(8)],
        server.output()
    );
    assert!(
        !server.output().contains("SMUGGLED"),
        "a body was taken for a request"
    );
    let restarts = shaken.restarts.load(Relaxed);
    assert!(
        shaken.has_restarted(),
        "{restarts} restarts, answers of generations {:?}",
        shaken.generations
    );
    let died = server.lines("exit worker=");
    assert!(
        died.iter().all(|line| line.contains("status=exit:0")),
        "{died:#?}"
    );
    eprintln!("{connections} connections, {restarts} restarts, 0 bad");
}

impl Shaken {
    fn has_restarted(&self) -> bool {
        self.restarts.load(Relaxed) >= 3 && self.generations.lock().unwrap().len() >= 3
    }

    fn restart_without_end(&self, server: &Server) {
        while !self.over.load(Relaxed) {
            server.signal(Signal::SIGHUP);
            let restarts = self.restarts.load(Relaxed) + 1;
            server.wait_until("the end of a restart", |server| {
                server.output().matches(" restarted ").count() as u64 >= restarts
            });
            self.restarts.store(restarts, Relaxed);
            server.wait_until("the end of some old workers", |server| {
                server.worker_pids().len() <= PROCESSES
            });
        }
    }

    fn claim_until(
        &self,
        connections: usize,
        addr: &str,
        client: &impl Fn(&mut Case<'_>) -> Verdict,
    ) {
        let begun = Instant::now();
        // Quick clients go on until they have seen some restarts; should there be none, that is told in the end.
        let goes_on =
            |number| number < connections || (!self.has_restarted() && begun.elapsed() < PATIENCE);
        loop {
            let number = self.claimed.fetch_add(1, Relaxed);
            if !goes_on(number) {
                return;
            }
            let mut case = Case {
                shaken: self,
                addr,
                number,
                dice: Dice::new(number as u64 + 1),
            };
            if let Err(problem) = client(&mut case) {
                let problem = format!("connection {number}: {problem}");
                self.bad.lock().unwrap().push(problem);
            }
        }
    }
}

impl Case<'_> {
    /// A new connection.
    pub(crate) fn connect(&self) -> Result<Wire, String> {
        let mut wire = Wire::to(self.addr).map_err(|outcome| format!("connect: {outcome:?}"))?;
        wire.set_deadline(Instant::now() + PATIENCE);
        Ok(wire)
    }

    /// A new connection; every other one has been answered before: its next request is not its first.
    pub(crate) fn connect_first_or_later(&self) -> Result<Wire, String> {
        let mut wire = self.connect()?;
        if self.number % 2 == 1 {
            self.expect(wire.get("/number/first"), "first")?;
        }
        Ok(wire)
    }

    /// Until a restart is over that was under way or is yet to begin, in two of three times; else for some milliseconds, so that
    /// what follows comes in the middle of one.
    pub(crate) fn pause(&mut self) {
        if self.dice.below(3) == 0 {
            self.moment();
        } else {
            self.see_a_restart();
        }
    }

    pub(crate) fn moment(&mut self) {
        thread::sleep(Duration::from_millis(12).mul_f64(self.dice.roll()));
    }

    pub(crate) fn see_a_restart(&self) {
        let before = self.shaken.restarts.load(Relaxed);
        // If not, the thread that restarts says what is wrong.
        poll_for(PATIENCE, || {
            self.shaken.restarts.load(Relaxed) > before || self.shaken.over.load(Relaxed)
        });
    }

    /// Whether this is a 200 with this body; notes which generation it came from.
    pub(crate) fn expect(
        &self,
        answer: Result<Response, Outcome>,
        body: &str,
    ) -> Result<Response, String> {
        let answer = answer.map_err(|outcome| format!("{outcome:?} instead of {body:?}"))?;
        self.saw(answer.number("x-generation"));
        if answer.status == 200 && answer.body == body.as_bytes() {
            return Ok(answer);
        }
        let shown = String::from_utf8_lossy(&answer.body);
        Err(format!("{} {shown:?} instead of {body:?}", answer.status))
    }

    pub(crate) fn saw(&self, generation: u64) {
        self.shaken.generations.lock().unwrap().insert(generation);
    }

    /// Ends the connection and sees that nothing more comes.
    pub(crate) fn end(&self, mut wire: Wire) -> Verdict {
        // A server that has closed already is no problem.
        let _ = wire.shut_down_writing();
        match wire.response() {
            Err(Outcome::Reset) => Ok(()),
            other => Err(format!("after the last answer: {other:?}")),
        }
    }
}
