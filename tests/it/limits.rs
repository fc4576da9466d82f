//! Descriptors run out: nothing is lost in hand-over, and nobody spins (both traps of DESIGN section 4, T10).
//!
//! The kernel's budget of descriptors in flight does not hold for root, so these run as an ordinary user.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Read},
    os::{fd::AsFd, unix::net::UnixStream, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    client::{Load, Mode, Outcome, Wire, sized},
    support::{Server, Signal, TempDir, poll_for},
};

const MS: Duration = Duration::from_millis(1);

/// Whoever runs nothing else here.
const USER: u32 = 65_534;

/// The budget in flight is one for the whole user: one test at a time.
static BUDGET: Mutex<()> = Mutex::new(());

fn budget() -> MutexGuard<'static, ()> {
    BUDGET.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limited(workers: u32) -> Server {
    Server::run("playground")
        .workers(workers)
        .user(USER)
        .nofile(256)
        // These tests fill one worker with idle connections, which would move to the others.
        .env("REBALANCE", 0)
        .start()
}

/// What a process has used of the processors, to the nanosecond: the ticks of `stat` are too coarse for a bound of some.
pub(crate) fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let used = threads.map(|thread| {
        // A thread that has ended meanwhile has used nothing more.
        let stat = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        stat.split(' ')
            .next()
            .and_then(|used| used.parse().ok())
            .unwrap_or(0)
    });
    Duration::from_nanos(used.sum())
}

/// Nobody of a server that has nothing to do, or can do nothing, uses a twentieth of a processor.
fn must_not_spin(server: &Server, when: &str) {
    let pids: Vec<_> = server
        .worker_pids()
        .into_iter()
        .chain([server.pid()])
        .collect();
    let before: Vec<_> = pids.iter().map(|&pid| cpu(pid)).collect();
    sleep(1000 * MS);
    for (&pid, before) in pids.iter().zip(before) {
        let used = cpu(pid).saturating_sub(before);
        eprintln!(
            "{when}, process {pid} (primary {}) used {used:.1?} of a second",
            server.pid()
        );
        assert!(
            used <= 50 * MS,
            "{when}, process {pid} (primary {}) used {used:?} of a second",
            server.pid()
        );
    }
}

/// How often a process has gone to sleep.
fn sleeps(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let times = threads.map(|thread| {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
        let times = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        times.map_or(0, |times| times.trim().parse().unwrap())
    });
    times.sum()
}

// K-9: a full worker is told when a connection closes; it does not look again and again.
#[test]
fn a_full_worker_rests_and_is_back_at_once() {
    let server = Server::run("playground")
        .workers(1)
        .env("MAX_CONNECTIONS", 1)
        .start();
    let worker = server.worker_pids()[0];
    let mut kept = Wire::to(server.addr()).unwrap();
    kept.get("/").unwrap();
    let before = sleeps(worker);
    sleep(1000 * MS);
    let slept = sleeps(worker) - before;
    assert!(slept <= 40, "it woke {slept} times in a second");
    for _ in 0..20 {
        let mut next = Wire::to(server.addr()).unwrap();
        next.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        drop(std::mem::replace(&mut kept, next));
        let closed = Instant::now();
        kept.response().unwrap();
        assert!(
            closed.elapsed() <= 80 * MS,
            "{:?} after the one before it closed",
            closed.elapsed()
        );
    }
}

// short of descriptors, clients wait and none is lost.
#[test]
fn under_load_nothing_is_lost_with_256_descriptors() {
    let _budget = budget();
    let server = limited(8);
    let loads = [
        Load::new(server.addr()).clients(sized(200, 100)),
        Load::new(server.addr())
            .clients(50)
            .mode(Mode::KeepAlive { think: 5 * MS }),
    ];
    let running = loads.map(|load| load.time(sized(20_000, 2000) * MS).start());
    for load in running {
        let tally = load.wait();
        eprintln!("{tally}");
        tally.must_be_perfect();
    }
    assert!(
        !server.output().contains("lost in hand-over"),
        "{}",
        server.output()
    );
    must_not_spin(&server, "idle");
}

// I-16, R-7: what a worker has no descriptor left for is not lost on its way, and nobody spins.
#[test]
fn a_full_worker_takes_the_rest_as_others_close() {
    let _budget = budget();
    let server = limited(1);
    // Stopped meanwhile, the primary finds all at once: then it hands over datagrams of sixteen.
    server.signal(Signal::SIGSTOP);
    let mut wires: Vec<_> = (0..400).map(|_| Wire::to(server.addr()).unwrap()).collect();
    server.signal(Signal::SIGCONT);
    wires
        .iter_mut()
        .for_each(|wire| wire.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap());
    sleep(500 * MS);
    must_not_spin(&server, "full");
    // One at a time closes when nobody is answered any more.
    let mut answered = VecDeque::new();
    for (n, mut wire) in wires.into_iter().enumerate() {
        let answer = loop {
            wire.set_deadline(Instant::now() + 50 * MS);
            match wire.response() {
                Err(Outcome::Timeout) if !answered.is_empty() => drop(answered.pop_front()),
                answer => break answer,
            }
        };
        assert!(
            answer.is_ok(),
            "connection {n} of 400: {answer:?}\n{}",
            server.output()
        );
        answered.push_back(wire);
    }
    assert!(
        !server.output().contains("lost in hand-over"),
        "{}",
        server.output()
    );
}

