//! Style that matters, as tests with a clear message: layers, lengths, forbidden calls.
//!
//! The sources are read as text with comments and literals blanked out (`blank`), which is enough to see `crate::`
//! paths, braces and calls, and needs no parser. Lines keep their numbers, so a message points at the place.

mod scan;

use scan::{blank, contains_word, functions, line_of, names_after, without_test_modules};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// A call that is wrong in some layers, and what to use in its place.
struct Forbidden {
    call: &'static str,
    layers: &'static [&'static str],
    instead: &'static str,
}

/// Where a call is right all the same, and why.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("src/machine/filter.rs", "f64", "only reads: a filter compares with what arguments hold, and changes no state")];

const EVERYWHERE: &[&str] = &[
    "base",
    "disk",
    "net",
    "machine",
    "consensus",
    "archive",
    "wal",
    "snapshot",
    "replica",
    "node",
    "attach",
    "client",
    "py",
];
/// Layers that are functions of their input: time and bytes come in, actions and bytes go out.
const PURE: &[&str] = &["machine", "consensus"];
/// Layers that reach the disk through `disk::Disk` only, so that the fake disk can cut the power under them.
const THROUGH_DISK: &[&str] = &["machine", "consensus", "wal", "snapshot", "replica"];
/// Layers that are told the time.
const TOLD_THE_TIME: &[&str] = &["machine", "consensus", "wal", "snapshot", "replica", "archive"];

const FORBIDDEN: &[Forbidden] = &[
    Forbidden { call: ".unwrap()", layers: EVERYWHERE, instead: "`?`, or expect() that states the invariant" },
    Forbidden { call: "todo!", layers: EVERYWHERE, instead: "an error that says what cannot be done" },
    Forbidden { call: "unimplemented!", layers: EVERYWHERE, instead: "an error that says what cannot be done" },
    Forbidden { call: "dbg!", layers: EVERYWHERE, instead: "the `log` crate" },
    Forbidden { call: "println!", layers: EVERYWHERE, instead: "the `log` crate: output belongs to the user" },
    Forbidden { call: "process::exit", layers: EVERYWHERE, instead: "an error: the process belongs to the user" },
    Forbidden { call: "thread::sleep", layers: EVERYWHERE, instead: "a condition variable or a poll with a deadline" },
    Forbidden { call: "static mut", layers: EVERYWHERE, instead: "a lock or an atomic" },
    Forbidden { call: "SystemTime", layers: TOLD_THE_TIME, instead: "the time that the caller hands in" },
    Forbidden { call: "Instant::now", layers: TOLD_THE_TIME, instead: "the time that the caller hands in" },
    Forbidden { call: "std::fs", layers: THROUGH_DISK, instead: "disk::Disk, which the fake disk stands in for" },
    Forbidden { call: "std::thread", layers: PURE, instead: "nothing: this layer has no threads" },
    Forbidden { call: "std::net", layers: PURE, instead: "nothing: this layer has no network" },
    Forbidden { call: "f64", layers: &["machine"], instead: "whole numbers: floats differ by machine" },
];

struct Source {
    path: PathBuf,
    layer: String,
    /// How many `super` lead from this file's module to the crate root.
    depth: usize,
    /// With comments and literals blanked.
    code: String,
}

#[test]
fn modules_use_only_the_layers_below() {
    let allowed = allowed_edges();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(below) = allowed.get(&source.layer) else {
            wrong.push(format!("{}: layer `{}` is not in tests/layers.toml", show(&source.path), source.layer));
            continue;
        };
        for (line, used) in used_layers(&source, &allowed) {
            if used != source.layer && !below.contains(&used) {
                let (path, layer) = (show(&source.path), &source.layer);
                wrong.push(format!("{path}:{line}: `{layer}` may not use `{used}` (tests/layers.toml)"));
            }
        }
    }
    report("Layers point one way", wrong);
}

#[test]
fn allowed_edges_have_no_cycle() {
    let mut left = allowed_edges();
    while !left.is_empty() {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, below| below.iter().any(|name| names.contains(name)));
        assert!(left.len() < before, "tests/layers.toml has a cycle among {names:?}");
    }
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for path in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        let lines = read(&path).lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines; split it by subject", show(&path)));
        }
    }
    report("A file has at most 500 lines", wrong);
}

#[test]
fn functions_stay_short() {
    let mut wrong = Vec::new();
    for path in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        for (name, line, lines) in functions(&blank(&read(&path))) {
            if lines > FUNCTION_LINES_MAX {
                wrong.push(format!("{}:{line}: fn {name} has {lines} lines", show(&path)));
            }
        }
    }
    report("A function has at most 70 lines", wrong);
}

#[test]
fn forbidden_calls_are_absent() {
    let mut wrong = Vec::new();
    for source in sources() {
        let code = without_test_modules(&source.code);
        for rule in FORBIDDEN.iter().filter(|rule| rule.layers.contains(&source.layer.as_str())) {
            if is_exception(&source.path, rule.call) {
                continue;
            }
            for (number, _) in code.lines().enumerate().filter(|(_, line)| contains_word(line, rule.call)) {
                let place = format!("{}:{}", show(&source.path), number + 1);
                wrong.push(format!("{place}: `{}`; use {}", rule.call, rule.instead));
            }
        }
    }
    report("Forbidden calls", wrong);
}

