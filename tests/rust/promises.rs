//! Every promise has a test that says in its name which one it holds: `k4_...` in Rust, `test_k4_...` in Python. Words in
//! comments count for nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PROMISES: [&str; 43] = [
    "D1", "D2", "D3", "D4", "D5", "L1", "L2", "L3", "L4", "L5", "L6", "J1", "J2", "J3", "J4", "J5", "J6", "J7", "J8",
    "J9", "J10", "J11", "J12", "J13", "J14", "K1", "K2", "K3", "K4", "T1", "T2", "A1", "A2", "A3", "A4", "C1", "C2",
    "C3", "C4", "U1", "U2", "U3", "U4",
];
/// Where tests are: beside these, those of parts inside of the core, and those of every storage.
const TESTS: [&str; 3] = ["tests", "src", "python/raftwork/testing/conformance"];

/// The names of all test functions below a directory.
fn names(dir: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a directory of the tests").map(|entry| entry.expect("an entry").path()) {
        let text = || fs::read_to_string(&entry).expect("a source is text");
        match entry.extension().and_then(|end| end.to_str()) {
            _ if entry.is_dir() => names(&entry, into),
            Some("rs") => into.extend(rust(&text())),
            Some("py") => into.extend(python(&text())),
            _ => {}
        }
    }
}

/// The functions behind `#[test]`, with other attributes in between.
fn rust(text: &str) -> Vec<String> {
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    while lines.any(|line| line == "#[test]") {
        let begin = lines.find(|line| !line.starts_with(['#', '/'])).unwrap_or_default();
        found.extend(begin.split_once("fn ").and_then(|(_, rest)| name(rest)));
    }
    found
}

fn python(text: &str) -> Vec<String> {
    let functions = text.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("async ").unwrap_or(line).strip_prefix("def test_")
    });
    functions.filter_map(name).collect()
}

fn name(rest: &str) -> Option<String> {
    rest.split_once('(').map(|(name, _)| name.to_owned())
}

/// The parts of a name between underscores, as ids of promises are written.
fn promised(names: &[String]) -> BTreeSet<String> {
    names.iter().flat_map(|name| name.split('_')).map(str::to_uppercase).collect()
}

#[test]
fn every_promise_is_held_by_a_test_that_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    TESTS.iter().for_each(|dir| names(&root.join(dir), &mut found));
    let promised = promised(&found);
    let missing: Vec<&&str> = PROMISES.iter().filter(|id| !promised.contains(**id)).collect();
    assert!(missing.is_empty(), "no test has {missing:?} in its name, of {} tests", found.len());
}

#[test]
fn only_names_of_tests_count() {
    let source = "// K4: k4_comment()\nfn k4_helper() {}\n/// K4\n#[test]\n#[cfg(unix)]\npub fn k1_k2_holds() {}\n";
    assert_eq!(rust(source), ["k1_k2_holds"]);
    let source =
        "\"\"\"K4: k4_words\"\"\"\ndef k4_helper():\n    def test_k1_inside(self): ...\nasync def test_l1_a(): ...\n";
    assert_eq!(python(source), ["k1_inside", "l1_a"]);
    assert_eq!(promised(&["k1_k10_a".into()]), BTreeSet::from(["A", "K1", "K10"].map(String::from)));
}
