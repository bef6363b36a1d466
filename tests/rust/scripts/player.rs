//! The language of the scripts: one command a line, words and `name=value` options.
//!
//! ```text
//! at 1500                                  cluster time of what follows, in milliseconds
//! index 63                                 the index of the last entry: what follows gets the next
//! open worker w1 [ttl=15000]               sessions have names; `close`, `expire`
//! enqueue a b [function=f] [queue=default] [priority=0] [attempts=3] [crashes=3] [delay=0] [run_at=9] [unique=key]
//!         [limit=LIMITS] [mode=skip|replace|raise] [window=9] [expires=9] [crash_delay=0] [keep=9] [tags=x,y] [args=text]
//!         [after=a,b:failure,c:success:uses] [batch=B]
//! batch open B [outer=A] [name=night]   batch seal B   batch cancel B [reason=x]   batches [after=A] [limit=100]   flow a
//! claim w1 [queues=mail:2,default] [strict] [functions=f,g] [max=1]
//! finish a by=w1 ok [result=text] | retry [delay=0] [error=Type[#fingerprint]] | fail | snooze delay=9 [reason=x] | release | crash
//!                cancelled [reason=x]
//! progress a by=w1 [note=text] [state=text]
//! cancel a [reason=x]   requeue a   delete a   pause mail [until=9] [reason=x]   resume mail
//! move a to=mail   priority a to=-5
//! tick [max=1000]   evict 3   restore a     (a record that `finished` showed)
//! as c1 seq=1 [acked=0] <any command>       under a session and sequence
//! member 7 name=a raft=a:1 client=a:2   forget 7   level 1   digest 64 [mark=9]   (or the mark made there)
//! members   levels   marks                  what is known of the cluster
//! token NAME [secret=NAME] [can=read,work:mail] [expires=9] [overlap=9] [actor=ann]   revoke NAME-OR-ID
//! invite SECRET [role=node] [expires=900]   use SECRET   note WHAT [about=x]   tokens   acts
//! job a   counts [mail]   queues   finished [after=0]   due   ready [queues=..] [functions=..]   lease w1
//! lock w1:7 <name> [semaphore=3 | read | write] [try]   give_up w1:7                    w1:7 is number 7 of w1
//! unlock <name> by=w1:7 (its last token, in its session) | token=9 [from=w1]
//! locks [after=name] [limit=100]            who holds what
//! holders [after=name:9] [limit=100]        all of them, with what they asked for
//! schedule put NAME [generation=9] [next=9] [overlap=allow|skip|queue_one|replace] [definition=daily] [options of a job]
//! schedule fire NAME generation=1 slot=9 [next=9] [a@9 ..] [run_at=9]     schedule move NAME generation=1 slot=9 [next=9]
//! schedule pause NAME [reason=x]   schedule resume NAME   schedule delete NAME   schedule trigger NAME a [slot=9]
//! schedules [NAME] [after=name] [limit=100]   due_schedules [after=9:name] [limit=100]
//! limit_queue mail [n=9]   limits a   queue_limits   claimable [queues=..] [functions=..]
//!                                           LIMITS: 2:key (at once), 5/100:key:burst, 5~100:key (slides),
//!                                           5#100:key (fixed windows), fair:key (turns), separated by commas
//! errors [limit=100]                        how often which error
//! check <hexadecimal bytes>   apply <hexadecimal bytes>
//! ```
//!
//! `by=w1` stands for the token that w1 got for this job last; `token=7` is that number.

use std::collections::BTreeMap;

use crate::wire::{self, claimed, Command, End, Job, Note, Own, Spec};
use raftwork::base::codec::Reader;
use raftwork::base::{JobId, LogIndex, Millis};
use raftwork::machine::{self, Effects, Loader, Machine};