#[test]
fn tests_do_not_sleep() {
    let mut wrong = Vec::new();
    for path in rust_files("src").into_iter().chain(rust_files("tests")) {
        for (number, line) in blank(&read(&path)).lines().enumerate() {
            if line.contains("thread::sleep") && !is_exception(&path, "thread::sleep") {
                wrong.push(format!("{}:{}: wait for a signal with a deadline", show(&path), number + 1));
            }
        }
    }
    report("No sleep is a synchronisation", wrong);
}

#[test]
fn every_file_is_part_of_the_crate() {
    let mut wrong = Vec::new();
    for path in rust_files("src").into_iter().chain(rust_files("tests/rust")) {
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("source files have UTF-8 names").to_owned();
        let folder = path.parent().expect("a source file is in a folder").to_path_buf();
        let (module, parents) = match name.as_str() {
            "lib" | "main" => continue,
            "mod" => {
                let up = folder.parent().expect("a module folder is in a folder").to_path_buf();
                (folder.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned(), roots_of(&up))
            }
            _ => (name, roots_of(&folder)),
        };
        let declared = parents.iter().filter(|path| path.exists()).any(|parent| {
            let code = blank(&read(parent));
            code.lines().any(|line| line.trim_end().ends_with(&format!("mod {module};")))
        });
        if !declared {
            wrong.push(format!("{}: no `mod {module};` names it", show(&path)));
        }
    }
    report("No dead file", wrong);
}

#[test]
fn scanner_reads_what_the_checks_rely_on() {
    let text =
        "fn a() { let x = '{'; let y = \"}\\\"{\"; /* { /* nested */ */ } // fn b() {\nfn c<'a>(z: &'a str) {\n}\n";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(functions(&code), [("a".to_owned(), 1, 1), ("c".to_owned(), 2, 2)]);
    assert_eq!(blank("r#\"fn \"b\" {\"# x").trim_start(), "x");
    let tests = "fn a() {}\n#[cfg(test)]\nmod tests {\n  x.unwrap()\n}\nfn b() {}\n";
    assert!(!without_test_modules(tests).contains("unwrap"));
    assert!(without_test_modules(tests).contains("fn b()"));
    let layers = BTreeMap::from([("base".to_owned(), vec![]), ("disk".to_owned(), vec![]), ("wal".to_owned(), vec![])]);
    let code = "use crate::{base::{ids, disk}, disk};\nuse super::super::wal::x; use super::disk;".to_owned();
    let source = Source { path: PathBuf::new(), layer: "node".to_owned(), depth: 2, code };
    let used: Vec<_> = used_layers(&source, &layers).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(used, ["1 base", "1 disk", "2 wal"]);
}

fn is_exception(path: &Path, call: &str) -> bool {
    EXCEPTIONS.iter().any(|(file, allowed, _)| show(path) == *file && call == *allowed)
}

fn report(rule: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{rule}; {} place(s) break it:\n{}\n", wrong.len(), wrong.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a folder of the repository, sorted.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(folder)];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a folder of the repository is readable").path()) {
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The files that may declare modules living in `folder`.
fn roots_of(folder: &Path) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["lib.rs", "main.rs", "mod.rs"].iter().map(|name| folder.join(name)).collect();
    roots.push(folder.with_extension("rs"));
    roots
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let files = rust_files("src").into_iter().filter(|path| path.file_name().is_some_and(|name| name != "lib.rs"));
    files
        .map(|path| {
            let inside = path.strip_prefix(&src).expect("rust_files starts at src").with_extension("");
            let parts: Vec<&str> = inside.iter().map(|part| part.to_str().expect("UTF-8 names")).collect();
            let depth = parts.iter().filter(|part| **part != "mod").count();
            Source { layer: parts[0].to_owned(), depth, code: blank(&read(&path)), path }
        })
        .collect()
}

/// The table `[rust]` of tests/layers.toml: a line is `name = ["a", "b"]`.
fn allowed_edges() -> BTreeMap<String, Vec<String>> {
    let text = read(&root().join("tests/layers.toml"));
    let mut edges = BTreeMap::new();
    let lines = text.lines().skip_while(|line| *line != "[rust]").skip(1).take_while(|line| !line.starts_with('['));
    for line in lines.filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, list) = line.split_once(" = ").expect("a line of [rust] is `name = [..]`");
        let list = list.trim_matches(|c| c == '[' || c == ']');
        let below = list.split(", ").map(|name| name.trim_matches('"').to_owned()).filter(|name| !name.is_empty());
        edges.insert(name.to_owned(), below.collect());
    }
    assert!(!edges.is_empty(), "tests/layers.toml has no table [rust]");
    edges
}

/// Each layer that a file names, with the line: `crate::x`, `crate::{x, y::z}`, and `super` chains that reach the root.
fn used_layers(source: &Source, layers: &BTreeMap<String, Vec<String>>) -> Vec<(usize, String)> {
    let code = &source.code;
    let mut found = Vec::new();
    let mut add = |at: usize, name: &str| {
        if layers.contains_key(name) {
            found.push((line_of(code, at), name.to_owned()));
        }
    };
    for (at, _) in code.match_indices("crate::") {
        names_after(&code[at + "crate::".len()..]).into_iter().for_each(|name| add(at, name));
    }
    for (at, _) in code.match_indices("super::") {
        let chain = code[at..].split("super::").skip(1).take_while(|part| part.is_empty()).count() + 1;
        let inside_chain = code[..at].ends_with("super::");
        if !inside_chain && chain >= source.depth {
            names_after(&code[at + chain * "super::".len()..]).into_iter().for_each(|name| add(at, name));
        }
    }
    found
}
