//! Questions, filters and records.

mod filters;
mod questions;
mod records;
mod search;

use std::fmt::Write as _;

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::{LogIndex, Millis};
use raftwork::machine::{Effects, Machine};

use crate::wire::claims::Claimed;
use crate::wire::{self, Command, End, Job, Spec};

/// A machine and what a test needs to talk to it.
pub struct World {
    pub machine: Machine,
    index: u64,
    pub now: u64,
}

impl World {
    pub fn new() -> Self {
        Self { machine: Machine::new(), index: 0, now: 1_000_000 }
    }

    /// Applies a command; a refusal fails the test.
    pub fn run(&mut self, command: &Command) -> Vec<u8> {
        self.index += 1;
        let request = wire::request(0, 0, 0, command);
        let applied = self.machine.apply(LogIndex(self.index), Millis(self.now), &request, &mut Effects::default());
        wire::reply(&applied.expect("a known command")).1.expect("no refusal")
    }

    pub fn open(&mut self) -> u64 {
        self.run(&Command::Open { ttl: 15_000, kind: "worker".into(), host: "box".into() });
        self.index
    }

    pub fn enqueue(&mut self, spec: Spec, jobs: &[&str]) {
        let jobs = jobs.iter().map(|name| Job { id: wire::id(name), args: name.to_args(), ..Job::default() });
        self.run(&Command::Enqueue { specs: vec![spec], jobs: jobs.collect() });
    }

    pub fn claim(&mut self, session: u64, queue: &str, max: u64) -> Vec<Claimed> {
        let functions = ["f", "mail.send", "report.make"].map(String::from).into();
        let queues = vec![(queue.to_owned(), 1)];
        wire::claimed(&self.run(&Command::Claim { session, queues, strict: true, functions, max }))
    }

    pub fn finish(&mut self, job: &Claimed, end: End) {
        self.run(&Command::Finish(vec![(job.id, job.token, end)]));
    }

    /// The answer to a question, readable.
    pub fn ask(&self, question: impl FnOnce(&mut Writer)) -> String {
        let mut w = Writer::new();
        question(&mut w);
        shown(&self.machine.view(w.as_bytes()).expect("an answer"))
    }
}

trait IntoArgs {
    fn to_args(&self) -> Vec<u8>;
}

impl IntoArgs for &str {
    /// `(name)` as the only positional argument.
    fn to_args(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(2).array(1).str(self).map(0);
        w.into_bytes()
    }
}

/// MessagePack as text: like JSON, with bytes as `<text>` where they are readable (padding dots cut), else as hex.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut reader = Reader::new(bytes);
    show(&mut reader, &mut text);
    reader.end().expect("one whole value");
    text
}

fn show(r: &mut Reader<'_>, text: &mut String) {
    use rmp::Marker::*;
    match rmp::Marker::from_u8(r.rest()[0]) {
        FixArray(_) | Array16 | Array32 => {
            text.push('[');
            for position in 0..r.array().unwrap() {
                text.push_str(if position == 0 { "" } else { ", " });
                show(r, text);
            }
            text.push(']');
        }
        FixMap(_) | Map16 | Map32 => {
            text.push('{');
            for position in 0..r.map().unwrap() {
                text.push_str(if position == 0 { "" } else { ", " });
                let _ = write!(text, "{}: ", r.str().unwrap());
                show(r, text);
            }
            text.push('}');
        }
        Bin8 | Bin16 | Bin32 => {
            let bytes = r.bin().unwrap();
            let _ = match std::str::from_utf8(bytes) {
                Ok(plain) if !plain.contains(char::is_control) => write!(text, "<{}>", plain.trim_end_matches('.')),
                _ => bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}")),
            };
        }
        FixStr(_) | Str8 | Str16 | Str32 => {
            let _ = write!(text, "{:?}", r.str().unwrap());
        }
        Null => {
            r.nil();
            text.push_str("nil");
        }
        True | False => {
            let _ = write!(text, "{}", r.bool().unwrap());
        }
        FixNeg(_) | I8 | I16 | I32 | I64 => {
            let _ = write!(text, "{}", r.i64().unwrap());
        }
        _ => {
            let _ = write!(text, "{}", r.u64().unwrap());
        }
    }
}