// The others go on, and the full one is back as soon as it has room.
#[test]
fn one_full_worker_of_two_holds_up_nobody_and_comes_back() {
    let _budget = budget();
    let server = limited(2);
    let mut idle = Vec::new();
    let full = Wire::to(server.addr())
        .unwrap()
        .get("/")
        .unwrap()
        .number("x-worker");
    // Connections of the one are kept, those of the other are not. Until it is full: then the other one answers all.
    let mut in_a_row = 0;
    while in_a_row < 20 && idle.len() < 300 {
        let mut wire = Wire::to(server.addr()).unwrap();
        in_a_row += 1;
        if wire.get("/").unwrap().number("x-worker") == full {
            idle.push(wire);
            in_a_row = 0;
        }
    }
    assert!(
        (100..256).contains(&idle.len()),
        "{} idle connections",
        idle.len()
    );

    let tally = Load::new(server.addr()).clients(8).time(2500 * MS).run();
    eprintln!("{} idle connections fill a worker\n{tally}", idle.len());
    tally.must_be_perfect();
    tally.must("the other goes on", tally.slowest() <= 400 * MS);
    must_not_spin(&server, "one of two full");

    for _ in 0..5 {
        let closed = Instant::now();
        drop(idle.pop());
        let back = || {
            let mut wire = Wire::to(server.addr()).unwrap();
            let answered = wire.get("/").unwrap().number("x-worker") == full;
            idle.extend(answered.then_some(wire));
            answered
        };
        assert!(poll_for(Duration::from_secs(5), back), "it never came back");
        assert!(
            closed.elapsed() <= 100 * MS,
            "back only {:?} after an idle connection closed",
            closed.elapsed()
        );
        // Full again, by the one that it answered: it is found out, and passed over.
        Load::new(server.addr())
            .clients(4)
            .time(300 * MS)
            .run()
            .must_be_perfect();
    }
}

#[test]
fn a_used_up_budget_in_flight_delays_and_loses_nothing() {
    let _budget = budget();
    let server = limited(2);
    let directory = TempDir::new();
    let hog = Hog::start(&directory);
    let mut wires: Vec<_> = (0..100).map(|_| Wire::to(server.addr()).unwrap()).collect();
    wires
        .iter_mut()
        .for_each(|wire| wire.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap());
    must_not_spin(&server, "without budget");
    if rustix::process::geteuid().is_root() {
        // This one shows that there is none.
        let mut wire = Wire::to(server.addr()).unwrap();
        wire.set_deadline(Instant::now() + 200 * MS);
        assert_eq!(wire.get("/").unwrap_err(), Outcome::Timeout);
    }
    let freed = Instant::now();
    drop(hog);
    for (n, mut wire) in wires.into_iter().enumerate() {
        let answer = wire.response();
        assert!(
            answer.is_ok(),
            "connection {n} of 100: {answer:?}\n{}",
            server.output()
        );
    }
    assert!(
        freed.elapsed() <= 500 * MS,
        "{:?} after the budget was free",
        freed.elapsed()
    );
    Load::new(server.addr()).count(100).run().must_be_perfect();
}

/// Another program of the same user, which holds more descriptors in flight than its limit lets a primary have.
struct Hog(Child);

impl Hog {
    fn start(directory: &TempDir) -> Self {
        // Where the tests were built, that user may not be able to look.
        let program = directory.path("hog");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = Command::new(&program);
        command
            .args(["limits::hog", "--exact", "--ignored", "--nocapture"])
            .env("HOG", "1");
        if rustix::process::geteuid().is_root() {
            command.uid(USER).gid(USER);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().ends_with("held")),
            "the hog has ended"
        );
        Self(child)
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "a fixture: another test runs it as a process of its own"]
#[allow(clippy::print_stdout, reason = "tells the test that it is ready")]
fn hog() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    if std::env::var_os("HOG").is_none() {
        return;
    }
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let fds = [ours.as_fd(); 100];
    for _ in 0..6 {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(
            &ours,
            &[std::io::IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
    }
    println!("held");
    let _ = std::io::stdin().read(&mut [0]);
}
