//! Workers that are replaced under load: K-2, K-3.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Result,
    options::Options,
    rows::Figure,
    server::{Recipe, Whose},
    tests_client::{Load, Mode, Wire},
};

const CLIENTS: usize = 20;
/// From one replacement to the next, unless one takes longer.
const EVERY: Duration = Duration::from_millis(120);
const THINK: Duration = Duration::from_millis(5);

pub(crate) fn replaced(
    whose: Whose,
    options: &Options,
    policy: &'static str,
    keep: bool,
) -> Result<Figure> {
    let steps = options.sized(20, 5);
    let mut server = Recipe::new(whose, policy, 2).start()?;
    let mut load = Load::new(server.address).clients(CLIENTS);
    if keep {
        load = load.mode(Mode::KeepAlive { think: THINK });
    }
    let load = load.start();
    sleep(EVERY);
    for _ in 0..steps {
        let next = Instant::now() + EVERY;
        server.order("replace")?;
        server.wait_for("replaced", Duration::from_secs(10))?;
        sleep(next.saturating_duration_since(Instant::now()));
    }
    let tally = load.stop();
    let failed = tally.failed() as u32;
    if tally.ok() == 0 {
        return Err(format!("nothing was answered: {tally}").into());
    }
    Ok(Figure::new(
        failed,
        format!("{failed} of {} failed in {steps} steps", tally.sent()),
    ))
}

pub(crate) fn drained(whose: Whose, _: &Options) -> Result<Figure> {
    let most = Duration::from_secs(2);
    let mut server = Recipe::new(whose, "rr", 2).start()?;
    let failed = |outcome| format!("a request failed: {outcome:?}");
    let mut wire = Wire::to(server.address).map_err(failed)?;
    let id = wire.get("/").map_err(failed)?.number("x-worker");
    server.order(&format!("disconnect {id}"))?;
    server.wait_for("told", most)?;
    let begun = Instant::now();
    let mut more = 0_u32;
    let ended = loop {
        let answer = wire.get("/slow?ms=5");
        if answer
            .as_ref()
            .is_ok_and(|answer| answer.number("x-worker") == id)
        {
            more += 1;
        }
        if answer.map_or(true, |answer| answer.closes) {
            wire = Wire::to(server.address).map_err(failed)?;
        }
        if server.said(&format!("exit {id} ")).is_some() {
            break format!("it ends after {:.0?}", begun.elapsed());
        }
        if begun.elapsed() > most {
            break format!("not ended after {most:?}");
        }
    };
    Ok(Figure::new(more, format!("{more} requests more, {ended}")))
}
