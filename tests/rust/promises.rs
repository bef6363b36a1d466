//! Every promise has a test that names it: by its id in the name of the test, or in the words of what it checks.

use std::fs;
use std::path::Path;

const PROMISES: [&str; 41] = [
    "D1", "D2", "D3", "D4", "D5", "L1", "L2", "L3", "L4", "L5", "L6", "J1", "J2", "J3", "J4", "J5", "J6", "J7", "J8",
    "J9", "J10", "J11", "J12", "J13", "J14", "K1", "K2", "K3", "K4", "T1", "T2", "A1", "A2", "A3", "A4", "C1", "C2",
    "C3", "C4", "U3", "U4",
];

/// The words of all tests below a directory, and those of what they check.
fn words(dir: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a directory of the tests").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            words(&entry, into);
        } else if entry.extension().is_some_and(|end| end == "rs" || end == "py") && !entry.ends_with("promises.rs") {
            let text = fs::read_to_string(&entry).expect("a source is text");
            into.extend(text.split(|letter: char| !letter.is_alphanumeric()).map(str::to_uppercase));
        }
    }
}

#[test]
fn every_promise_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    words(&root.join("tests"), &mut found);
    let is_named = |id: &&&str| found.iter().any(|word| word == **id);
    let missing: Vec<&&str> = PROMISES.iter().filter(|id| !is_named(id)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
}
