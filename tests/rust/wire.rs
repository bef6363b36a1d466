//! Commands as a test writes them, and their bytes; answers as a test reads them.

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::JobId;
use raftwork::machine::Mode;

#[path = "wire/changes.rs"]
mod changes;
#[path = "wire/claims.rs"]
pub mod claims;
pub use claims::claimed;
#[path = "wire/limits.rs"]
pub mod limits;
#[path = "wire/locks.rs"]
mod locks;
#[path = "wire/schedules.rs"]
pub mod schedules;
use limits::limits;
pub use limits::Limit;
use locks::lock;
use schedules::Recur;
#[path = "wire/flows.rs"]
pub mod flows;
use flows::Batch;

#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub function: String,
    pub queue: String,
    pub priority: i64,
    pub max_attempts: u64,
    pub max_crashes: u64,
    pub timeout: Option<u64>,
    pub keep_result: u64,
    pub keep_failed: u64,
    pub tags: Vec<String>,
    /// 0 skip, 1 replace, 2 raise.
    pub unique_mode: u64,
    pub unique_window: Option<u64>,
    pub expires: Option<u64>,
    pub crash_delay: u64,
    pub meta: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            function: "f".into(),
            queue: "default".into(),
            priority: 0,
            max_attempts: 3,
            max_crashes: 3,
            timeout: None,
            keep_result: 86_400_000,
            keep_failed: 1_209_600_000,
            tags: Vec::new(),
            unique_mode: 0,
            unique_window: None,
            expires: None,
            crash_delay: 0,
            meta: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Job {
    pub id: JobId,
    pub spec: u64,
    pub args: Vec<u8>,
    pub delay: u64,
    pub run_at: Option<u64>,
    pub unique: Option<String>,
    /// Parent, 0 success 1 failure 2 finish, whether its result is used.
    pub parents: Vec<(JobId, u64, bool)>,
    pub batch: Option<JobId>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug)]
pub enum End {
    Succeeded(Option<Vec<u8>>),
    Retry(u64, String),
    Failed(String),
    /// With a reason, if it is not empty.
    Snooze(u64, String),
    Release,
    Cancelled(String),
    Crashed(String),
}

#[derive(Clone, Debug)]
pub struct Note {
    pub id: JobId,
    pub token: u64,
    pub progress: Option<Vec<u8>>,
    pub state: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum Command {
    Open {
        ttl: u64,
        kind: String,
        host: String,
    },
    Close(u64),
    Expire(u64),
    Enqueue {
        specs: Vec<Spec>,
        jobs: Vec<Job>,
    },
    Claim {
        session: u64,
        queues: Vec<(String, u64)>,
        strict: bool,
        functions: Vec<String>,
        max: u64,
    },
    Finish(Vec<(JobId, u64, End)>),
    Progress(Vec<Note>),
    Cancel {
        ids: Vec<JobId>,
        reason: String,
    },
    Requeue(Vec<JobId>),
    Delete(Vec<JobId>),
    Pause {
        queue: String,
        until: Option<u64>,
        reason: String,
    },
    Resume(String),
    Tick(u64),
    Evict(u64),
    Restore(Vec<Vec<u8>>),
    Own(Own),
    /// A number of the session, the name, whether it waits.
    Lock(u64, String, bool),
    Acquire(u64, String, Mode, bool),
    Unlock(String, u64),
    GiveUp(u64),
    Recur(Recur),
    Batch(Batch),
    LimitQueue(String, Option<u64>),
    Move(Vec<JobId>, String),
    SetPriority(Vec<JobId>, i64),
}

/// What only nodes write, about the cluster itself.
#[derive(Clone, Debug)]
pub enum Own {
    PutMember {
        node: u64,
        name: String,
        raft: String,
        client: String,
    },
    DropMember(u64),
    Digest {
        index: u64,
        digest: u64,
    },
    SetLevel(u64),
    PutToken {
        actor: String,
        name: String,
        secret: String,
        can: Vec<String>,
        expires: Option<u64>,
        overlap: Option<u64>,
    },
    RevokeToken {
        actor: String,
        which: String,
    },
    PutInvitation {
        actor: String,
        secret: String,
        role: String,
        expires: u64,
    },
    UseInvitation {
        actor: String,
        secret: String,
    },
    Note {
        actor: String,
        what: String,
        about: String,
    },
    /// The operation of the next version.
    Future,
}

/// What stands for the SHA-256 of a secret: tests read better with digests that show their secret.
pub fn digest(secret: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..secret.len()].copy_from_slice(secret.as_bytes());
    digest
}

