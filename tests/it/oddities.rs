//! Clients that do what few do, under continuous restarts: each is answered as if nothing happened.

use std::{thread::sleep, time::Duration};

use crate::{
    client::{Dice, Load, Mode, Outcome, Tally, Wire, sized},
    shaken::{Case, Verdict, must_all_be_good, some},
    support::{Server, Signal, poll_for},
};

const MS: Duration = Duration::from_millis(1);

fn number(n: usize) -> String {
    format!("GET /number/{n} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn send(wire: &mut Wire, bytes: impl AsRef<[u8]>) -> Verdict {
    wire.send(bytes.as_ref())
        .map_err(|outcome| format!("sending: {outcome:?}"))
}

/// Whatever came before on this connection has not disturbed it.
fn goes_on(case: &mut Case<'_>, mut wire: Wire) -> Verdict {
    case.pause();
    case.expect(wire.get("/number/0"), "0")?;
    case.end(wire)
}

// The request's body is never read, and its answer is more than the sockets hold.
#[test]
fn an_early_answer_to_a_slow_reader() {
    const SIZE: usize = 6_000_000;
    must_all_be_good(some(), |case| {
        let mut wire = case.connect_first_or_later()?;
        let body = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n".repeat(case.dice.below(1_500));
        let head = format!(
            "POST /bytes?count={SIZE} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (first, rest) = body.split_at(case.dice.below(body.len().max(1)));
        send(&mut wire, format!("{head}{first}"))?;
        let answer = wire.head().map_err(|outcome| format!("{outcome:?}"))?;
        if answer.number("content-length") != SIZE as u64 {
            return Err(format!("{answer:?}"));
        }
        let mut left = SIZE;
        while left > 0 {
            case.pause();
            let part = (SIZE / 3).min(left);
            let read = wire
                .take(part)
                .map_err(|outcome| format!("{outcome:?} {left} bytes before the end"))?;
            if read.iter().any(|&byte| byte != b'x') {
                return Err("the body is not what it has to be".into());
            }
            left -= part;
        }
        // The server may have ended the connection instead of reading what nobody wants.
        let _ = wire.send(rest.as_bytes());
        case.end(wire)
    });
}

#[test]
fn a_head_cut_at_every_byte() {
    let head = "GET /number/7 HTTP/1.1\r\nHost: test\r\nX-Some: thing\r\n\r\n";
    must_all_be_good(sized(10, 2) * (head.len() + 1), |case| {
        let cut = case.number / 2 % (head.len() + 1);
        let mut wire = case.connect_first_or_later()?;
        send(&mut wire, &head[..cut])?;
        case.pause();
        send(&mut wire, &head[cut..])?;
        case.expect(wire.response(), "7")
            .map_err(|problem| format!("cut at {cut}: {problem}"))?;
        case.end(wire)
    });
}

#[test]
fn a_head_that_comes_byte_by_byte_through_several_restarts() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect_first_or_later()?;
        let head = number(case.number);
        for piece in head.as_bytes().chunks(head.len() / 5) {
            send(&mut wire, piece)?;
            case.pause();
        }
        case.expect(wire.response(), &case.number.to_string())?;
        case.end(wire)
    });
}

#[test]
fn two_to_twenty_pipelined_requests() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect()?;
        for _ in 0..3 {
            let count = 2 + case.dice.below(19);
            let requests: String = (0..count).map(number).collect();
            let (first, rest) = requests.split_at(case.dice.below(requests.len()));
            send(&mut wire, first)?;
            case.pause();
            send(&mut wire, rest)?;
            for n in 0..count {
                case.expect(wire.response(), &n.to_string())?;
            }
        }
        case.end(wire)
    });
}

#[test]
fn three_hundred_kilobytes_of_requests_behind_a_slow_one() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect_first_or_later()?;
        let filler = "x".repeat(2_000);
        let behind: String = (0..150)
            .map(|n| {
                format!("GET /number/{n} HTTP/1.1\r\nHost: test\r\nX-Filler: {filler}\r\n\r\n")
            })
            .collect();
        let ms = 1 + case.dice.below(60);
        send(
            &mut wire,
            format!("GET /slow?ms={ms} HTTP/1.1\r\nHost: test\r\n\r\n{behind}"),
        )?;
        case.expect(wire.response(), &format!("after {ms} ms"))?;
        for n in 0..150 {
            case.expect(wire.response(), &n.to_string())
                .map_err(|problem| format!("{n} behind the slow one: {problem}"))?;
        }
        case.end(wire)
    });
}

#[test]
fn answers_without_a_body() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect()?;
        for (request, status) in [
            ("HEAD / ", 200),
            ("GET /status/204 ", 204),
            ("HEAD /bytes?count=70000 ", 200),
            ("GET /status/304 ", 304),
        ] {
            send(
                &mut wire,
                format!("{request}HTTP/1.1\r\nHost: test\r\n\r\n"),
            )?;
            case.pause();
            let answer = wire.head();
            if !answer
                .as_ref()
                .is_ok_and(|answer| answer.status == status && !answer.closes)
            {
                return Err(format!("{request}: {answer:?}"));
            }
        }
        goes_on(case, wire)
    });
}

