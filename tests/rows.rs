//! Runs every test that shows a row of what Node's cluster does, and prints the table: `cargo test --test rows`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::exit,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub
)]

#[path = "it/rows/mod.rs"]
mod rows;

use std::{collections::BTreeMap, process::Command};

use rows::Test;

/// Whether each test of this half passed, by its path. `cargo` builds what is not built yet.
fn run(target: &[&str], tests: &[&Test]) -> BTreeMap<String, bool> {
    let mut command = Command::new(env!("CARGO"));
    command.arg("test").args(target).arg("--").arg("--exact");
    command.args(tests.iter().map(|test| &test.path));
    let output = command.output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "))
        .map(|(name, verdict)| (name.to_owned(), verdict.starts_with("ok")))
        .collect()
}

fn main() {
    let (table, wrong) = rows::table();
    let mut all: Vec<&Test> = table.iter().flat_map(|(_, tests)| tests).collect();
    all.sort_by_key(|test| &test.path);
    all.dedup_by_key(|test| &test.path);
    let (unit, it): (Vec<&Test>, Vec<_>) = all.iter().partition(|test| test.unit);
    let mut passed = run(&["--lib"], &unit);
    // Some of the tests run them.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--examples"])
        .status();
    assert!(built.unwrap().success());
    passed.extend(run(&["--test", "it"], &it));

    println!("| row | about | shown by | |\n|---|---|---|---|");
    let mut failed = wrong.len();
    for (row, tests) in table.iter().filter(|(row, _)| row.without.is_none()) {
        let paths: Vec<_> = tests
            .iter()
            .map(|test| format!("`{}`", test.path))
            .collect();
        let ok = |test: &Test| passed.get(&test.path) == Some(&true);
        let good = !tests.is_empty() && tests.iter().all(ok);
        failed += usize::from(!good);
        let verdict = if good { "passed" } else { "FAILED" };
        println!(
            "| {} | {} | {} | {verdict} |",
            row.id,
            row.about,
            paths.join(", ")
        );
    }
    println!("\n| row without a meaning in Rust | about | reason |\n|---|---|---|");
    for (row, _) in &table {
        if let Some(reason) = &row.without {
            println!("| {} | {} | {reason} |", row.id, row.about);
        }
    }
    let without = table
        .iter()
        .filter(|(row, _)| row.without.is_some())
        .count();
    println!(
        "\n{} rows: {} shown by {} tests, {without} without a meaning in Rust; {failed} failed.",
        table.len(),
        table.len() - without,
        all.len()
    );
    for problem in &wrong {
        println!("{problem}");
    }
    for test in all
        .iter()
        .filter(|test| passed.get(&test.path) != Some(&true))
    {
        println!("`{}` did not pass", test.path);
    }
    if failed > 0 {
        std::process::exit(1);
    }
}
