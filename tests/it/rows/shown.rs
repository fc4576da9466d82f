//! Reads the list of rows, and the sources for the tests that name them.

use std::{fs, path::Path};

/// A row of the list.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub about: String,
    /// Why it has no meaning in Rust.
    pub without: Option<String>,
}

/// A test, and the rows that the comment directly above it names.
#[derive(Clone, Debug)]
pub struct Test {
    /// As `cargo test` has it.
    pub path: String,
    /// In the library; otherwise in `it`.
    #[allow(dead_code, reason = "for the table")]
    pub unit: bool,
    pub rows: Vec<String>,
}

/// Every row there is.
pub fn rows() -> Vec<Row> {
    let lines = include_str!("rows.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut parts = line.split(" | ").map(str::to_owned);
            Row {
                id: parts.next().unwrap_or_default(),
                about: parts.next().unwrap_or_default(),
                without: parts.next(),
            }
        })
        .collect()
}

/// Every test of the library and of `it` that names a row.
pub fn tests() -> Vec<Test> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = Vec::new();
    for (directory, unit) in [("src", true), ("tests/it", false)] {
        let root = root.join(directory);
        sources(&root, &mut |file| {
            let text = fs::read_to_string(file).unwrap();
            let module = module(file.strip_prefix(&root).unwrap());
            let module = match unit && text.contains("\nmod tests {") {
                true => format!("{module}::tests"),
                false => module,
            };
            named(&text, &mut |name, rows| {
                let path = format!("{module}::{name}");
                tests.push(Test { path, unit, rows });
            });
        });
    }
    tests
}

fn sources(directory: &Path, each: &mut impl FnMut(&Path)) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path);
        }
    }
}

/// `ipc/outbox.rs` is `ipc::outbox`.
fn module(file: &Path) -> String {
    let file = file.with_extension("");
    let mut parts: Vec<_> = file.iter().filter_map(|part| part.to_str()).collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts.join("::")
}

/// Calls back with each test that names rows.
fn named(text: &str, each: &mut impl FnMut(&str, Vec<String>)) {
    let mut comment = String::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(words) = line.strip_prefix("// ") {
            comment.push_str(words);
            comment.push(' ');
            continue;
        }
        let rows = ids(&comment);
        comment.clear();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let declared = lines.by_ref().find_map(|line| line.split_once("fn "));
            let name = declared.and_then(|(_, rest)| rest.split('(').next());
            if let (Some(name), false) = (name, rows.is_empty()) {
                each(name, rows);
            }
        }
    }
}

/// The rows that a text names: `X-10`, or `X-10 to X-13`.
pub fn ids(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut range = None;
    for word in text.split_whitespace() {
        if word == "to" {
            range = found.last().cloned();
            continue;
        }
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        let Some((kind, number)) = id(word) else {
            range = None;
            continue;
        };
        let first = range.take().and_then(|first: String| id(&first));
        let first = first.filter(|&(other, _)| other == kind);
        let first = first.map_or(number, |(_, first)| first + 1);
        found.extend((first..=number).map(|n| format!("{kind}-{n}")));
    }
    found
}

fn id(word: &str) -> Option<(char, u32)> {
    let (kind, number) = word.split_once('-')?;
    let kind = kind
        .parse()
        .ok()
        .filter(|kind| "NCEWXSILRK".contains(*kind))?;
    Some((kind, number.parse().ok()?))
}