/// The bytes of an error: `[type, message, traceback]`. `Type#digits` is one with this fingerprint.
pub fn error(kind: &str) -> Vec<u8> {
    let (kind, traceback) = match kind.split_once('#') {
        Some((kind, fingerprint)) => (kind, format!("Traceback\n\nFingerprint: {fingerprint}\n")),
        None => (kind, "Traceback".to_owned()),
    };
    let mut w = Writer::new();
    w.array(3).str(kind).str("it broke").str(&traceback);
    w.into_bytes()
}

/// An id that reads as its name.
pub fn id(name: &str) -> JobId {
    let mut bytes = [b'.'; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    JobId(bytes)
}

/// The whole request.
pub fn request(session: u64, sequence: u64, acked: u64, command: &Command) -> Vec<u8> {
    let mut w = Writer::new();
    w.array(4).u64(session).u64(sequence).u64(acked).raw(&command.encode());
    w.into_bytes()
}

fn number(w: &mut Writer, value: Option<u64>) {
    w.option(value, |w, value| {
        w.u64(value);
    });
}

fn bytes(w: &mut Writer, value: Option<&Vec<u8>>) {
    w.option(value, |w, value| {
        w.bin(value);
    });
}

impl Spec {
    fn encode(&self, w: &mut Writer) {
        w.array(14).str(&self.function).str(&self.queue).i64(self.priority).u64(self.max_attempts);
        w.u64(self.max_crashes);
        number(w, self.timeout);
        w.u64(self.keep_result).u64(self.keep_failed).array(self.tags.len());
        for tag in &self.tags {
            w.str(tag);
        }
        w.u64(self.unique_mode);
        number(w, self.unique_window);
        number(w, self.expires);
        w.u64(self.crash_delay).bin(&self.meta);
    }
}

impl Command {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Command::Open { ttl, kind, host } => {
                w.array(6).u64(1).u64(*ttl).str(kind).str(host).u64(4_711).array(0);
            }
            Command::Close(session) => of_number(&mut w, 2, *session),
            Command::Expire(session) => of_number(&mut w, 3, *session),
            Command::Enqueue { specs, jobs } => enqueue(&mut w, specs, jobs),
            Command::Claim { session, queues, strict, functions, max } => {
                w.array(6).u64(5).u64(*session).array(queues.len());
                for (name, weight) in queues {
                    w.array(2).str(name).u64(*weight);
                }
                w.bool(*strict).array(functions.len());
                for name in functions {
                    w.str(name);
                }
                w.u64(*max);
            }
            Command::Finish(results) => {
                w.array(2).u64(6).array(results.len());
                for (id, token, end) in results {
                    finish(&mut w, *id, *token, end);
                }
            }
            Command::Progress(notes) => {
                w.array(2).u64(7).array(notes.len());
                for note in notes {
                    w.array(4).id(note.id).u64(note.token);
                    bytes(&mut w, note.progress.as_ref());
                    bytes(&mut w, note.state.as_ref());
                }
            }
            Command::Cancel { ids, reason } => {
                list(&mut w, 3, 8, ids);
                w.str(reason);
            }
            Command::Requeue(ids) => list(&mut w, 2, 9, ids),
            Command::Delete(ids) => list(&mut w, 2, 10, ids),
            Command::Pause { queue, until, reason } => {
                w.array(4).u64(11).str(queue);
                number(&mut w, *until);
                w.str(reason);
            }
            Command::Resume(queue) => {
                w.array(2).u64(12).str(queue);
            }
            Command::Tick(items) => of_number(&mut w, 13, *items),
            Command::Evict(ordinal) => of_number(&mut w, 14, *ordinal),
            Command::Restore(records) => {
                w.array(2).u64(15).array(records.len());
                for record in records {
                    w.bin(record);
                }
            }
            Command::Own(own) => own.encode(&mut w),
            Command::Recur(recur) => recur.encode(&mut w),
            Command::Batch(batch) => batch.encode(&mut w),
            Command::LimitQueue(queue, limit) => number(w.array(3).u64(50).str(queue), *limit),
            Command::Move(..) | Command::SetPriority(..) => changes::encode(&mut w, self),
            Command::Lock(..) | Command::Acquire(..) | Command::Unlock(..) | Command::GiveUp(_) => lock(&mut w, self),
        }
        w.into_bytes()
    }
}

