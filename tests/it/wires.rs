//! Hostile workers: whatever one sends, it is killed and replaced, the primary goes on, and no descriptor stays (T14).
//!
//! The server is this very test binary: [`fixture`] is a test that is run again as a process of its own, as the primary, and once
//! more by that as each worker. The first worker misbehaves, all others serve.

use std::{
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::parent_id,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use axum_cluster::ClusteredServer;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};

use crate::{
    client::{Load, sized},
    limits::cpu,
    support::{poll_for, procfs},
};

const MS: Duration = Duration::from_millis(1);

/// What the first worker does.
const MISDEED: &str = "TEST_MISDEED";

// ===== the tests =====

/// The misdeed is answered by a kill and a replacement; the primary then holds no more than it did for a worker that died honestly.
fn must_be_survived(misdeed: &str) {
    static HONEST: OnceLock<usize> = OnceLock::new();
    let honest = *HONEST.get_or_init(|| {
        let server = Fixture::start("dies");
        server.must_be_replaced();
        server.fds()
    });
    for _ in 0..sized(10, 1) {
        let server = Fixture::start(misdeed);
        server.must_be_replaced();
        assert!(
            server.output().contains("exit worker=1 status=signal: 9"),
            "{}",
            server.output()
        );
        // The misdeed is to be found out, and not the fixture's age.
        assert!(
            !server.output().contains("another version"),
            "{}",
            server.output()
        );
        let flat = poll_for(Duration::from_secs(2), || server.fds() <= honest);
        assert!(
            flat,
            "{} descriptors, {honest} after an honest death\n{}",
            server.fds(),
            server.output()
        );
    }
}

// I-5, W-6: told, and no more than that.
#[test]
fn garbage_is_survived() {
    must_be_survived("garbage");
    let server = Fixture::start("garbage");
    server.must_be_replaced();
    let output = server.output();
    assert!(output.contains("error: the other process sent"), "{output}");
}

#[test]
fn a_cut_frame_is_survived() {
    must_be_survived("cut");
}

#[test]
fn an_oversized_datagram_is_survived() {
    must_be_survived("oversized");
}

#[test]
fn unexpected_descriptors_are_survived() {
    must_be_survived("descriptors");
}

#[test]
fn more_descriptors_than_anybody_reads_are_survived() {
    must_be_survived("many-descriptors");
}

#[test]
fn descriptors_with_nothing_said_are_survived() {
    must_be_survived("silent-descriptors");
}

#[test]
fn words_before_the_hello_are_survived() {
    must_be_survived("no-hello");
}

#[test]
fn a_second_hello_is_survived() {
    must_be_survived("second-hello");
}

#[test]
fn a_hello_of_somebody_else_is_survived() {
    must_be_survived("another-pid");
}

#[test]
fn a_lie_about_what_was_consumed_is_survived() {
    must_be_survived("lie");
}

// The bound of what a worker may have under way is the worker's to keep; one that does not keep it is found out.
#[test]
fn a_flood_beyond_the_bound_is_survived() {
    must_be_survived("flood");
}

// Reports of what was cut go into the log and to hooks: what they say is bounded, and said once.
#[test]
fn reports_that_no_worker_makes_are_survived() {
    must_be_survived("report-garbage");
    must_be_survived("report-with-lines");
    must_be_survived("report-twice");
}

// Large messages: the cap is checked before anything is allocated, the seals before anything is read.
#[test]
fn a_large_message_that_never_came_is_survived() {
    must_be_survived("no-memfd");
}

#[test]
fn a_memfd_that_could_still_change_is_survived() {
    must_be_survived("open-memfd");
}

#[test]
fn a_large_message_of_another_size_is_survived() {
    must_be_survived("other-size");
}

#[test]
fn a_size_beyond_the_cap_is_survived() {
    must_be_survived("too-large");
}

#[test]
fn more_descriptors_than_announced_are_survived() {
    must_be_survived("unannounced");
}

#[test]
fn fewer_descriptors_than_announced_are_survived() {
    must_be_survived("announced");
}

#[test]
fn a_flood_of_descriptors_is_survived() {
    must_be_survived("flood-of-descriptors");
}

// Its requests are consumed and answered at once, so no bound holds them back; the answers would fill the primary's memory.
#[test]
fn requests_whose_answers_are_not_read_are_survived() {
    must_be_survived("asks-and-does-not-read");
}

// It says nothing wrong, and takes itself out of the rotation for good.
#[test]
fn a_worker_that_shuts_its_intake_is_replaced() {
    must_be_survived("shut-intake");
}

#[test]
fn a_shut_intake_does_not_make_the_primary_spin() {
    let server = Fixture::start("shut-intake");
    assert!(
        poll_for(Duration::from_secs(5), || server
            .output()
            .contains("1 listens")),
        "{}",
        server.output()
    );
    let before = cpu(server.child.id());
    std::thread::sleep(1000 * MS);
    let used = cpu(server.child.id()).saturating_sub(before);
    assert!(used <= 200 * MS, "the primary used {used:?} of a second");
}

#[test]
fn a_standing_that_no_connection_has_is_survived() {
    must_be_survived("standing-back");
}

