//! What clients asked and were told: one operation a line, as JSON.
//!
//! ```text
//! {"process":3, "began":120, "ended":180, "session":17, "sequence":4, "operation":"claim",
//!  "arguments":{"session":17,"max":2}, "index":44, "answer":[{"job":"a","token":44,"attempt":1,"crashes":0}]}
//! ```
//!
//! * `began`, `ended`: whole numbers of one monotonic clock that all processes share. No `ended`: it was never answered.
//! * `session`, `sequence`: what makes the request one request, however often it is sent. Lines with the same are one.
//! * `index`: the log index of the answer; of a read, that of the state that it saw.
//! * `answer`: null if unknown. `error`: `unknown`, `not_committed` (never takes effect), `session_expired`, or why it was
//!   refused at its index: `unknown_parent`, `unknown_batch`, `batch_closed`, `cycle`, `conflict`.
//! * `#` begins a remark.
//!
//! | operation           | arguments                                                          | answer                       |
//! |---------------------|--------------------------------------------------------------------|------------------------------|
//! | `open`              |                                                                    | the session                  |
//! | `enqueue`           | `jobs`: `id delay queue priority max_attempts max_crashes crash_delay expires`, and if it has any, `batch unique replace moves`, `parents`: `job on`, `limits`: `key n rate` | codes: 0 created, 1 known, 2 held, 3 replaced |
//! | `claim`             | `session queues max`                                               | `job token attempt crashes`  |
//! | `finish`            | `results`: `job token end delay`                                   | codes of `machine::outcome`  |
//! | `delete`            | `jobs`: ids                                                        | codes of `machine::outcome`  |
//! | `open_batch`        | `batch outer`                                                      | one code, see `batches`      |
//! | `seal_batch`, `cancel_batch` | `batch`                                                   | one code                     |
//! | `cancel`, `requeue` | `jobs`: ids                                                        | codes of `machine::outcome`  |
//! | `close`, `expire`   | `session`                                                          | true                         |
//! | `read`              | `jobs`: ids; `consistency`: `local session linearizable`           | names of states, null: none  |

use raftwork::base::JobId;

use crate::json::Json;
use crate::model::Lease;

#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub process: u64,
    pub began: u64,
    /// Never, if there was no answer.
    pub ended: u64,
    /// Session and sequence.
    pub request: Option<(u64, u64)>,
    pub act: Act,
    pub index: Option<u64>,
    pub answer: Answer,
}

/// `Operation::ended` of what was never answered.
pub const NEVER: u64 = u64::MAX;

#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Open,
    Enqueue(Vec<NewJob>),
    Claim {
        session: u64,
        queues: Vec<String>,
        max: u64,
    },
    Finish(Vec<Finished>),
    Cancel(Vec<JobId>),
    Requeue(Vec<JobId>),
    Delete(Vec<JobId>),
    /// A batch, and the one around it.
    OpenBatch(JobId, Option<JobId>),
    SealBatch(JobId),
    CancelBatch(JobId),
    Close(u64),
    Expire(u64),
    Read {
        jobs: Vec<JobId>,
        consistency: Consistency,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    Local,
    Session,
    Linearizable,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    pub id: JobId,
    pub delay: u64,
    pub queue: String,
    pub priority: i64,
    pub max_attempts: u64,
    pub max_crashes: u64,
    pub crash_delay: u64,
    pub expires: bool,
    /// With the end that it waits for: 0 success, 1 failure, 2 finish.
    pub parents: Vec<(JobId, u64)>,
    pub batch: Option<JobId>,
    pub unique: Option<String>,
    /// It takes the key of one that waits.
    pub replaces: bool,
    pub limits: Vec<Limit>,
    /// Somebody moves it to another queue, or gives it another priority: nobody knows its place in line.
    pub moves: bool,
}

/// How many jobs of a key run at once; of a rate, how many start in a time that a history does not tell. Zero: the key takes
/// turns with others, and holds back nobody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit {
    pub rate: bool,
    pub key: String,
    pub n: u64,
}

/// What a worker says about one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    pub job: JobId,
    pub token: u64,
    pub end: End,
    pub delay: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Succeeded,
    Retry,
    Failed,
    Snooze,
    Release,
    Cancelled,
    Crashed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It may have taken effect, or may take effect later.
    Unknown,
    /// It never takes effect.
    NotCommitted,
    /// The session had ended. What was sent before under the same sequence may have taken effect before that.
    SessionExpired,
    /// For this reason, and nothing changed.
    Refused(String),
    Session(u64),
    Codes(Vec<u8>),
    Leases(Vec<Lease>),
    States(Vec<Option<String>>),
    Done,
}

