//! Keeps the layout: what a module imports stands on its own floor or below, and the two roles never know each other.

use std::{collections::BTreeMap, fs, path::Path};

/// Each top-level module and its floor, as the map in `lib.rs` draws them.
const FLOORS: [(&str, u8); 45] = [
    ("address", 0),
    ("error", 0),
    ("event", 0),
    ("id", 0),
    ("message", 0),
    ("moved", 0),
    ("schedule", 0),
    ("settings", 0),
    ("signal", 0),
    ("wanted", 0),
    ("frame", 1),
    ("pace", 1),
    ("rebalance", 1),
    ("recycling", 1),
    ("scheduler", 1),
    ("supervisor", 1),
    ("birth", 2),
    ("ipc", 2),
    ("listeners", 2),
    ("reactor", 2),
    ("ticks", 2),
    ("scoreboard", 2),
    ("signals", 2),
    ("sockets", 2),
    ("http", 3),
    ("primary", 4),
    ("worker", 4),
    ("binding", 5),
    ("cluster", 5),
    ("events", 5),
    ("extract", 5),
    ("fork", 5),
    ("hooks", 5),
    ("layer", 5),
    ("listen", 5),
    ("running", 5),
    ("server", 5),
    ("service", 5),
    ("single", 5),
    ("start", 5),
    ("upkeep", 5),
    ("times", 5),
    ("udp", 5),
    ("floors", 5),
    ("lib", 5),
];

/// What the pure machines must not know.
const IMPURE: [&str; 6] = [
    "tokio",
    "rustix",
    "nix::",
    "socket2",
    "std::fs",
    "Instant::now",
];

fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
            let module = path.strip_prefix(src).unwrap().components().next().unwrap();
            let module = module
                .as_os_str()
                .to_str()
                .unwrap()
                .trim_end_matches(".rs")
                .to_owned();
            // Tests may look anywhere, and so may comments.
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let code: Vec<_> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            found.push((module, code.join("\n")));
        }
    }
}

/// The top-level modules that a text names as `crate::module` or in `use crate::{module, …}`.
fn imports(code: &str, floors: &BTreeMap<&str, u8>) -> Vec<String> {
    let mut named = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => top_level_names(list),
            None => vec![word(rest)],
        };
        named.extend(
            list.into_iter()
                .filter(|name| floors.contains_key(name.as_str())),
        );
    }
    named
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn top_level_names(list: &str) -> Vec<String> {
    let mut depth = 1;
    let mut names = vec![String::new()];
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(String::new()),
            _ if depth == 1 => names.last_mut().unwrap().push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.iter().map(|name| word(name.trim())).collect()
}

#[test]
fn imports_point_down_the_floors() {
    let floors: BTreeMap<_, _> = FLOORS.into_iter().collect();
    let mut found = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    assert!(found.len() > 40, "the sources were found");
    let mut wrong = Vec::new();
    for (module, code) in &found {
        let Some(floor) = floors.get(module.as_str()) else {
            wrong.push(format!("{module} stands on no floor: add it to the map"));
            continue;
        };
        for import in imports(code, &floors) {
            if floors[import.as_str()] > *floor {
                wrong.push(format!(
                    "{module} (floor {floor}) imports {import} from above"
                ));
            }
            if [("primary", "worker"), ("worker", "primary")]
                .contains(&(module.as_str(), import.as_str()))
            {
                wrong.push(format!(
                    "{module} imports {import}: the roles do not know each other"
                ));
            }
        }
        if *floor == 1 {
            wrong.extend(
                IMPURE
                    .iter()
                    .filter(|what| code.contains(**what))
                    .map(|what| format!("{module} is pure and knows {what}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_test_sees_what_it_should() {
    let floors: BTreeMap<_, _> = FLOORS.into_iter().collect();
    let code = "use crate::{\n    id::{Slot, WorkerId},\n    primary::{Primary, Shared},\n};\nlet x = crate::http::RequestBody;";
    assert_eq!(imports(code, &floors), ["id", "primary", "http"]);
}
