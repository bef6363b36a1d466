//! What a script asks of the machine without changing it.

use super::{name, weighted, Line, Player};
use crate::wire;
use raftwork::base::codec::{Reader, Writer};
use raftwork::base::Millis;
use raftwork::machine::job::State;
use raftwork::machine::tally::Tally;

impl Player {
    pub(super) fn question(&mut self, line: &Line<'_>) -> Option<Vec<String>> {
        Some(match line.words[0] {
            "job" => line.words[1..].iter().map(|name| self.job(name)).collect(),
            "counts" => vec![counts(self.machine.tally())],
            "due" => vec![self.machine.next_due().map_or("never".into(), |at| at.0.to_string())],
            "ready" => {
                let queues: Vec<String> =
                    line.list("queues", "default").iter().map(|queue| weighted(queue).0).collect();
                let functions = line.list("functions", "f");
                let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
                let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
                vec![if self.machine.ready(&queues, &functions) { "yes".into() } else { "no".into() }]
            }
            "finished" => {
                let found = self.machine.finished(line.number("after", 0), 100, usize::MAX);
                let lines = found.iter().map(|(ordinal, id, _)| format!("{ordinal} {}", name(*id))).collect();
                self.records.extend(found.into_iter().map(|(_, id, record)| (id, record)));
                lines
            }
            "sessions" => self.machine.sessions().map(|(_, ttl)| format!("a session with ttl={}", ttl.0)).collect(),
            "members" => self.members(),
            "levels" => self.levels(),
            "tokens" => self.tokens(),
            "acts" => self.acts(),
            "marks" => self.marks(),
            "locks" => self.locks(line),
            "holders" => self.holders(line),
            "schedules" => self.schedules(line),
            "batches" => self.batches(line),
            "flow" => line.words[1..].iter().map(|id| self.flow(id)).collect(),
            "errors" => self.errors(line),
            "limits" => line.words[1..].iter().map(|name| self.limits(name)).collect(),
            "queue_limits" => self.queue_limits(),
            "claimable" => self.claimable(line),
            "due_schedules" => self.due_schedules(line),
            _ => return None,
        })
    }

    /// The answer to question 70.
    fn errors(&self, line: &Line<'_>) -> Vec<String> {
        let mut question = Writer::new();
        question.array(2).u64(70).u64(line.number("limit", 100));
        let answer = match self.machine.view(question.as_bytes()) {
            Ok(answer) => answer,
            Err(error) => return vec![error.to_string()],
        };
        let r = &mut Reader::new(&answer);
        r.array_of(2, "the errors").expect("two items");
        let all = r.u64().expect("a number");
        let row = |r: &mut Reader<'_>| {
            r.array_of(8, "a group").expect("eight items");
            let fingerprint = r.option(|r| r.str()).expect("a text or nil").unwrap_or("none");
            let (kind, function) = (r.str().expect("a type"), r.str().expect("a name"));
            let mut number = || r.u64().expect("a number");
            let (errors, failed, first, last) = (number(), number(), number(), number());
            let job = name(r.id().expect("an id"));
            format!(
                "  {fingerprint} {kind} in {function}: {errors}, {failed} failed, from {first} to {last}, last {job}"
            )
        };
        let rows = (0..r.array().expect("rows")).map(|_| row(r));
        std::iter::once(format!("{all} errors")).chain(rows).collect()
    }

    fn job(&self, name: &str) -> String {
        let Some((job, spec)) = self.machine.job(wire::id(name)) else { return format!("{name}: unknown") };
        let mut text = format!("{name}: {} in {} attempt={}", job.state.name(), spec.queue, job.attempt);
        let mut say = |what: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!(" {what}={value}"));
            }
        };
        let time = |at: Option<Millis>| at.map(|at| at.0.to_string());
        say("crashes", (job.crashes > 0).then(|| job.crashes.to_string()));
        say("generation", (job.generation > 0).then(|| job.generation.to_string()));
        say("due", time(job.due()));
        say("enqueued", time(job.enqueued()));
        say("started", time(job.started()));
        say("finished", time(job.finished()));
        say("expires", time(job.expires()));
        say("cancel_requested", job.cancel_requested.then(|| "yes".into()));
        let from = job.recurrence().map(|from| (from.schedule.to_string(), time(from.slot)));
        say("schedule", from.map(|(name, slot)| format!("{name}@{}", slot.unwrap_or("none".into()))));
        if let Some(rare) = &job.rare {
            let text_of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            say("result", rare.result.as_ref().map(|result| text_of(result)));
            say("reason", rare.reason.as_ref().map(|reason| format!("{reason:?}")));
            say("progress", rare.progress.as_ref().map(|progress| text_of(progress)));
            say("state", rare.saved.as_ref().map(|saved| text_of(saved)));
            let runs: Vec<String> =
                rare.history.iter().map(|run| format!("{}:{}", run.attempt, run.ending.name())).collect();
            say("runs", (!runs.is_empty()).then(|| runs.join(",")));
        }
        text
    }
}

fn counts(tally: &Tally) -> String {
    let mut text = format!("created={}", tally.created);
    for state in State::ALL {
        if tally.count(state) > 0 {
            text.push_str(&format!(" {}={}", state.name(), tally.count(state)));
        }
    }
    for (what, value) in [("archived", tally.archived_sum()), ("deleted", tally.deleted)] {
        if value > 0 {
            text.push_str(&format!(" {what}={value}"));
        }
    }
    text.push_str(if tally.holds() { "" } else { " DO NOT ADD UP" });
    text
}