const ENDS: [(&str, End); 7] = [
    ("succeeded", End::Succeeded),
    ("retry", End::Retry),
    ("failed", End::Failed),
    ("snooze", End::Snooze),
    ("release", End::Release),
    ("cancelled", End::Cancelled),
    ("crashed", End::Crashed),
];

/// Which end of a parent a job waits for.
const ONS: [(&str, u64); 3] = [("success", 0), ("failure", 1), ("finish", 2)];

const CONSISTENCIES: [(&str, Consistency); 3] =
    [("local", Consistency::Local), ("session", Consistency::Session), ("linearizable", Consistency::Linearizable)];

fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Result<T, String> {
    let found = names.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    found.ok_or_else(|| format!("`{name}` is none of {:?}", names.iter().map(|(known, _)| *known).collect::<Vec<_>>()))
}

fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> Json {
    Json::Text(names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name).into())
}

/// Reads a whole file of operations. An error names the line.
pub fn parse(text: &str) -> Result<Vec<Operation>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let operation = Json::parse(line).and_then(|json| Operation::of(&json));
            operation.map_err(|error| format!("line {}: {error}", number + 1))
        })
        .collect()
}

/// The other way.
pub fn print(operations: &[Operation]) -> String {
    operations.iter().map(|operation| format!("{}\n", operation.json())).collect()
}

impl Operation {
    fn of(json: &Json) -> Result<Self, String> {
        let arguments = json.get("arguments");
        let ids = || arguments.get("jobs").list(id);
        let session = || arguments.get("session").number();
        let act = match json.get("operation").text()? {
            "open" => Act::Open,
            "enqueue" => Act::Enqueue(arguments.get("jobs").list(new_job)?),
            "claim" => {
                let queues = match arguments.get("queues") {
                    Json::Null => vec!["default".into()],
                    queues => queues.list(|queue| queue.text().map(str::to_owned))?,
                };
                Act::Claim { session: session()?, queues, max: arguments.get("max").number()? }
            }
            "finish" => Act::Finish(arguments.get("results").list(finished)?),
            "cancel" => Act::Cancel(ids()?),
            "requeue" => Act::Requeue(ids()?),
            "delete" => Act::Delete(ids()?),
            "open_batch" => Act::OpenBatch(id(arguments.get("batch"))?, optional_id(arguments.get("outer"))?),
            "seal_batch" => Act::SealBatch(id(arguments.get("batch"))?),
            "cancel_batch" => Act::CancelBatch(id(arguments.get("batch"))?),
            "close" => Act::Close(session()?),
            "expire" => Act::Expire(session()?),
            "read" => Act::Read {
                jobs: ids()?,
                consistency: named(&CONSISTENCIES, arguments.get("consistency").text().unwrap_or("linearizable"))?,
            },
            other => return Err(format!("operation `{other}` is not known")),
        };
        let request = match json.get("sequence") {
            Json::Null => None,
            sequence => Some((json.get("session").number()?, sequence.number()?)),
        };
        let index = (*json.get("index") != Json::Null).then(|| json.get("index").number()).transpose()?;
        let answer = answer(&act, json)?;
        Ok(Operation {
            process: json.get("process").number()?,
            began: json.get("began").number()?,
            ended: json.get("ended").number_or(NEVER)?,
            request,
            act,
            index,
            answer,
        })
    }

    pub fn json(&self) -> Json {
        let (name, arguments) = self.act.json();
        let optional = |number: Option<u64>| number.map_or(Json::Null, whole);
        let (answer, error) = match &self.answer {
            Answer::Unknown => (Json::Null, Json::Null),
            Answer::NotCommitted => (Json::Null, Json::Text("not_committed".into())),
            Answer::SessionExpired => (Json::Null, Json::Text("session_expired".into())),
            Answer::Refused(code) => (Json::Null, Json::Text(code.clone())),
            Answer::Session(session) => (whole(*session), Json::Null),
            Answer::Codes(codes) => (Json::List(codes.iter().map(|code| whole((*code).into())).collect()), Json::Null),
            Answer::Leases(leases) => (Json::List(leases.iter().map(lease_json).collect()), Json::Null),
            Answer::States(states) => {
                let state = |state: &Option<String>| state.clone().map_or(Json::Null, Json::Text);
                (Json::List(states.iter().map(state).collect()), Json::Null)
            }
            Answer::Done => (Json::Bool(true), Json::Null),
        };
        map([
            ("process", whole(self.process)),
            ("began", whole(self.began)),
            ("ended", optional((self.ended != NEVER).then_some(self.ended))),
            ("session", optional(self.request.map(|request| request.0))),
            ("sequence", optional(self.request.map(|request| request.1))),
            ("operation", Json::Text(name.into())),
            ("arguments", arguments),
            ("index", optional(self.index)),
            ("answer", answer),
            ("error", error),
        ])
    }
}

