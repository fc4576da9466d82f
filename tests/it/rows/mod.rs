//! Every row of what Node's cluster does, and the tests that name it in a comment directly above them.

mod shown;

pub use shown::{Row, Test, rows, tests};

use std::collections::BTreeMap;

/// Each row by its id, with the tests that name it; and what does not add up.
pub fn table() -> (Vec<(Row, Vec<Test>)>, Vec<String>) {
    let mut wrong = Vec::new();
    let rows = rows();
    let mut by_id: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for test in tests() {
        for id in test.rows.clone() {
            if !rows.iter().any(|row| row.id == id) {
                wrong.push(format!("{} names {id}, which is no row", test.path));
            }
            by_id.entry(id).or_default().push(test.clone());
        }
    }
    let table = rows.into_iter().map(|row| {
        let tests = by_id.remove(&row.id).unwrap_or_default();
        match (&row.without, tests.is_empty()) {
            (None, true) => wrong.push(format!("{} ({}): no test shows it", row.id, row.about)),
            (Some(_), false) => wrong.push(format!("{} has a test, and a reason not to", row.id)),
            _ => {}
        }
        (row, tests)
    });
    (table.collect(), wrong)
}

#[test]
fn every_row_is_shown_or_has_its_reason() {
    let (table, wrong) = table();
    assert!(table.len() > 150, "the list was read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn ranges_lists_and_words_are_read_as_they_are_meant() {
    assert_eq!(
        shown::ids("T9, X-1 to X-3 and C-14; K-5: as X-10x or ISO-8859 says (W-2)."),
        ["X-1", "X-2", "X-3", "C-14", "K-5", "W-2"]
    );
}