/// A command of one number.
impl Own {
    fn encode(&self, w: &mut Writer) {
        match self {
            Own::PutMember { node, name, raft, client } => {
                w.array(5).u64(16).u64(*node).str(name).str(raft).str(client);
            }
            Own::DropMember(node) => {
                w.array(2).u64(17).u64(*node);
            }
            Own::Digest { index, digest } => {
                w.array(3).u64(18).u64(*index).u64(*digest);
            }
            Own::SetLevel(level) => {
                w.array(2).u64(19).u64(*level);
            }
            Own::Future => {
                w.array(1).u64(raftwork::machine::FUTURE);
            }
            Own::PutToken { actor, name, secret, can, expires, overlap } => {
                w.array(7).u64(20).str(actor).str(name).bin(&digest(secret)).array(can.len());
                can.iter().for_each(|capability| {
                    w.str(capability);
                });
                number(w, *expires);
                number(w, *overlap);
            }
            Own::RevokeToken { actor, which } => {
                w.array(3).u64(21).str(actor).str(which);
            }
            Own::PutInvitation { actor, secret, role, expires } => {
                w.array(5).u64(22).str(actor).bin(&digest(secret)).str(role).u64(*expires);
            }
            Own::UseInvitation { actor, secret } => {
                w.array(3).u64(23).str(actor).bin(&digest(secret));
            }
            Own::Note { actor, what, about } => {
                w.array(4).u64(24).str(actor).str(what).str(about);
            }
        }
    }
}

fn of_number(w: &mut Writer, op: u64, number: u64) {
    w.array(2).u64(op).u64(number);
}

fn list(w: &mut Writer, items: usize, op: u64, ids: &[JobId]) {
    w.array(items).u64(op).array(ids.len());
    for id in ids {
        w.id(*id);
    }
}

fn enqueue(w: &mut Writer, specs: &[Spec], jobs: &[Job]) {
    w.array(3).u64(4).array(specs.len());
    for spec in specs {
        spec.encode(w);
    }
    w.array(jobs.len());
    for job in jobs {
        w.array(6 + usize::from(flows::has_extras(job))).id(job.id).u64(job.spec).bin(&job.args).u64(job.delay);
        number(w, job.run_at);
        w.option(job.unique.as_deref(), |w, key| {
            w.str(key);
        });
        flows::extras(w, job);
    }
}

fn finish(w: &mut Writer, id: JobId, token: u64, end: &End) {
    let items = match end {
        End::Retry(..) => 5,
        End::Release => 3,
        End::Snooze(_, reason) => 4 + usize::from(!reason.is_empty()),
        _ => 4,
    };
    w.array(items).id(id).u64(token);
    match end {
        End::Succeeded(result) => {
            w.u64(0);
            bytes(w, result.as_ref());
        }
        End::Retry(delay, kind) => {
            w.u64(1).u64(*delay).bin(&error(kind));
        }
        End::Failed(kind) => {
            w.u64(2).bin(&error(kind));
        }
        End::Snooze(delay, reason) => {
            w.u64(3).u64(*delay);
            if !reason.is_empty() {
                w.str(reason);
            }
        }
        End::Release => {
            w.u64(4);
        }
        End::Cancelled(reason) => {
            w.u64(5).str(reason);
        }
        End::Crashed(kind) => {
            w.u64(6).bin(&error(kind));
        }
    }
}

/// An answer: the payload, or the code and message of a refusal.
pub type Reply = Result<Vec<u8>, (String, String, Vec<u8>)>;

/// Index and content of an answer.
pub fn reply(bytes: &[u8]) -> (u64, Reply) {
    let r = &mut Reader::new(bytes);
    r.array_of(3, "a reply").expect("a reply is an array");
    let (status, index) = (r.u64().expect("a status"), r.u64().expect("an index"));
    if status == 0 {
        return (index, Ok(r.rest().to_vec()));
    }
    r.array_of(3, "a refusal").expect("a refusal is an array");
    let code = r.str().expect("a code").to_owned();
    let message = r.str().expect("a message").to_owned();
    (index, Err((code, message, r.rest().to_vec())))
}