#[test]
fn http_1_0_with_keep_alive() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect()?;
        for n in 0..3 {
            let head = format!("GET /number/{n} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            send(&mut wire, head)?;
            case.pause();
            let answer = case.expect(wire.response(), &n.to_string())?;
            if answer.header("connection") != Some("keep-alive") {
                return Err(format!("{answer:?}"));
            }
        }
        send(&mut wire, "GET /number/9 HTTP/1.0\r\n\r\n")?;
        case.expect(wire.response(), "9")?;
        match wire.response() {
            Err(Outcome::Reset) => Ok(()),
            other => Err(format!("not closed as HTTP/1.0 asks for: {other:?}")),
        }
    });
}

#[test]
fn empty_lines_before_a_request() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect()?;
        for n in 0..3 {
            for empty in ["\r", "\n", "\r\n"] {
                send(&mut wire, empty)?;
                case.moment();
            }
            case.pause();
            send(&mut wire, number(n))?;
            case.expect(wire.response(), &n.to_string())?;
        }
        case.end(wire)
    });
}

// R-14: those that leave early cost nobody anything.
#[test]
fn clients_that_leave() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect_first_or_later()?;
        let half = number(case.number);
        let half = &half[..case.dice.below(half.len())];
        match case.dice.below(4) {
            0 => {}
            1 => send(&mut wire, half)?,
            2 => send(&mut wire, number(case.number))?,
            _ => send(&mut wire, "GET /slow?ms=20 HTTP/1.1\r\nHost: test\r\n\r\n")?,
        }
        case.pause();
        drop(wire);
        let mut neighbour = case.connect()?;
        case.expect(neighbour.get("/number/1"), "1").map(drop)
    });
}

#[test]
fn clients_that_shut_down_their_side() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect_first_or_later()?;
        let ms = case.dice.below(60);
        let head = format!("GET /slow?ms={ms} HTTP/1.1\r\nHost: test\r\n\r\n");
        send(&mut wire, format!("{head}{}", number(3)))?;
        case.moment();
        wire.shut_down_writing()
            .map_err(|error| error.to_string())?;
        case.pause();
        case.expect(wire.response(), &format!("after {ms} ms"))?;
        case.expect(wire.response(), "3")?;
        case.end(wire)
    });
}

#[test]
fn an_upgrade_that_is_refused() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect()?;
        let asks = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        for n in 0..3 {
            send(
                &mut wire,
                format!("GET /number/{n} HTTP/1.1\r\nHost: test\r\n{asks}\r\n"),
            )?;
            case.pause();
            case.expect(wire.response(), &n.to_string())?;
        }
        goes_on(case, wire)
    });
}

#[test]
fn a_handler_that_panics() {
    must_all_be_good(some(), |case| {
        let mut neighbour = case.connect()?;
        case.expect(neighbour.get("/number/1"), "1")?;
        let mut wire = case.connect_first_or_later()?;
        case.pause();
        match wire.get("/panic") {
            Err(Outcome::Reset) => goes_on(case, neighbour),
            other => Err(format!("{other:?}")),
        }
    });
}

// What a worker has handed back and the primary has not read dies with the primary; everybody else is served until the drain ends.
#[test]
fn a_primary_killed_while_connections_come_back() {
    const CLIENTS: usize = 16;
    let mut dice = Dice::new(1);
    let mut lost = 0;
    let runs = sized(32, 4);
    for _ in 0..runs {
        let server = Server::run("playground")
            .workers(4)
            .env("DRAIN_MS", 2_000)
            .env("LINGER_MS", 1_000)
            .start();
        let running = Load::new(server.addr())
            .clients(CLIENTS)
            .mode(Mode::KeepAlive { think: 2 * MS })
            .until_refused()
            .start();
        server.wait_until("an answer for each", |_| running.done() > 200);
        server.signal(Signal::SIGHUP);
        sleep((60 * MS).mul_f64(dice.roll()));
        server.signal_to(server.pid(), Signal::SIGKILL);
        let killed = running.clock();
        assert!(
            poll_for(Duration::from_secs(20), || {
                server.left().iter().all(|process| process.is_zombie())
            }),
            "left: {:?}",
            server.left()
        );
        let tally = running.wait();
        lost += must_have_served_the_rest(&tally, killed);
    }
    eprintln!(
        "{lost} of {} connections died with the primary",
        runs * CLIENTS
    );
}

fn must_have_served_the_rest(tally: &Tally, killed: Duration) -> u64 {
    tally.must("nothing hangs", tally.count(Outcome::Timeout) == 0);
    tally.must("nothing is cut", tally.count(Outcome::Cut) == 0);
    tally.must(
        "no answer is wrong",
        tally.count(Outcome::BadStatus) + tally.count(Outcome::BadBody) == 0,
    );
    tally.must("they go on", tally.back_after(killed).is_some());
    tally.count_reused(Outcome::Reset) + tally.count_reused(Outcome::WriteError)
}
