//! Commands about recurring schedules, and what the machine knows of them.

use super::{build_spec, name, Line, Player};
use crate::wire::schedules::{At, Put, Recur};
use crate::wire::{self, Command};
use raftwork::base::codec::{Reader, Writer};

impl Player {
    pub(super) fn build_schedule(&self, line: &Line<'_>) -> Command {
        let schedule: String = line.words[2].into();
        Command::Recur(match line.words[1] {
            "put" => Recur::Put(Box::new(Put {
                name: schedule,
                generation: line.maybe("generation"),
                source: if line.maybe("generation").is_some() { "code".into() } else { "api".into() },
                spec: build_spec(line),
                args: line.bytes("args").unwrap_or_default(),
                overlap: overlap(&line.text("overlap", "allow")),
                definition: line.text("definition", "daily").into(),
                next: line.maybe("next"),
                limits: super::limits::build(line),
            })),
            "fire" => {
                let job = |word: &&str| {
                    let (job, nominal) = word.split_once('@').expect("a job is an id and a nominal time");
                    (wire::id(job), nominal.parse().expect("a time"), line.maybe("run_at"))
                };
                Recur::Fire(at(line, schedule), line.words[3..].iter().map(job).collect())
            }
            "move" => Recur::Move(at(line, schedule)),
            "delete" => Recur::Delete(schedule),
            "pause" => Recur::Pause(schedule, Some(line.text("reason", ""))),
            "resume" => Recur::Pause(schedule, None),
            _ => Recur::Trigger(schedule, wire::id(line.words[3]), line.maybe("slot")),
        })
    }

    pub(super) fn tell_schedule(&self, line: &Line<'_>, command: &Recur, r: &mut Reader<'_>) -> Vec<String> {
        let words: &[&str] = match command {
            Recur::Put(_) => &["stored", "older", "same"],
            Recur::Fire(..) => {
                r.array_of(2, "what a firing did").expect("two items");
                if r.u64().expect("a code") == 1 {
                    return vec!["stale".into()];
                }
                let jobs = r.array().expect("codes");
                let mut said = vec!["fired".into()];
                said.extend((0..jobs).map(|position| {
                    let what = ["stored", "skipped"][r.u64().expect("a code") as usize];
                    format!("{}: {what}", line.words[3 + position])
                }));
                return said;
            }
            Recur::Pause(..) => &["done", "unknown", "nothing to do"],
            Recur::Delete(_) | Recur::Trigger(..) => &["done", "unknown"],
            Recur::Move(_) => &["done", "stale"],
        };
        vec![words[r.u64().expect("a code") as usize].into()]
    }

    /// The answers to questions 31 and 32.
    pub(super) fn schedules(&self, line: &Line<'_>) -> Vec<String> {
        let mut question = Writer::new();
        if let Some(one) = line.words.get(1) {
            question.array(2).u64(32).str(one);
            let answer = self.machine.view(question.as_bytes()).expect("a question that is known");
            let r = &mut Reader::new(&answer);
            return vec![if r.nil() { format!("{one}: unknown") } else { row(r) }];
        }
        question.array(3).u64(31).option(line.options.get("after"), |w, after| {
            w.str(after);
        });
        question.u64(line.number("limit", 100));
        let answer = self.machine.view(question.as_bytes()).expect("a question that is known");
        rows(&mut Reader::new(&answer))
    }

    /// The answer to question 33, which is one item shorter without a place.
    pub(super) fn due_schedules(&self, line: &Line<'_>) -> Vec<String> {
        let mut question = Writer::new();
        let after = line.options.get("after").and_then(|after| after.split_once(':'));
        question.array(2 + usize::from(after.is_some())).u64(33).u64(line.number("limit", 100));
        if let Some((slot, name)) = after {
            question.array(2).u64(slot.parse().expect("a slot")).str(name);
        }
        let answer = self.machine.view(question.as_bytes()).expect("a question that is known");
        let r = &mut Reader::new(&answer);
        r.array_of(3, "what is due").expect("three items");
        let mut lines = rows(r);
        let now = r.u64().expect("a time");
        lines.push(format!("now {now}, next {}", time(r)));
        lines
    }
}

fn overlap(text: &str) -> u64 {
    let names = ["allow", "skip", "queue_one", "replace"];
    names.iter().position(|name| *name == text).expect("an overlap") as u64
}

fn at(line: &Line<'_>, name: String) -> At {
    let number = |what| line.maybe(what).expect("a number");
    At { name, generation: number("generation"), slot: number("slot"), next: line.maybe("next") }
}

fn time(r: &mut Reader<'_>) -> String {
    r.option(|r| r.u64()).expect("a time or nil").map_or("never".into(), |at| at.to_string())
}

fn rows(r: &mut Reader<'_>) -> Vec<String> {
    match r.array().expect("rows") {
        0 => vec!["none".into()],
        length => (0..length).map(|_| row(r)).collect(),
    }
}

fn row(r: &mut Reader<'_>) -> String {
    r.array_of(14, "a schedule").expect("a row");
    let (schedule, generation) = (r.str().expect("a name").to_owned(), r.u64().expect("a generation"));
    let source = r.str().expect("a source").to_owned();
    let paused = r.option(|r| r.str().map(str::to_owned)).expect("a reason");
    let (next, last) = (time(r), time(r));
    let job = r.option(|r| r.id()).expect("an id or nil").map_or("none".into(), name);
    let (fired, skipped) = (r.u64().expect("a number"), r.u64().expect("a number"));
    let overlap = r.u64().expect("an overlap");
    let (function, queue) = (r.str().expect("a function").to_owned(), r.str().expect("a queue").to_owned());
    let (args, definition) = (r.bin().expect("bytes"), String::from_utf8_lossy(r.bin().expect("bytes")).into_owned());
    let paused = paused.map_or(String::new(), |reason| format!(" paused={reason:?}"));
    format!(
        "{schedule}: {source} {generation} {definition} {function} in {queue} args={} overlap={overlap} next={next} \
         last={last} job={job} fired={fired} skipped={skipped}{paused}",
        args.len()
    )
}