// The way back carries connections only, each once.
#[test]
fn garbage_on_the_way_back_is_survived() {
    must_be_survived("garbage-back");
}

#[test]
fn more_on_the_way_back_than_was_handed_over_is_survived() {
    must_be_survived("flood-back");
}

#[test]
fn a_worker_that_hangs_up_and_stays_is_replaced() {
    must_be_survived("hangs-up");
}

#[test]
fn an_empty_datagram_is_survived() {
    must_be_survived("empty");
}

/// The server, running.
struct Fixture {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Fixture {
    fn start(misdeed: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["wires::fixture", "--exact", "--ignored", "--nocapture"])
            .env(MISDEED, misdeed);
        let mut child = command
            .env_remove("AXUM_CLUSTER_WORKERS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (mut stdout, text) = (child.stdout.take().unwrap(), output.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                text.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { child, output }
    }

    fn output(&self) -> String {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn fds(&self) -> usize {
        procfs::descriptors(self.child.id())
    }

    /// Requests are answered, before and after; within two seconds the first worker has gone and another has its place.
    fn must_be_replaced(&self) {
        let begun = Instant::now();
        let listening = || self.output().matches("worker listens").count();
        assert!(
            poll_for(Duration::from_secs(5), || self
                .output()
                .contains("bound to ")
                && listening() >= 1),
            "{}",
            self.output()
        );
        let output = self.output();
        let addr = output
            .lines()
            .find_map(|line| Some(line.split_once("bound to ")?.1))
            .unwrap();
        let load = Load::new(addr).clients(2).start();
        let replaced = poll_for(Duration::from_secs(5), || {
            self.output().contains("exit worker=1 ") && self.output().contains("3 listens")
        });
        let tally = load.stop();
        assert!(
            replaced,
            "not replaced within {:?}\n{}\n{tally}",
            begun.elapsed(),
            self.output()
        );
        eprintln!("replaced after {:.1?}", begun.elapsed());
        Load::new(addr).count(20).run().must_be_perfect();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ===== the server =====

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
#[allow(clippy::print_stdout, reason = "tells the test what happens")]
fn fixture() {
    let Ok(misdeed) = std::env::var(MISDEED) else {
        return;
    };
    if std::env::var("AXUM_CLUSTER_WORKER").is_ok_and(|number| number.starts_with("1.")) {
        commit(&misdeed);
    }
    let make = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        println!("bound to {}", listener.local_addr()?);
        Ok::<_, std::io::Error>(listener)
    };
    ClusteredServer::bind_with(make)
        .workers(2)
        .program(std::env::current_exe().unwrap())
        .drain_deadline(500 * MS)
        .on_listening(|worker, _| println!("worker listens: {0} listens", worker.id()))
        .on_exit(|worker, exit| println!("exit worker={} status={}", worker.id(), exit.status))
        .on_error(|error| println!("error: {error:?}"))
        .on_message(|_, message| {
            if !message.is_request() {
                std::thread::sleep(MS);
            }
        })
        .serve(Router::new().route("/", get(|| async { "hello world" })))
        .run()
        .unwrap();
}

/// Does it, and stays until it is killed.
fn commit(misdeed: &str) {
    pause();
    let stdin = std::io::stdin();
    let channel = stdin.as_fd();
    let hello = |pid| frame(1, format!("{{\"wire\":3,\"pid\":{pid}}}").as_bytes());
    let hello_of_mine = hello(std::process::id());
    match misdeed {
        "dies" => {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .unwrap()
        }
        "garbage" => send(channel, &[0xa5; 333], &[]),
        "cut" => send(channel, &hello_of_mine[..hello_of_mine.len() - 1], &[]),
        "oversized" => send(channel, &[1; 100_000], &[channel; 2]),
        "descriptors" => send(channel, &hello_of_mine, &[channel; 3]),
        "many-descriptors" => send(channel, &hello_of_mine, &[channel; 200]),
        "silent-descriptors" => send(channel, &[], &[channel; 3]),
        "no-hello" => send(channel, &frame(3, b"[]"), &[]),
        "another-pid" => send(channel, &hello(1), &[]),
        "second-hello" => send(channel, &hello_of_mine.repeat(2), &[]),
        "lie" => send(
            channel,
            &[hello_of_mine, frame(7, &u32::MAX.to_le_bytes())].concat(),
            &[],
        ),
        "report-garbage" => {
            let report = frame(11, &[0xa5; 99]);
            send(channel, &[hello_of_mine, report].concat(), &[]);
        }
        "report-with-lines" => {
            let mut report = 1_u64.to_le_bytes().to_vec();
            report.extend_from_slice(b"\x03GET\0\0\0\0\0\0\0\0\x03\0/\n!");
            send(channel, &[hello_of_mine, frame(11, &report)].concat(), &[]);
        }
        "report-twice" => {
            let report = frame(11, &7_u64.to_le_bytes());
            send(channel, &[hello_of_mine, report.repeat(2)].concat(), &[]);
        }
        "standing-back" => {
            send(channel, &hello_of_mine, &[]);
            let fds = welcomed(channel);
            send(channel, &frame(3, b"[]"), &[]);
            // Listener, unix peer, read inline, waits for what?, no time, no bytes.
            let standing = [&[0, 0, 0, 1, 9][..], &[0; 4], &[0; 2]].concat();
            send(fds[0].as_fd(), &standing, &[channel]);
        }
        "empty" => send(channel, &[], &[]),
        "hangs-up" => {
            send(channel, &[hello_of_mine, frame(3, b"[]")].concat(), &[]);
            rustix::net::shutdown(channel, Shutdown::Both).unwrap();
        }
        "shut-intake" => {
            send(channel, &hello_of_mine, &[]);
            let fds = welcomed(channel);
            send(channel, &frame(3, b"[]"), &[]);
            rustix::net::shutdown(&fds[0], Shutdown::Both).unwrap();
        }
        "garbage-back" => {
            send(channel, &hello_of_mine, &[]);
            let fds = welcomed(channel);
            send(channel, &frame(3, b"[]"), &[]);
            send(fds[0].as_fd(), &[0xa5; 99], &[channel; 7]);
        }
        "flood-back" => {
            send(channel, &hello_of_mine, &[]);
            let fds = welcomed(channel);
            send(channel, &frame(3, b"[]"), &[]);
            // A connection of a unix socket, just accepted: the kernel takes any descriptor for one.
            for _ in 0..10_000 {
                send(fds[0].as_fd(), &[0, 0, 0, 0].repeat(16), &[channel; 16]);
            }
        }
        "no-memfd" => send(channel, &[hello_of_mine, sealed(70_000)].concat(), &[]),
        "too-large" => send(
            channel,
            &[hello_of_mine, sealed((64 << 20) + 1)].concat(),
            &[memfd(1, true).as_fd()],
        ),
        "open-memfd" => send(
            channel,
            &[hello_of_mine, sealed(70_000)].concat(),
            &[memfd(70_000, false).as_fd()],
        ),
        "other-size" => send(
            channel,
            &[hello_of_mine, sealed(70_000)].concat(),
            &[memfd(70_001, true).as_fd()],
        ),
        "unannounced" => send(
            channel,
            &[hello_of_mine, letter(0, 1, 0, b"one")].concat(),
            &[channel; 2],
        ),
        "announced" => send(
            channel,
            &[hello_of_mine, letter(0, 2, 0, b"two")].concat(),
            &[channel],
        ),
        "flood-of-descriptors" => {
            send(channel, &hello_of_mine, &[]);
            for _ in 0..8_000 {
                send(channel, &letter(0, 15, 0, b"fifteen"), &[channel; 15]);
            }
        }
        "asks-and-does-not-read" => {
            send(channel, &hello_of_mine, &[]);
            // Dropped unanswered by the hook of this primary, each of them, at once.
            let requests: Vec<_> = (0..3_000).flat_map(|n| letter(2, 0, n, b"")).collect();
            for _ in 0..2_000 {
                send(channel, &requests, &[]);
            }
        }
        "flood" => {
            send(channel, &hello_of_mine, &[]);
            let message = frame(5, &[b'1'; 50_000]);
            // A hundred times the bound; every one is a proper message.
            for _ in 0..8_000 {
                send(channel, &message, &[]);
            }
        }
        _ => panic!("{misdeed}?"),
    }
    loop {
        pause();
    }
}

/// A millisecond; the last one when the primary is gone, so that a test that fails leaves nobody behind.
fn pause() {
    static PRIMARY: OnceLock<u32> = OnceLock::new();
    if *PRIMARY.get_or_init(parent_id) != parent_id() {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .unwrap();
    }
    std::thread::sleep(MS);
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[kind], &length.to_le_bytes()[..], payload].concat()
}

/// A message that is more than its bytes.
fn letter(kind: u8, fds: u8, number: u64, payload: &[u8]) -> Vec<u8> {
    frame(
        8,
        &[&[kind, fds], &number.to_le_bytes()[..], payload].concat(),
    )
}

/// A message that is said to be in a memfd.
fn sealed(size: u32) -> Vec<u8> {
    letter(0x80, 0, 0, &size.to_le_bytes())
}

fn memfd(size: u64, is_final: bool) -> OwnedFd {
    use rustix::fs::{MemfdFlags, SealFlags};
    let fd = rustix::fs::memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    if is_final {
        rustix::fs::fcntl_add_seals(
            &fd,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
        )
        .unwrap();
    }
    fd
}

/// Waits for room; a primary that does not read any more has no room.
fn send(channel: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    while rustix::net::sendmsg(
        channel,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .is_err()
    {
        pause();
    }
}

/// The descriptors of the welcome: the intake and the page.
fn welcomed(channel: BorrowedFd<'_>) -> Vec<OwnedFd> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut io = [std::io::IoSliceMut::new(&mut bytes)];
        if rustix::net::recvmsg(channel, &mut io, &mut control, RecvFlags::empty()).is_ok() {
            let messages = control.drain();
            let fds = messages.filter_map(|message| {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    Some(fds)
                } else {
                    None
                }
            });
            return fds.flatten().collect();
        }
        pause();
    }
}
