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

    /// Where the median of all rounds that could have been lies, by the order of those that were: with at least 95 % of
    /// certainty, whatever their distribution.
    pub(crate) fn interval(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len();
        // The largest rank at which no more than 2.5 % of binomial(n, 1/2) lie below.
        let (mut probability, mut below, mut rank) = (0.5_f64.powi(n as i32), 0.0, 0);
        while below + probability <= 0.025 {
            below += probability;
            probability *= (n - rank) as f64 / (rank + 1) as f64;
            rank += 1;
        }
        if rank == 0 {
            return String::new();
        }
        format!("{:.2} to {:.2}", sorted[rank - 1], sorted[n - rank])
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
    pub(crate) target: Option<Target>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(crate) fn verdict(self, figure: f64) -> &'static str {
        let met = match self {
            Self::AtMost(limit) => figure <= limit,
            Self::AtLeast(limit) => figure >= limit,
        };
        if met { "met" } else { "**missed**" }
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
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(head);
        table
    }

    /// As many cells as the head has.
    pub(crate) fn row<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// A row of the table of ratios.
    pub(crate) fn ratio(&mut self, comparison: &Comparison, ratios: &Series) {
        let median = ratios.median();
        let met = comparison
            .target
            .map_or("", |target| target.verdict(median));
        let target = comparison.target.map(|target| target.to_string());
        self.row([
            format!("{} / {}", comparison.of, comparison.against),
            format!("{median:.2}"),
            ratios.interval(),
            format!("{:.2} to {:.2}", ratios.min(), ratios.max()),
            target.unwrap_or_default(),
            met.to_owned(),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        for (index, row) in self.rows.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                if column == 0 {
                    write!(f, "| {cell:<width$} |")?;
                } else {
                    write!(f, " {cell:>width$} |")?;
                }
            }
            writeln!(f)?;
            if index == 0 {
                for column in 0..row.len() {
                    let dashes = "-".repeat(width(column) - 1);
                    if column == 0 {
                        write!(f, "| {dashes}- |")?;
                    } else {
                        write!(f, " {dashes}: |")?;
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