impl Act {
    fn json(&self) -> (&'static str, Json) {
        let ids = |jobs: &[JobId]| Json::List(jobs.iter().map(id_json).collect());
        match self {
            Act::Open => ("open", map([])),
            Act::Enqueue(jobs) => ("enqueue", map([("jobs", Json::List(jobs.iter().map(NewJob::json).collect()))])),
            Act::Claim { session, queues, max } => {
                let queues = Json::List(queues.iter().map(|queue| Json::Text(queue.clone())).collect());
                ("claim", map([("session", whole(*session)), ("queues", queues), ("max", whole(*max))]))
            }
            Act::Finish(results) => {
                let one = |result: &Finished| {
                    map([
                        ("job", Json::Text(result.job.to_string())),
                        ("token", whole(result.token)),
                        ("end", name_of(&ENDS, result.end)),
                        ("delay", whole(result.delay)),
                    ])
                };
                ("finish", map([("results", Json::List(results.iter().map(one).collect()))]))
            }
            Act::Cancel(jobs) => ("cancel", map([("jobs", ids(jobs))])),
            Act::Requeue(jobs) => ("requeue", map([("jobs", ids(jobs))])),
            Act::Delete(jobs) => ("delete", map([("jobs", ids(jobs))])),
            Act::OpenBatch(batch, outer) => {
                let outer = outer.as_ref().map_or(Json::Null, id_json);
                ("open_batch", map([("batch", id_json(batch)), ("outer", outer)]))
            }
            Act::SealBatch(batch) => ("seal_batch", map([("batch", id_json(batch))])),
            Act::CancelBatch(batch) => ("cancel_batch", map([("batch", id_json(batch))])),
            Act::Close(session) => ("close", map([("session", whole(*session))])),
            Act::Expire(session) => ("expire", map([("session", whole(*session))])),
            Act::Read { jobs, consistency } => {
                ("read", map([("jobs", ids(jobs)), ("consistency", name_of(&CONSISTENCIES, *consistency))]))
            }
        }
    }

    /// Whether it makes a log entry.
    pub fn is_write(&self) -> bool {
        !matches!(self, Act::Read { .. })
    }
}

impl NewJob {
    fn json(&self) -> Json {
        map([
            ("id", Json::Text(self.id.to_string())),
            ("delay", whole(self.delay)),
            ("queue", Json::Text(self.queue.clone())),
            ("priority", Json::Number(self.priority)),
            ("max_attempts", whole(self.max_attempts)),
            ("max_crashes", whole(self.max_crashes)),
            ("crash_delay", whole(self.crash_delay)),
            ("expires", Json::Bool(self.expires)),
            (
                "parents",
                some(
                    self.parents.iter().map(|(parent, on)| map([("job", id_json(parent)), ("on", name_of(&ONS, *on))])),
                ),
            ),
            ("batch", self.batch.as_ref().map_or(Json::Null, id_json)),
            ("unique", self.unique.clone().map_or(Json::Null, Json::Text)),
            ("replace", if self.replaces { Json::Bool(true) } else { Json::Null }),
            ("moves", if self.moves { Json::Bool(true) } else { Json::Null }),
            (
                "limits",
                some(self.limits.iter().map(|limit| {
                    map([
                        ("key", Json::Text(limit.key.clone())),
                        ("n", whole(limit.n)),
                        ("rate", if limit.rate { Json::Bool(true) } else { Json::Null }),
                    ])
                })),
            ),
        ])
    }
}

