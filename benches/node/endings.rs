//! Workers that end: K-1, K-4, K-5, K-6.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    Result,
    options::Options,
    rows::Figure,
    server::{Recipe, Server, Whose, descriptors, signal},
    tests_client::{Outcome, Source, Target, Wire},
};

const SOON: Duration = Duration::from_secs(5);

/// A request that is answered later, on a thread of its own.
pub(crate) fn ask(
    server: &Server,
    path: &str,
    within: Duration,
) -> thread::JoinHandle<std::result::Result<u64, Outcome>> {
    let (target, path) = (Target::Tcp(server.address), path.to_owned());
    thread::spawn(move || {
        let mut wire = Wire::connect(&target, Source::ANY, Instant::now() + within)?;
        wire.send(
            format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        Ok(wire.response()?.number("x-worker"))
    })
}

fn outcome(asked: thread::JoinHandle<std::result::Result<u64, Outcome>>) -> Outcome {
    match asked.join() {
        Ok(Ok(_)) => Outcome::Ok,
        Ok(Err(outcome)) => outcome,
        Err(_) => Outcome::BadBody,
    }
}

pub(crate) fn stopped_and_killed(whose: Whose, options: &Options) -> Result<Figure> {
    let mut server = Recipe::new(whose, "rr", 2).start()?;
    for _ in 0..20 {
        outcome(ask(&server, "/", SOON));
    }
    thread::sleep(Duration::from_millis(200));
    let rounds = options.sized(3, 1);
    let (mut hung, mut failed, mut missing) = (0, 0, 0);
    let before = descriptors(server.primary())?;
    for round in 1..=rounds {
        let victim = server.worker(round)?;
        signal(victim, Signal::STOP)?;
        let asked: Vec<_> = (0..10)
            .map(|_| ask(&server, "/", Duration::from_secs(3)))
            .collect();
        thread::sleep(Duration::from_millis(50));
        server.order("fork")?;
        signal(victim, Signal::KILL)?;
        for asked in asked {
            match outcome(asked) {
                Outcome::Ok => {}
                Outcome::Timeout => hung += 1,
                _ => failed += 1,
            }
        }
        server.wait_for(&format!("listening {} ", round + 2), SOON)?;
        for event in ["disconnect", "exit"] {
            missing += i32::from(server.said(&format!("{event} {round}")).is_none());
        }
    }
    thread::sleep(Duration::from_millis(200));
    let leaked = descriptors(server.primary())?.saturating_sub(before);
    let text = format!(
        "of {} clients {hung} hang, {failed} fail; {leaked} descriptors leaked; {missing} events missing",
        rounds * 10
    );
    Ok(Figure::new(hung + failed + missing + leaked as i32, text))
}

pub(crate) fn all_told(whose: Whose, _: &Options) -> Result<Figure> {
    let mut server = Recipe::new(whose, "rr", 3).start()?;
    let asked: Vec<_> = ["/slow?ms=1", "/slow?ms=600", "/slow?ms=1200"]
        .into_iter()
        .map(|path| {
            let asked = ask(&server, path, SOON);
            thread::sleep(Duration::from_millis(50));
            asked
        })
        .collect();
    server.order("disconnect-all")?;
    server.wait_for("all disconnected", SOON)?;
    let primary = server.primary();
    let alive = server
        .living()
        .into_iter()
        .filter(|&pid| pid != primary)
        .count();
    let failed = asked
        .into_iter()
        .map(outcome)
        .filter(|&outcome| outcome != Outcome::Ok)
        .count();
    Ok(Figure::new(
        (alive + failed) as u32,
        format!("{alive} of 3; {failed} requests cut"),
    ))
}

pub(crate) fn told_twice(whose: Whose, _: &Options) -> Result<Figure> {
    let mut server = Recipe::new(whose, "rr", 2).start()?;
    let asked: Vec<_> = (0..2).map(|_| ask(&server, "/slow?ms=600", SOON)).collect();
    thread::sleep(Duration::from_millis(200));
    server.order("disconnect-twice 1")?;
    let ended = server.wait_for("exit 1 ", SOON)?;
    let mut words = ended.split(' ');
    let code = words.next().unwrap_or_default().to_owned();
    let cut = asked
        .into_iter()
        .map(outcome)
        .filter(|&outcome| outcome != Outcome::Ok)
        .count();
    let bad = cut as u32 + u32::from(code != "0");
    Ok(Figure::new(
        bad,
        format!("exit code {code}, {cut} of 2 requests cut"),
    ))
}

pub(crate) fn sent_to_the_dead(whose: Whose, _: &Options) -> Result<Figure> {
    let mut server = Recipe::new(whose, "rr", 2).start()?;
    server.order("send-dead 1")?;
    let sent = server.wait_for("sent ", Duration::from_secs(1));
    thread::sleep(Duration::from_millis(200));
    if server.lives() && outcome(ask(&server, "/", SOON)) == Outcome::Ok {
        let sent = sent.unwrap_or_else(|_| "nothing".into());
        Ok(Figure::new(0, format!("`{sent}`; the primary goes on")))
    } else {
        Ok(Figure::new(1, "the primary crashes"))
    }
}
