//! Limits of jobs and queues, and what the machine knows of them.

use super::{weighted, Line, Player};
use crate::wire::{self, Limit};
use raftwork::base::codec::{Reader, Writer};

/// The option `limit=`: `2:key`, `5/100:key:burst`, `5~100:key`, `5#100:key`, `fair:key`, with commas between them.
pub(super) fn build(line: &Line<'_>) -> Vec<Limit> {
    line.list("limit", "").iter().map(|limit| parse(limit)).collect()
}

fn parse(text: &str) -> Limit {
    let mut parts = text.split(':');
    let (numbers, key) = (parts.next().expect("numbers"), parts.next().expect("a key").to_owned());
    if numbers == "fair" {
        return Limit::fair(key);
    }
    let burst = parts.next().map(number);
    for (kind, sign) in [(1, '/'), (2, '~'), (3, '#')] {
        if let Some((n, window)) = numbers.split_once(sign) {
            let (n, window) = (number(n), number(window));
            return Limit { kind, key, n, window, burst: burst.unwrap_or(n) };
        }
    }
    Limit { kind: 0, key, n: number(numbers), window: 0, burst: 0 }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

impl Player {
    /// The answer to question 50.
    pub(super) fn limits(&self, job: &str) -> String {
        let mut question = Writer::new();
        question.array(2).u64(50).id(wire::id(job));
        let answer = self.machine.view(question.as_bytes()).expect("a question that is known");
        let r = &mut Reader::new(&answer);
        if r.nil() {
            return format!("{job}: no limits");
        }
        r.array_of(2, "limits").expect("two items");
        let rows: Vec<String> = (0..r.array().expect("rows")).map(|_| row(r)).collect();
        let place = r.option(|r| r.u64()).expect("a place or nil").map_or(String::new(), |at| format!(", place {at}"));
        format!("{job}: {}{place}", rows.join(", "))
    }

    /// The answer to question 51.
    pub(super) fn queue_limits(&self) -> Vec<String> {
        let answer = self.machine.view(&[0x91, 51]).expect("a question that is known");
        let r = &mut Reader::new(&answer);
        let row = |r: &mut Reader<'_>| {
            r.array_of(3, "a queue").expect("three items");
            let name = r.str().expect("a name").to_owned();
            let limit = r.option(|r| r.u64()).expect("a limit or nil").map_or("none".into(), |n| n.to_string());
            format!("{name}: limit {limit}, {} held back", r.u64().expect("a number"))
        };
        (0..r.array().expect("rows")).map(|_| row(r)).collect()
    }

    /// The answer to question 8.
    pub(super) fn claimable(&self, line: &Line<'_>) -> Vec<String> {
        let mut question = Writer::new();
        let (queues, functions) = (line.list("queues", "default"), line.list("functions", "f"));
        question.array(3).u64(8).array(queues.len());
        for queue in &queues {
            question.str(&weighted(queue).0);
        }
        question.array(functions.len());
        for function in &functions {
            question.str(function);
        }
        let answer = self.machine.view(question.as_bytes()).expect("a question that is known");
        vec![format!("{}", Reader::new(&answer).u64().expect("a number"))]
    }
}

fn row(r: &mut Reader<'_>) -> String {
    r.array_of(4, "a limit with its figures").expect("four items");
    let items = r.array().expect("a limit");
    let kind = r.u64().expect("a kind") as usize;
    let key = r.str().expect("a key").to_owned();
    let numbers: Vec<String> = (2..items).map(|_| r.u64().expect("a number").to_string()).collect();
    let numbers = if numbers.is_empty() { String::new() } else { format!(" {}", numbers.join("/")) };
    let (running, waiting) = (r.u64().expect("a number"), r.u64().expect("a number"));
    let open = if r.bool().expect("a flag") { "open" } else { "full" };
    let kind = ["at once", "bucket", "sliding", "fixed", "fair"][kind];
    format!("{key} {kind}{numbers}: {running} run, {waiting} wait, {open}")
}