fn map<const N: usize>(items: [(&str, Json); N]) -> Json {
    let known = items.into_iter().filter(|(_, value)| *value != Json::Null);
    Json::Map(known.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn id_json(id: &JobId) -> Json {
    Json::Text(id.to_string())
}

/// A list, or nothing if it is empty.
fn some(items: impl Iterator<Item = Json>) -> Json {
    let items: Vec<Json> = items.collect();
    if items.is_empty() {
        Json::Null
    } else {
        Json::List(items)
    }
}

fn whole(number: u64) -> Json {
    Json::Number(i64::try_from(number).expect("numbers of a history are small"))
}

fn lease_json(lease: &Lease) -> Json {
    map([
        ("job", Json::Text(lease.job.to_string())),
        ("token", whole(lease.token)),
        ("attempt", whole(lease.attempt)),
        ("crashes", whole(lease.crashes)),
    ])
}

fn answer(act: &Act, json: &Json) -> Result<Answer, String> {
    let value = json.get("answer");
    match json.get("error") {
        Json::Null => {}
        error => return failure(error.text()?),
    }
    if *value == Json::Null {
        return Ok(Answer::Unknown);
    }
    Ok(match act {
        Act::Open => Answer::Session(value.number()?),
        Act::Claim { .. } => Answer::Leases(value.list(lease)?),
        Act::Close(_) | Act::Expire(_) => Answer::Done,
        Act::Read { jobs, .. } => {
            let states =
                value.list(|state| if *state == Json::Null { Ok(None) } else { Ok(Some(state.text()?.into())) })?;
            same_length(jobs.len(), states.len())?;
            Answer::States(states)
        }
        Act::Enqueue(jobs) => codes(jobs.len(), value)?,
        Act::Finish(results) => codes(results.len(), value)?,
        Act::Cancel(jobs) | Act::Requeue(jobs) | Act::Delete(jobs) => codes(jobs.len(), value)?,
        Act::OpenBatch(..) | Act::SealBatch(_) | Act::CancelBatch(_) => codes(1, value)?,
    })
}

fn failure(name: &str) -> Result<Answer, String> {
    match name {
        "unknown" => Ok(Answer::Unknown),
        "not_committed" => Ok(Answer::NotCommitted),
        "session_expired" => Ok(Answer::SessionExpired),
        known if crate::flows::refusal(known).is_some() => Ok(Answer::Refused(known.into())),
        other => Err(format!("error `{other}` is not known")),
    }
}

fn codes(asked: usize, value: &Json) -> Result<Answer, String> {
    let codes = value.list(|code| code.number().map(|code| code as u8))?;
    same_length(asked, codes.len())?;
    Ok(Answer::Codes(codes))
}

fn same_length(asked: usize, answered: usize) -> Result<(), String> {
    if asked == answered {
        Ok(())
    } else {
        Err(format!("{answered} answers to {asked} items"))
    }
}

/// A UUID, or a name of at most 16 letters.
fn id(json: &Json) -> Result<JobId, String> {
    let text = json.text()?;
    if text.len() <= 16 && text.is_ascii() {
        return Ok(crate::wire::id(text));
    }
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    let number = u128::from_str_radix(&digits, 16).map_err(|_| format!("`{text}` is not the id of a job"))?;
    Ok(JobId(number.to_be_bytes()))
}

fn optional_id(json: &Json) -> Result<Option<JobId>, String> {
    (*json != Json::Null).then(|| id(json)).transpose()
}

fn list<T>(json: &Json, item: fn(&Json) -> Result<T, String>) -> Result<Vec<T>, String> {
    if *json == Json::Null {
        Ok(Vec::new())
    } else {
        json.list(item)
    }
}

fn parent(json: &Json) -> Result<(JobId, u64), String> {
    Ok((id(json.get("job"))?, named(&ONS, json.get("on").text().unwrap_or("success"))?))
}

fn limit(json: &Json) -> Result<Limit, String> {
    let (key, n) = (json.get("key").text()?.into(), json.get("n").number()?);
    Ok(Limit { rate: *json.get("rate") == Json::Bool(true), key, n })
}

fn new_job(json: &Json) -> Result<NewJob, String> {
    Ok(NewJob {
        id: id(json.get("id"))?,
        delay: json.get("delay").number_or(0)?,
        queue: json.get("queue").text().unwrap_or("default").into(),
        priority: match json.get("priority") {
            Json::Number(priority) => *priority,
            _ => 0,
        },
        max_attempts: json.get("max_attempts").number_or(3)?,
        max_crashes: json.get("max_crashes").number_or(3)?,
        crash_delay: json.get("crash_delay").number_or(0)?,
        expires: *json.get("expires") == Json::Bool(true),
        parents: list(json.get("parents"), parent)?,
        batch: optional_id(json.get("batch"))?,
        unique: json.get("unique").text().ok().map(str::to_owned),
        replaces: *json.get("replace") == Json::Bool(true),
        limits: list(json.get("limits"), limit)?,
        moves: *json.get("moves") == Json::Bool(true),
    })
}

fn finished(json: &Json) -> Result<Finished, String> {
    Ok(Finished {
        job: id(json.get("job"))?,
        token: json.get("token").number()?,
        end: named(&ENDS, json.get("end").text().unwrap_or("succeeded"))?,
        delay: json.get("delay").number_or(0)?,
    })
}

fn lease(json: &Json) -> Result<Lease, String> {
    Ok(Lease {
        job: id(json.get("job"))?,
        token: json.get("token").number()?,
        attempt: json.get("attempt").number_or(1)?,
        crashes: json.get("crashes").number_or(0)?,
        outputs: Vec::new(),
    })
}
