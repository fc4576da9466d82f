//! The command line after `cargo bench --bench ratios --`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::Result;

pub(crate) const USAGE: &str = "\
cargo bench --bench ratios -- [options]

  --all              every part: about a quarter of an hour
  --only PART        keep-alive, new-connection, json, body, echo, http2, routes, messages, idle, scale,
                     hand-over, syscalls, memory or boot; several with commas. And `open`, which --all
                     has not unless it is named too: a hundred thousand open connections, some minutes
  --rounds N         rounds, in each of which every server is measured once (5)
  --seconds S        length of one measurement (2)
  --connections N    connections of the client at the same time (64)
  --idle N           idle connections of the parts `idle` and `scale` (10000)
  --installed DIR    where granian and gunicorn were installed, if not on PATH
  --publish DIR      write performance.md and performance.svg there
  --boots N          starts measured by `boot` (20)
  --server PATH      a program in place of the example `hello`
  --other PATH       another build of `hello`, measured beside it
  --servers TEXT     only servers with this in their names; several with semicolons";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) measurement: Duration,
    pub(crate) connections: usize,
    pub(crate) boots: usize,
    pub(crate) idle: usize,
    pub(crate) installed: Option<PathBuf>,
    pub(crate) publish: Option<PathBuf>,
    pub(crate) server: Option<PathBuf>,
    pub(crate) other: Option<PathBuf>,
    pub(crate) servers: Vec<String>,
    all: bool,
    only: Vec<String>,
}

impl Options {
    /// `None`: help was asked for, or nothing at all, as `cargo test --all-targets` does.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Option<Self>> {
        let mut options = Self {
            rounds: 5,
            measurement: Duration::from_secs(2),
            connections: 64,
            boots: 20,
            idle: 10_000,
            installed: None,
            publish: None,
            server: None,
            other: None,
            servers: Vec::new(),
            all: false,
            only: Vec::new(),
        };
        if arguments.is_empty() {
            return Ok(None);
        }
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let argument = argument.to_string_lossy();
            let mut value = || {
                let value = arguments
                    .next()
                    .ok_or_else(|| format!("{argument} wants a value"))?;
                Ok::<_, String>(value.to_string_lossy().into_owned())
            };
            match &*argument {
                "--bench" => {} // cargo says so
                "--help" | "-h" => return Ok(None),
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => {
                    options.measurement = Duration::try_from_secs_f64(value()?.parse()?)?
                }
                "--connections" => options.connections = value()?.parse()?,
                "--all" => options.all = true,
                "--idle" => options.idle = value()?.parse()?,
                "--installed" => options.installed = Some(std::path::absolute(value()?)?),
                "--publish" => options.publish = Some(std::path::absolute(value()?)?),
                "--boots" => options.boots = value()?.parse()?,
                "--server" => options.server = Some(std::path::absolute(value()?)?),
                "--other" => options.other = Some(std::path::absolute(value()?)?),
                "--servers" => options
                    .servers
                    .extend(value()?.split(';').map(str::to_owned)),
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                _ => return Err(format!("unknown argument {argument}\n\n{USAGE}").into()),
            }
        }
        if options.rounds == 0
            || options.connections == 0
            || options.boots == 0
            || options.measurement.is_zero()
        {
            return Err("rounds, seconds, connections and boots must be more than 0".into());
        }
        if let Some(unknown) = options
            .only
            .iter()
            .find(|part| !parts().any(|known| known == part.as_str()))
        {
            return Err(format!(
                "--only {unknown}: there are {}",
                parts().collect::<Vec<_>>().join(", ")
            )
            .into());
        }
        Ok(Some(options))
    }

    pub(crate) fn wants(&self, part: &str) -> bool {
        self.all || self.only.is_empty() || self.names(part)
    }

    /// Whether it was asked for by its name.
    pub(crate) fn names(&self, part: &str) -> bool {
        self.only.iter().any(|only| only == part)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            connections,
            ..
        } = self;
        let seconds = self.measurement.as_secs_f64();
        write!(
            f,
            "{rounds} rounds of {seconds} s a server, {connections} connections, one client thread, all on loopback; Rust servers built with \
             fat LTO and one codegen unit"
        )?;
        match &self.server {
            Some(path) => write!(f, ", {} in place of hello", path.display()),
            None => Ok(()),
        }
    }
}

fn parts() -> impl Iterator<Item = &'static str> {
    let others = [
        crate::hand_over::KEY,
        crate::open::KEY,
        crate::syscalls::KEY,
        crate::memory::KEY,
        crate::boot::KEY,
    ];
    crate::workloads::KEYS.into_iter().chain(others)
}
