//! The checker checked: histories whose verdict is known. And the checker used, on a history from outside.

use crate::{history, linear};

/// `= good: title` or `= bad WORDS: title`, then the operations. The refusal of a bad one has the words in it.
const VERDICTS: &str = include_str!("verdicts.txt");
/// The same of flows, unique keys and limits.
const SPANNING: &str = include_str!("verdicts_spanning.txt");

fn cases() -> impl Iterator<Item = &'static str> {
    VERDICTS.split("= ").skip(1).chain(SPANNING.split("= ").skip(1))
}

#[test]
fn known_verdicts_are_given() {
    let (mut wrong, mut good, mut bad) = (Vec::new(), 0, 0);
    for case in cases() {
        let (head, lines) = case.split_once('\n').expect("a head and its operations");
        let (verdict, title) = head.split_once(": ").expect("a verdict and a title");
        let operations = history::parse(lines).unwrap_or_else(|error| panic!("{title}: {error}"));
        assert!(!operations.is_empty(), "{title}: no operations");
        let found = linear::check(&operations).map(drop);
        let right = match verdict.strip_prefix("bad ") {
            None => found.is_ok(),
            Some(words) => found.as_ref().is_err_and(|why| why.contains(words)),
        };
        (good, bad) = if verdict == "good" { (good + 1, bad) } else { (good, bad + 1) };
        if !right {
            wrong.push(format!("{head}\n    {found:?}"));
        }
    }
    println!("{good} good histories, {bad} bad ones");
    assert!(wrong.is_empty(), "the checker is wrong about\n{}", wrong.join("\n"));
    assert!(good >= 20 && bad >= 20);
}

#[test]
fn what_is_printed_can_be_read() {
    for case in cases() {
        let operations = history::parse(case.split_once('\n').expect("a head").1).expect("a history");
        assert_eq!(history::parse(&history::print(&operations)), Ok(operations));
    }
}

/// `RAFTWORK_HISTORY=path cargo test --features sim --test sim history` judges a file.
#[test]
fn history_of_a_file() {
    let Some(path) = std::env::var_os("RAFTWORK_HISTORY") else { return };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let operations = history::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let summary = linear::check(&operations).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    println!("{}: {summary:?}: no contradiction", path.display());
}
