//! Parents and batches.

use super::{name, Line, Player};
use crate::wire::flows::Batch;
use crate::wire::{self, Command};
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::JobId;

const STANDINGS: [&str; 4] = ["open", "met", "unmet", "void"];
const ENDS: [&str; 3] = ["success", "failure", "finish"];

/// `after=a,b:failure,c:success:uses`
pub(super) fn parents(line: &Line<'_>) -> Vec<(JobId, u64, bool)> {
    let parent = |text: String| {
        let mut parts = text.split(':');
        let id = wire::id(parts.next().expect("a parent"));
        let words: Vec<&str> = parts.collect();
        let on = ENDS.iter().position(|end| words.contains(end)).unwrap_or(0);
        (id, on as u64, words.contains(&"uses"))
    };
    line.list("after", "").into_iter().map(parent).collect()
}

impl Player {
    pub(super) fn build_batch(line: &Line<'_>) -> Command {
        let id = wire::id(line.words[2]);
        Command::Batch(match line.words[1] {
            "open" => {
                let outer = line.options.get("outer").map(|outer| wire::id(outer));
                Batch::Open(id, line.text("name", "night"), outer)
            }
            "seal" => Batch::Seal(id),
            _ => Batch::Cancel(id, line.text("reason", "")),
        })
    }

    fn ask(&self, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut w = Writer::new();
        write(&mut w);
        self.machine.view(w.as_bytes()).expect("a question that can be read")
    }

    /// The answers to questions 40 and 41, which show the same.
    pub(super) fn batches(&self, line: &Line<'_>) -> Vec<String> {
        let after = line.options.get("after").map(|after| wire::id(after));
        let answer = self.ask(|w| {
            w.array(3).u64(40).option(after, |w, after| {
                w.id(after);
            });
            w.u64(line.number("limit", 100));
        });
        let r = &mut Reader::new(&answer);
        let rows: Vec<Vec<u8>> = (0..r.array().expect("rows")).map(|_| r.raw().expect("a row").to_vec()).collect();
        rows.iter().map(|row| self.batch(row)).collect()
    }

    fn batch(&self, row: &[u8]) -> String {
        let r = &mut Reader::new(row);
        r.array_of(11, "a batch").expect("a batch");
        let id = r.id().expect("an id");
        assert_eq!(
            self.ask(|w| {
                w.array(2).u64(41).id(id);
            }),
            row,
            "both questions show the same"
        );
        let (called, state) = (r.str().expect("a name"), r.str().expect("a state"));
        let outer =
            r.option(|r| r.id()).expect("an outer batch").map_or(String::new(), |id| format!(" in {}", name(id)));
        r.u64().expect("when it was opened");
        let finished = r.option(|r| r.u64()).expect("a time").map_or(String::new(), |at| format!(" at {at}"));
        let counts: Vec<u64> = (0..5).map(|_| r.u64().expect("a count")).collect();
        let [total, pending, succeeded, failed, cancelled] = counts[..] else { panic!("five counts") };
        format!(
            "{} {called:?}{outer}: {state}{finished}, {pending} of {total} pending, {succeeded} succeeded, {failed} failed, \
             {cancelled} cancelled",
            name(id)
        )
    }

    /// The answer to question 42.
    pub(super) fn flow(&self, id: &str) -> String {
        let answer = self.ask(|w| {
            w.array(2).u64(42).id(wire::id(id));
        });
        let r = &mut Reader::new(&answer);
        r.array_of(4, "a flow").expect("a flow");
        let batch = r.option(|r| r.id()).expect("a batch").map_or(String::new(), |id| format!(" in {}", name(id)));
        let mut text = format!("{id}{batch}:");
        for _ in 0..r.array().expect("parents") {
            r.array_of(3, "a parent").expect("a parent");
            let (parent, on, standing) =
                (r.id().expect("an id"), r.u64().expect("an end"), r.u64().expect("where it stands"));
            text.push_str(&format!(" {} {} {},", name(parent), ENDS[on as usize], STANDINGS[standing as usize]));
        }
        let (parents, children) = (r.u64().expect("a count"), r.u64().expect("a count"));
        format!("{text} {parents} parents, {children} children")
    }
}
