//! Medians, ratios, and Markdown tables.

use std::fmt;

/// One figure, measured several times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// NaN when there is nothing.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// This by the other, round by round.
    pub(crate) fn per_round(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(mine, theirs)| mine / theirs)
                .collect(),
        )
    }

    pub(crate) fn spread(&self) -> String {
        format!(
            "{:.1} ({:.1} to {:.1})",
            self.median(),
            self.min(),
            self.max()
        )
    }
}

/// A ratio that is shown, and what it should be.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) of: &'static str,
    pub(crate) against: &'static str,
    target: Option<Target>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Comparison {
    pub(crate) fn new(of: &'static str, against: &'static str) -> Self {
        Self {
            of,
            against,
            target: None,
        }
    }

    pub(crate) fn target(self, target: Target) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }
}

impl Target {
    fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit:.2}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit:.2}"),
        }
    }
}

/// A Markdown table whose columns line up. The first is aligned left, the others right.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    pub(crate) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }
}

impl Table<5> {
    /// A row of the table of ratios.
    pub(crate) fn ratio(&mut self, comparison: &Comparison, ratios: &Series) {
        let median = ratios.median();
        let met = comparison.target.map_or("", |target| {
            if target.met(median) {
                "met"
            } else {
                "**missed**"
            }
        });
        self.row([
            format!("{} / {}", comparison.of, comparison.against),
            format!("{median:.2}"),
            format!("{:.2} to {:.2}", ratios.min(), ratios.max()),
            comparison
                .target
                .map_or_else(String::new, |target| target.to_string()),
            met.to_owned(),
        ]);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        for (index, row) in self.rows.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                if column == 0 {
                    write!(f, "| {cell:<width$} |")?
                } else {
                    write!(f, " {cell:>width$} |")?
                }
            }
            writeln!(f)?;
            if index == 0 {
                for column in 0..N {
                    let dashes = "-".repeat(width(column) - 1);
                    if column == 0 {
                        write!(f, "| {dashes}- |")?
                    } else {
                        write!(f, " {dashes}: |")?
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
