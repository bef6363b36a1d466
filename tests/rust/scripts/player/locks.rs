//! Commands about locks, and what the machine says of them. An owner is written `w1:7`: number 7 of session w1; a place
//! in the list of holders `name:token`.

use super::{Line, Player};
use crate::wire::Command;
use raftwork::base::codec::{Reader, Writer};
use raftwork::machine::{Effects, Mode};

impl Player {
    pub(super) fn build_lock(&self, line: &Line<'_>) -> Command {
        let number = || self.owner(line.words[1]).1;
        match line.words[0] {
            "lock" => {
                let (name, waits) = (line.words[2].to_owned(), !line.has("try"));
                match mode(line) {
                    Some(mode) => Command::Acquire(number(), name, mode, waits),
                    None => Command::Lock(number(), name, waits),
                }
            }
            "give_up" => Command::GiveUp(number()),
            _ => {
                let last = || self.grants[&self.owner(&line.text("by", ""))];
                Command::Unlock(line.words[1].into(), line.maybe("token").unwrap_or_else(last))
            }
        }
    }

    /// The session of an owner, and a sequence that none of its requests had: such scripts are not about sequences.
    pub(super) fn lock_sequence(&mut self, owner: &str) -> (u64, u64) {
        self.lock_sequence += 1;
        (self.owner(owner).0, 1_000 + self.lock_sequence)
    }

    /// The session that says so: that of the holder, unless another is named.
    pub(super) fn unlock_sequence(&mut self, line: &Line<'_>) -> (u64, u64) {
        match (line.options.get("from"), line.options.get("by")) {
            (Some(session), _) => self.lock_sequence(&format!("{session}:0")),
            (None, Some(owner)) => self.lock_sequence(owner),
            (None, None) => (0, 0),
        }
    }

    fn owner(&self, text: &str) -> (u64, u64) {
        let (session, number) = text.split_once(':').expect("an owner is a session and a number");
        (self.session(session), number.parse().expect("a number"))
    }

    fn owner_name(&self, session: u64, number: u64) -> String {
        let name = self.sessions.iter().find(|(_, id)| **id == session).map_or("?", |(name, _)| name);
        format!("{name}:{number}")
    }

    pub(super) fn tell_lock(&mut self, owner: &str, r: &mut Reader<'_>) -> Vec<String> {
        let key = self.owner(owner);
        if r.nil() {
            return vec![format!("{owner} has no token")];
        }
        let token = r.u64().expect("a token");
        self.grants.insert(key, token);
        vec![format!("{owner} holds it, token={token}")]
    }

    pub(super) fn granted(&mut self, effects: &Effects) -> Vec<String> {
        let granted = effects.granted.iter().map(|(session, number, token)| (session.0, *number, token.0));
        granted
            .map(|(session, number, token)| {
                self.grants.insert((session, number), token);
                format!("  tell {}: it holds, token={token}", self.owner_name(session, number))
            })
            .collect()
    }

    /// The answer to question 30.
    pub(super) fn locks(&self, line: &Line<'_>) -> Vec<String> {
        let mut question = Writer::new();
        question.array(3).u64(30).option(line.options.get("after"), |w, after| {
            w.str(after);
        });
        question.u64(line.number("limit", 100));
        let answer = self.machine.view(question.as_bytes()).expect("a question that is known");
        let r = &mut Reader::new(&answer);
        r.array_of(2, "a page").expect("a page");
        let rows = r.array().expect("rows");
        let mut lines: Vec<String> = (0..rows)
            .map(|_| {
                r.array_of(8, "a lock").expect("a lock");
                let (name, session) = (r.str().expect("a name").to_owned(), r.u64().expect("a session"));
                let (kind, host) = (r.str().expect("a kind").to_owned(), r.str().expect("a host").to_owned());
                let mut number = || r.u64().expect("a number");
                let (pid, token, since, waiters) = (number(), number(), number(), number());
                let holder = self.sessions.iter().find(|(_, id)| **id == session).map_or("?", |(name, _)| name);
                format!("{name}: {holder} ({kind} {host} {pid}) token={token} since={since} waiters={waiters}")
            })
            .collect();
        if !r.nil() {
            lines.push(format!("more behind {}", r.str().expect("a name")));
        }
        if lines.is_empty() {
            lines.push("none".into());
        }
        lines
    }

    /// The answer to question 60.
    pub(super) fn holders(&self, line: &Line<'_>) -> Vec<String> {
        let mut question = Writer::new();
        let after = line.options.get("after").and_then(|after| after.split_once(':'));
        question.array(3).u64(60).option(after, |w, (name, token)| {
            w.array(2).str(name).u64(token.parse().expect("a token"));
        });
        question.u64(line.number("limit", 100));
        let answer = self.machine.view(question.as_bytes()).expect("a question that is known");
        let r = &mut Reader::new(&answer);
        r.array_of(2, "a page").expect("a page");
        let rows = r.array().expect("rows");
        let mut lines: Vec<String> = (0..rows)
            .map(|_| {
                r.array_of(10, "a holder").expect("a holder");
                let (name, mode) = (r.str().expect("a name").to_owned(), r.str().expect("a mode").to_owned());
                let (permits, session) = (r.u64().expect("a number"), r.u64().expect("a session"));
                (0..3).for_each(|_| assert!(r.raw().is_ok(), "kind, host and process"));
                let mut number = || r.u64().expect("a number");
                let (token, since, waiters) = (number(), number(), number());
                let holder = self.sessions.iter().find(|(_, id)| **id == session).map_or("?", |(name, _)| name);
                format!("{name}: {holder} {mode} of {permits} token={token} since={since} waiters={waiters}")
            })
            .collect();
        if !r.nil() {
            r.array_of(2, "a place").expect("a place");
            lines.push(format!("more behind {}:{}", r.str().expect("a name"), r.u64().expect("a token")));
        }
        if lines.is_empty() {
            lines.push("none".into());
        }
        lines
    }
}

fn mode(line: &Line<'_>) -> Option<Mode> {
    match line.maybe("semaphore") {
        Some(permits) => Some(Mode::Permit(permits)),
        None if line.words[3..].contains(&"read") => Some(Mode::Read),
        None if line.words[3..].contains(&"write") => Some(Mode::Write),
        None => None,
    }
}
