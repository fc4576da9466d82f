//! The command line after `cargo bench --bench node --`.

use crate::{Result, distribution, imbalance, rows::ROWS};

pub(crate) const USAGE: &str = "\
cargo bench --bench node -- [options]

  --only PARTS   rows such as K-2, distribution, imbalance; several with commas
  --quick        fewer steps and connections";

/// What was asked for.
pub(crate) struct Options {
    quick: bool,
    only: Vec<String>,
}

impl Options {
    /// `None`: help was asked for, or nothing at all, as `cargo test --all-targets` does.
    pub(crate) fn parse() -> Result<Option<Self>> {
        let mut options = Self {
            quick: false,
            only: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1).peekable();
        if arguments.peek().is_none() {
            return Ok(None);
        }
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {} // cargo says so
                "--quick" => options.quick = true,
                "--only" => {
                    let parts = arguments.next().ok_or("--only wants a value")?;
                    options.only.extend(parts.split(',').map(str::to_owned));
                }
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {argument}\n\n{USAGE}").into()),
            }
        }
        let mut parts: Vec<_> = ROWS.iter().map(|row| row.id).collect();
        parts.dedup();
        parts.extend([distribution::KEY, imbalance::KEY]);
        match options
            .only
            .iter()
            .find(|only| !parts.contains(&only.as_str()))
        {
            Some(unknown) => {
                Err(format!("--only {unknown}: there are {}", parts.join(", ")).into())
            }
            None => Ok(Some(options)),
        }
    }

    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// The first number, or with `--quick` the second.
    pub(crate) fn sized<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
