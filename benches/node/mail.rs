//! Messages: K-14, K-15, K-17.

use std::time::Duration;

use crate::{
    Result,
    options::Options,
    procfs::CpuTimes,
    rows::Figure,
    server::{Recipe, Whose},
    tests_client::{Load, Mode},
};

const SOON: Duration = Duration::from_secs(5);

pub(crate) fn early(whose: Whose, _: &Options) -> Result<Figure> {
    let mut server = Recipe::new(whose, "rr", 1).env(&[("EARLY", "1")]).start()?;
    let heard: u32 = server.wait_for("heard ", SOON)?.parse()?;
    Ok(Figure::new(
        10_u32.abs_diff(heard),
        format!("{heard} arrive"),
    ))
}

pub(crate) fn last_words(whose: Whose, _: &Options, how: &str) -> Result<Figure> {
    let mut server = Recipe::new(whose, "rr", 1).start()?;
    server.order(&format!("tell 1 last-words {how}"))?;
    let ended = server.wait_for("exit 1 ", SOON)?;
    let arrived: u32 = ended.rsplit(' ').next().unwrap_or_default().parse()?;
    Ok(Figure::new(
        3_u32.abs_diff(arrived),
        format!("{arrived} arrive"),
    ))
}

pub(crate) fn notices(whose: Whose, options: &Options) -> Result<Figure> {
    let mut server = Recipe::new(whose, "rr", 2).start()?;
    let primary = [server.primary()];
    let before = CpuTimes::read(&primary)?;
    let time = options.sized(Duration::from_secs(3), Duration::from_secs(1));
    let keep = Mode::KeepAlive {
        think: Duration::ZERO,
    };
    let tally = Load::new(server.address)
        .clients(16)
        .mode(keep)
        .get("/notify")
        .time(time)
        .run();
    let used = CpuTimes::read(&primary)?.since(&before);
    if tally.failed() > 0 {
        return Err(tally.to_string().into());
    }
    std::thread::sleep(Duration::from_millis(200));
    server.order("notices")?;
    let arrived: u64 = server.wait_for("notices ", SOON)?.parse()?;
    let each = used.time.as_secs_f64() * 1e6 / tally.ok() as f64;
    let lost = tally.ok().abs_diff(arrived);
    let bad = if lost == 0 { each } else { f64::INFINITY };
    Ok(Figure::new(
        bad,
        format!("{each:.1} µs each, {lost} of {} lost", tally.ok()),
    ))
}