#[derive(Default)]
pub struct Player {
    machine: Machine,
    index: u64,
    now: u64,
    sessions: BTreeMap<String, u64>,
    tokens: BTreeMap<(String, JobId), u64>,
    records: BTreeMap<JobId, Vec<u8>>,
    grants: BTreeMap<(u64, u64), u64>,
    lock_sequence: u64,
}

/// The words of a line and its options.
struct Line<'a> {
    words: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Self {
        let (options, words): (Vec<_>, Vec<_>) = line.split_whitespace().partition(|word| word.contains('='));
        Self { words, options: options.into_iter().filter_map(|option| option.split_once('=')).collect() }
    }

    fn text(&self, name: &str, default: &str) -> String {
        (*self.options.get(name).unwrap_or(&default)).to_owned()
    }

    fn maybe(&self, name: &str) -> Option<u64> {
        self.options.get(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.maybe(name).unwrap_or(default)
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.options.get(name).map(|value| value.as_bytes().to_vec())
    }

    fn list(&self, name: &str, default: &str) -> Vec<String> {
        self.text(name, default).split(',').filter(|item| !item.is_empty()).map(Into::into).collect()
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn ids(&self) -> Vec<JobId> {
        self.words[1..].iter().map(|name| wire::id(name)).collect()
    }
}

fn name(id: JobId) -> String {
    String::from_utf8_lossy(&id.0).trim_end_matches('.').to_owned()
}

impl Player {
    /// What one line gives.
    pub fn line(&mut self, line: &str) -> Vec<String> {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        match head {
            "at" => {
                self.now = rest.parse().expect("a time");
                Vec::new()
            }
            "index" => {
                self.index = rest.parse().expect("an index");
                Vec::new()
            }
            "as" => self.under_session(rest),
            "check" => match machine::check(&hex(rest)) {
                Ok(_) => vec!["passes".into()],
                Err(error) => vec![error.to_string()],
            },
            "apply" => self.apply(&hex(rest), None),
            _ => self.question(&Line::new(line)).unwrap_or_else(|| self.command(line, 0, 0, 0)),
        }
    }

    /// Goes on with a machine loaded from the image of this one, after a recount.
    pub fn reload(&mut self) {
        self.machine.audit().expect("everything follows from the records");
        let mut loader = Loader::new();
        let written = self.machine.capture().write(&mut |section, bytes| loader.section(section, bytes));
        written.expect("an image can be written");
        self.machine = loader.finish().expect("an image can be loaded");
    }

    fn under_session(&mut self, rest: &str) -> Vec<String> {
        let mut words = rest.split_whitespace().peekable();
        let session = self.session(words.next().expect("a session"));
        let (mut sequence, mut acked) = (0, 0);
        while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
            match name {
                "seq" => sequence = value.parse().expect("a number"),
                "acked" => acked = value.parse().expect("a number"),
                _ => break,
            }
            words.next();
        }
        self.command(&words.collect::<Vec<_>>().join(" "), session, sequence, acked)
    }

    fn command(&mut self, line: &str, session: u64, sequence: u64, acked: u64) -> Vec<String> {
        let line = Line::new(line);
        let command = self.build(&line);
        let (session, sequence) = match (&command, line.words.get(1)) {
            (Command::Lock(..) | Command::Acquire(..) | Command::GiveUp(_), Some(owner)) if sequence == 0 => {
                self.lock_sequence(owner)
            }
            (Command::Unlock(..), _) if sequence == 0 => self.unlock_sequence(&line),
            _ => (session, sequence),
        };
        let request = wire::request(session, sequence, acked, &command);
        self.apply(&request, Some((&line, &command)))
    }

    fn apply(&mut self, request: &[u8], built: Option<(&Line<'_>, &Command)>) -> Vec<String> {
        self.index += 1;
        let mut effects = Effects::default();
        let reply = match self.machine.apply(LogIndex(self.index), Millis(self.now), request, &mut effects) {
            Ok(reply) => reply,
            Err(error) => return vec![format!("stops the node: {error}")],
        };
        let mut lines = match (wire::reply(&reply), built) {
            ((_, Err((code, message, _))), _) => vec![format!("refused: {code}: {message}")],
            ((index, Ok(payload)), Some((line, command))) => self.tell(line, command, index, &payload),
            ((_, Ok(payload)), None) => vec![format!("answers {payload:02x?}")],
        };
        lines.extend(self.effects(&effects));
        lines
    }

    fn effects(&mut self, effects: &Effects) -> Vec<String> {
        let granted = self.granted(effects);
        let of = |session: u64| self.sessions.iter().find(|(_, id)| **id == session).map_or("?", |(name, _)| name);
        let mut lines: Vec<String> = Vec::new();
        lines.extend(effects.ready.iter().map(|(_, queue, jobs)| format!("  ready: {jobs} in {queue}")));
        lines.extend(effects.finished.iter().map(|id| format!("  final: {}", name(*id))));
        lines.extend(effects.deleted.iter().map(|id| format!("  out of the archives: {}", name(*id))));
        let cancels = effects.cancels.iter();
        lines.extend(cancels.map(|(session, id, _)| format!("  tell {}: stop {}", of(session.0), name(*id))));
        lines.extend(effects.lost.iter().map(|(session, id, _)| format!("  lost: {} by {}", name(*id), of(session.0))));
        lines.extend(granted);
        lines.extend(effects.closed.iter().map(|session| format!("  closed: {}", of(session.0))));
        lines.extend(effects.differs.map(|differs| format!("  another mark was made here at {}", differs.index)));
        lines
    }

    /// The answer in words.
    fn tell(&mut self, line: &Line<'_>, command: &Command, index: u64, payload: &[u8]) -> Vec<String> {
        let r = &mut Reader::new(payload);
        match command {
            Command::Open { .. } => {
                let session = r.u64().expect("a session");
                self.sessions.insert(line.words[2].into(), session);
                vec![format!("{} is open", line.words[2])]
            }
            Command::Claim { .. } => self.tell_claimed(line.words[1], payload),
            Command::Enqueue { jobs, .. } => {
                if r.nil() {
                    return vec!["created".into()];
                }
                (0..r.array().expect("a list")).map(|_| tell_exception(r, jobs)).collect()
            }
            Command::Close(_) | Command::Expire(_) | Command::Tick(_) | Command::Evict(_) => {
                vec![format!("{}", r.u64().expect("a number"))]
            }
            Command::Pause { .. } | Command::Resume(_) => vec!["done".into()],
            Command::Finish(_) | Command::Progress(_) => self.codes(line, r, &["accepted", "lease lost", "unknown"]),
            Command::Cancel { .. } => self.codes(line, r, &["cancelled", "told", "unknown", "already final"]),
            Command::Requeue(_) => {
                let words = ["requeued", "?", "unknown", "nothing to do", "?", "unique key is held"];
                self.codes(line, r, &words)
            }
            Command::Delete(_) => self.codes(line, r, &["deleted", "?", "unknown", "?", "runs"]),
            Command::Restore(_) => self.codes(line, r, &["restored", "present"]),
            Command::Own(Own::UseInvitation { .. }) if r.nil() => vec!["nobody is invited".into()],
            Command::Own(Own::UseInvitation { .. }) => vec![r.str().expect("a role").to_owned()],
            Command::Own(Own::DropMember(_) | Own::SetLevel(_) | Own::PutToken { .. } | Own::RevokeToken { .. }) => {
                vec![format!("{}", r.u64().expect("a number"))]
            }
            Command::Own(_) => vec!["done".into()],
            Command::Recur(recur) => self.tell_schedule(line, recur, r),
            Command::Batch(_) => {
                vec![["done", "unknown", "nothing to do"][r.u64().expect("a code") as usize].into()]
            }
            Command::LimitQueue(..) => vec!["done".into()],
            Command::Move(..) | Command::SetPriority(..) => {
                self.codes(line, r, &["changed", "?", "unknown", "nothing to do", "runs"])
            }
            Command::Lock(..) | Command::Acquire(..) => self.tell_lock(line.words[1], r),
            Command::Unlock(..) => vec!["free".into()],
            Command::GiveUp(..) => {
                vec![["had nothing", "waited", "held"][r.u64().expect("a number") as usize].into()]
            }
        }
        .into_iter()
        .map(|text| if index < self.index { format!("{text} (as before)") } else { text })
        .collect()
    }

    fn codes(&self, line: &Line<'_>, r: &mut Reader<'_>, words: &[&str]) -> Vec<String> {
        let length = r.array().expect("a list of codes");
        let code = |r: &mut Reader<'_>| words[r.u64().expect("a code") as usize];
        (0..length).map(|position| format!("{}: {}", line.words[1 + position], code(r))).collect()
    }

    fn tell_claimed(&mut self, session: &str, payload: &[u8]) -> Vec<String> {
        let jobs = claimed(payload);
        if jobs.is_empty() {
            return vec![format!("{session} got nothing")];
        }
        let mut lines = Vec::new();
        for job in jobs {
            self.tokens.insert((session.into(), job.id), job.token);
            let saved = job.state.map_or(String::new(), |state| format!(" state={}", String::from_utf8_lossy(&state)));
            let (id, token, attempt, crashes) = (name(job.id), job.token, job.attempt, job.crashes);
            let mut rest = saved;
            for (position, output) in job.outputs {
                let output = output.map_or("none".into(), |output| String::from_utf8_lossy(&output).into_owned());
                rest.push_str(&format!(" output{position}={output}"));
            }
            rest.extend(job.batch.map(|batch| format!(" batch={}", name(batch))));
            rest.extend(job.from.map(|(schedule, slot)| {
                format!(" schedule={schedule}@{}", slot.map_or("none".into(), |slot| slot.to_string()))
            }));
            lines.push(format!("{session} got {id} token={token} attempt={attempt} crashes={crashes}{rest}"));
        }
        lines
    }

    fn session(&self, name: &str) -> u64 {
        self.sessions.get(name).copied().unwrap_or_else(|| name.parse().expect("a session by name or number"))
    }

    fn token(&self, line: &Line<'_>, id: JobId) -> u64 {
        line.maybe("token").unwrap_or_else(|| {
            let session = line.text("by", "");
            self.tokens.get(&(session, id)).copied().expect("by= names a session that had this job")
        })
    }

    fn build(&self, line: &Line<'_>) -> Command {
        match line.words[0] {
            "open" => Command::Open { ttl: line.number("ttl", 15_000), kind: line.words[1].into(), host: "box".into() },
            "close" => Command::Close(self.session(line.words[1])),
            "expire" => Command::Expire(self.session(line.words[1])),
            "enqueue" => build_enqueue(line),
            "claim" => Command::Claim {
                session: self.session(line.words[1]),
                queues: line.list("queues", "default").iter().map(|queue| weighted(queue)).collect(),
                strict: line.has("strict"),
                functions: line.list("functions", "f"),
                max: line.number("max", 1),
            },
            "finish" => {
                let ids: Vec<&str> = line.words[1..].iter().copied().filter(|word| !ENDS.contains(word)).collect();
                let end = build_end(line);
                let result = |name: &&str| (wire::id(name), self.token(line, wire::id(name)), end.clone());
                Command::Finish(ids.iter().map(result).collect())
            }
            "progress" => {
                let id = wire::id(line.words[1]);
                let (progress, state) = (line.bytes("note"), line.bytes("state"));
                Command::Progress(vec![Note { id, token: self.token(line, id), progress, state }])
            }
            "cancel" => Command::Cancel { ids: line.ids(), reason: line.text("reason", "") },
            "requeue" => Command::Requeue(line.ids()),
            "delete" => Command::Delete(line.ids()),
            "pause" => Command::Pause {
                queue: line.words[1].into(),
                until: line.maybe("until"),
                reason: line.text("reason", ""),
            },
            "resume" => Command::Resume(line.words[1].into()),
            "tick" => Command::Tick(line.number("max", 1_000)),
            "evict" => Command::Evict(line.words[1].parse().expect("an ordinal")),
            "restore" => Command::Restore(line.ids().iter().map(|id| self.records[id].clone()).collect()),
            "lock" | "unlock" | "give_up" => self.build_lock(line),
            "schedule" => self.build_schedule(line),
            "batch" => Self::build_batch(line),
            "move" => Command::Move(line.ids(), line.text("to", "")),
            "priority" => Command::SetPriority(line.ids(), line.text("to", "0").parse().expect("a priority")),
            "limit_queue" => Command::LimitQueue(line.words[1].into(), line.maybe("n")),
            "member" | "forget" | "level" | "digest" | "token" | "revoke" | "invite" | "use" | "note" => {
                Command::Own(self.build_own(line))
            }
            other => panic!("no such command: {other}"),
        }
    }
}

mod flows;
mod limits;
mod locks;
mod own;
mod questions;
mod schedules;

const ENDS: [&str; 7] = ["ok", "retry", "fail", "snooze", "release", "cancelled", "crash"];

fn build_end(line: &Line<'_>) -> End {
    let error = line.text("error", "Boom");
    match ENDS.into_iter().find(|end| line.has(end)).expect("finish says how") {
        "ok" => End::Succeeded(line.bytes("result")),
        "retry" => End::Retry(line.number("delay", 0), error),
        "fail" => End::Failed(error),
        "snooze" => End::Snooze(line.number("delay", 0), line.text("reason", "")),
        "release" => End::Release,
        "cancelled" => End::Cancelled(line.text("reason", "")),
        _ => End::Crashed(error),
    }
}

fn build_spec(line: &Line<'_>) -> Spec {
    Spec {
        function: line.text("function", "f"),
        queue: line.text("queue", "default"),
        priority: line.text("priority", "0").parse().expect("a priority"),
        max_attempts: line.number("attempts", 3),
        max_crashes: line.number("crashes", 3),
        timeout: line.maybe("timeout"),
        keep_result: line.number("keep", 86_400_000),
        tags: line.list("tags", ""),
        unique_mode: match line.text("mode", "skip").as_str() {
            "skip" => 0,
            "replace" => 1,
            _ => 2,
        },
        unique_window: line.maybe("window"),
        expires: line.maybe("expires"),
        crash_delay: line.number("crash_delay", 0),
        ..Spec::default()
    }
}

fn build_enqueue(line: &Line<'_>) -> Command {
    let job = |id| Job {
        id,
        spec: 0,
        args: line.bytes("args").unwrap_or_default(),
        delay: line.number("delay", 0),
        run_at: line.maybe("run_at"),
        unique: line.options.get("unique").map(|key| (*key).into()),
        parents: flows::parents(line),
        batch: line.options.get("batch").map(|batch| wire::id(batch)),
        limits: limits::build(line),
    };
    Command::Enqueue { specs: vec![build_spec(line)], jobs: line.ids().into_iter().map(job).collect() }
}

fn tell_exception(r: &mut Reader<'_>, jobs: &[Job]) -> String {
    r.array_of(3, "an exception").expect("an exception");
    let position = r.u64().expect("a position") as usize;
    let (what, other) = (r.u64().expect("an outcome"), name(r.id().expect("an id")));
    let job = name(jobs[position].id);
    match what {
        1 => format!("{job} is known already"),
        2 => format!("{job} not created: {other} holds its key"),
        _ => format!("{job} replaced {other}"),
    }
}

fn weighted(queue: &str) -> (String, u64) {
    let (name, weight) = queue.split_once(':').unwrap_or((queue, "1"));
    (name.into(), weight.parse().expect("a weight"))
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks(2).map(byte).collect()
}
