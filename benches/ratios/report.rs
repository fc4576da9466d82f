//! What the bench says: printed as it comes, and kept for the files that `--publish` writes.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use crate::table::Table;
use crate::{Result, chart};

/// The cost of a request, of one server in one workload.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) workload: &'static str,
    pub(crate) server: &'static str,
    pub(crate) cost_us: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    text: String,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn say(&mut self, what: impl Display) {
        println!("{what}");
        self.text.push_str(&format!("{what}\n"));
    }

    pub(crate) fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// One row a server, one column a workload: what a request costs.
    pub(crate) fn say_overview(&mut self) {
        let workloads = self.distinct(|figure| figure.workload);
        if workloads.len() < 2 {
            return;
        }
        let first = ["CPU µs a request"];
        let mut table = Table::new(first.into_iter().chain(workloads.iter().copied()));
        for server in self.distinct(|figure| figure.server) {
            let cell = |workload: &&str| {
                let found = self
                    .figures
                    .iter()
                    .find(|figure| figure.server == server && figure.workload == *workload);
                found.map_or_else(String::new, |figure| format!("{:.1}", figure.cost_us))
            };
            let mut row = vec![server.to_owned()];
            row.extend(workloads.iter().map(cell));
            table.row(row);
        }
        self.say(format_args!(
            "\n## Overview\n\nMedians, of all processes of a server.\n\n{table}"
        ));
    }

    fn distinct(&self, part: fn(&Figure) -> &'static str) -> Vec<&'static str> {
        let mut seen = Vec::new();
        for figure in &self.figures {
            if !seen.contains(&part(figure)) {
                seen.push(part(figure));
            }
        }
        seen
    }

    /// Writes everything that was said, and the chart.
    pub(crate) fn publish(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join("performance.md"), &self.text)?;
        fs::write(folder.join("performance.svg"), chart::draw(&self.figures))?;
        Ok(())
    }
}
