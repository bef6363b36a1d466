//! Who asks, and whether they may. Judged on the node that was asked, before a request enters the log: whether a token has
//! expired depends on the time, and replicas that judged it while they apply could disagree. That node may be behind, so what
//! it does not know is judged after it has caught up with what was answered anywhere.
//!
//! | who                                              | may                                              |
//! |--------------------------------------------------|--------------------------------------------------|
//! | a process of the same user, over the directory's socket | everything                                |
//! | the certificate of a node, or of `client/admin`  | everything                                       |
//! | the certificate of another client                | everything but what needs `admin`                |
//! | a token                                          | what its capabilities say                        |
//! | anybody, where connections are not protected     | everything                                       |
//!
//! | capability        | allows                                                                        |
//! |-------------------|-------------------------------------------------------------------------------|
//! | `enqueue:<queue>` | to put jobs and schedules into queues that fit, to open and seal batches; `*` is any letters |
//! | `work:<queue>`    | to take their jobs and say how they went, and to fire their schedules        |
//! | `lock:<name>`     | to hold locks whose names fit, and to free them                               |
//! | `read`            | to see jobs with arguments, results and log lines, queues, health; to pass results on |
//! | `operate`         | to cancel, retry, delete and move jobs, to end batches, to pause queues, to change schedules |
//! | `admin`           | to change members, tokens and invitations, and to take copies of the state    |
//!
//! What holds
//! * A session belongs to whoever opened it: the door writes the name into its labels, and lets nobody else use it.
//! * A name is one of the cluster's making: `token/<name>` or `client/<name>`. Two tokens of one name are the same one.

use std::fmt;
use std::sync::Arc;

use super::{Node, Shared};
use crate::base::codec::{Reader, Writer};
use crate::base::limits::SESSIONS_OF_ONE_MAX;
use crate::base::{Error, Millis, Result, SessionId};
use crate::machine::{needs, Digest, Needs, Token};
use crate::net::token::same_digest;
use crate::net::Role;

/// The label of a session that says whose it is.
const OWNER: &str = "principal";
/// The client whose certificate lets it change the cluster.
const OPERATOR: &str = "admin";

/// Something that a client may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    Enqueue(Arc<str>),
    Work(Arc<str>),
    Lock(Arc<str>),
    Read,
    Operate,
    Admin,
}

impl Capability {
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match (text, text.split_once(':')) {
            ("read", _) => Self::Read,
            ("operate", _) => Self::Operate,
            ("admin", _) => Self::Admin,
            (_, Some(("enqueue", queue))) if !queue.is_empty() => Self::Enqueue(queue.into()),
            (_, Some(("work", queue))) if !queue.is_empty() => Self::Work(queue.into()),
            (_, Some(("lock", name))) if !name.is_empty() => Self::Lock(name.into()),
            _ => {
                return Err(Error::Invalid(format!(
                "capability {text:?}: write enqueue:QUEUE, work:QUEUE, lock:NAME, read, operate or admin; * in QUEUE \
                     and NAME stands for any letters"
            )))
            }
        })
    }

    fn covers(&self, asked: &Capability) -> bool {
        match (self, asked) {
            (Self::Enqueue(pattern), Self::Enqueue(name))
            | (Self::Work(pattern), Self::Work(name))
            | (Self::Lock(pattern), Self::Lock(name)) => fits(pattern, name),
            _ => self == asked,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enqueue(queue) => write!(f, "enqueue:{queue}"),
            Self::Work(queue) => write!(f, "work:{queue}"),
            Self::Lock(name) => write!(f, "lock:{name}"),
            Self::Read => f.write_str("read"),
            Self::Operate => f.write_str("operate"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for any letters, also none.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        // The first place will do: what comes later has the more room.
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(tail)
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Principal {
    name: Arc<str>,
    rights: Rights,
    token: Option<Digest>,
}

#[derive(Clone, Debug)]
enum Rights {
    All,
    AllButAdmin,
    Only(Vec<Capability>),
}

impl Principal {
    /// Somebody who may do everything.
    pub fn trusted(name: &str) -> Self {
        Self { name: name.into(), rights: Rights::All, token: None }
    }

    /// Whom a certificate names.
    pub fn certified(role: &Role) -> Self {
        let rights = match role {
            Role::Client(name) if name != OPERATOR => Rights::AllButAdmin,
            _ => Rights::All,
        };
        Self { name: role.to_string().into(), rights, token: None }
    }

    fn of_token(token: &Token) -> Self {
        // One that this version does not know allows nothing here.
        let capabilities = token.capabilities.iter().filter_map(|text| Capability::parse(text).ok()).collect();
        let rights = Rights::Only(capabilities);
        Self { name: format!("token/{}", token.name).into(), rights, token: Some(token.digest) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The token that it came with.
    pub fn token(&self) -> Option<&Digest> {
        self.token.as_ref()
    }

    /// Whether a session with these labels is its own.
    fn is_owner(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        labels.iter().any(|(name, text)| &**name == OWNER && **text == *self.name)
    }

    /// Whether nothing is forbidden to it, so that nobody need look.
    pub fn is_trusted(&self) -> bool {
        matches!(self.rights, Rights::All)
    }

    /// # Errors
    /// `Denied`: it may not.
    pub fn must(&self, asked: &Capability) -> Result<()> {
        let may = match &self.rights {
            Rights::All => true,
            Rights::AllButAdmin => *asked != Capability::Admin,
            Rights::Only(capabilities) => capabilities.iter().any(|capability| capability.covers(asked)),
        };
        match may {
            true => Ok(()),
            false => Err(self.lacks(asked.to_string())),
        }
    }

    /// # Errors
    /// `Denied`: there is no queue into which it may put jobs.
    fn must_enqueue_somewhere(&self) -> Result<()> {
        match &self.rights {
            Rights::Only(all) if !all.iter().any(|capability| matches!(capability, Capability::Enqueue(_))) => {
                Err(self.lacks("enqueue:QUEUE".into()))
            }
            _ => Ok(()),
        }
    }

    fn lacks(&self, capability: String) -> Error {
        Error::Denied { principal: self.name.to_string(), capability }
    }
}

impl Node {
    /// What a joiner gets that shows an invitation, see `enrolling`.
    ///
    /// # Errors
    /// `Unauthenticated`: the invitation is used, has expired, or never was. `Invalid`: nothing can be signed here.
    pub fn enroll(&self, asked: &[u8]) -> Result<Vec<u8>> {
        self.shared.check_running()?;
        self.shared.enroll(asked)
    }

    /// Who shows the secret with this SHA-256. Nothing: it is revoked, has expired, or is not known here.
    pub fn principal(&self, digest: &Digest) -> Option<Principal> {
        let now = self.shared.judging_time();
        let machine = self.shared.machine.read();
        let mut found = None;
        // All of them, whichever it is: how long it takes says nothing.
        for token in machine.tokens() {
            if same_digest(&token.digest, digest) {
                found = Some(token);
            }
        }
        found.filter(|token| token.expires.is_none_or(|expires| now < expires)).map(Principal::of_token)
    }

    /// Refuses a request that its sender may not make. Otherwise gives it as it is to enter the log: a session that is
    /// opened gets its owner's name.
    ///
    /// # Errors
    /// `Denied`: the sender lacks a capability, or uses another's session. `Invalid`: the request cannot be read.
    /// `NotCommitted`: this node cannot tell now, as it is behind and no majority answers.
    pub fn authorize(&self, principal: &Principal, request: Vec<u8>) -> Result<Vec<u8>> {
        if principal.is_trusted() {
            return Ok(request);
        }
        let (needs, sessions) = needs(&request)?;
        self.when_known(|| {
            let mut known = self.shared.allows(principal, &needs)?;
            for session in &sessions {
                known &= self.shared.owns(principal, *session)?;
            }
            Ok(known)
        })?;
        named(request, principal)
    }

    /// Refuses somebody else's session. One that is not open is nobody's, and its use changes nothing.
    pub fn check_session(&self, principal: &Principal, session: SessionId) -> Result<()> {
        match principal.is_trusted() {
            true => Ok(()),
            false => self.when_known(|| self.shared.owns(principal, session)),
        }
    }

    /// Has this judged, again on the newest state if what is asked for is not known: this node may be behind, and whoever
    /// carries it out does not ask who wants it.
    fn when_known(&self, judge: impl Fn() -> Result<bool>) -> Result<()> {
        if !judge()? {
            let unsure =
                |error| Error::NotCommitted(format!("this node cannot tell now whether that is allowed: {error}"));
            self.shared.catch_up().map_err(unsure)?;
            judge()?;
        }
        Ok(())
    }
}

impl Shared {
    /// Refuses what this principal may not do. False: not everything is known that it is about.
    fn allows(&self, principal: &Principal, needs: &Needs) -> Result<bool> {
        let one_of = |capabilities: [Capability; 2]| {
            let [first, second] = capabilities;
            principal.must(&first).or_else(|_| principal.must(&second))
        };
        let may_change = |queue: &Arc<str>| one_of([Capability::Operate, Capability::Enqueue(queue.clone())]);
        let may_fire = |queue: &Arc<str>| one_of([Capability::Work(queue.clone()), Capability::Enqueue(queue.clone())]);
        // Only what fits any name fits this.
        let works_anywhere = || principal.must(&Capability::Work("*".into())).is_ok();
        match needs {
            Needs::Nothing => {}
            Needs::Session => self.has_room_for_session(principal)?,
            Needs::Enqueue { queues, outputs } => {
                queues.iter().try_for_each(|queue| principal.must(&Capability::Enqueue(queue.clone())))?;
                if *outputs {
                    principal.must(&Capability::Read)?;
                }
            }
            Needs::Batch => {
                principal.must(&Capability::Operate).or_else(|_| principal.must_enqueue_somewhere())?;
            }
            Needs::Claim(queues) => {
                queues.iter().try_for_each(|queue| principal.must(&Capability::Work(queue.clone())))?;
            }
            Needs::Lock(name) => principal.must(&Capability::Lock(name.clone()))?,
            Needs::Finish(jobs) => {
                let machine = self.machine.read();
                // What is not there any more changes nothing.
                let queues: Vec<_> =
                    jobs.iter().filter_map(|job| machine.job(*job)).map(|(_, spec)| spec.queue.clone()).collect();
                queues.iter().try_for_each(|queue| principal.must(&Capability::Work(queue.clone())))?;
                return Ok(queues.len() == jobs.len() || works_anywhere());
            }
            Needs::Schedule(name, queue) => {
                let own = self.machine.read().schedule_queue(name);
                own.iter().chain(queue).try_for_each(may_change)?;
                return Ok(own.is_some() || principal.must(&Capability::Operate).is_ok());
            }
            Needs::Fire(name) => {
                let own = self.machine.read().schedule_queue(name);
                own.iter().try_for_each(may_fire)?;
                return Ok(own.is_some() || works_anywhere());
            }
            Needs::Operate => principal.must(&Capability::Operate)?,
            Needs::Node => return Err(Error::Invalid("only nodes write this into the log".into())),
        }
        Ok(true)
    }

    /// Sessions are for everybody, so nobody gets all of them.
    fn has_room_for_session(&self, principal: &Principal) -> Result<()> {
        let machine = self.machine.read();
        let own = machine.session_labels().filter(|labels| principal.is_owner(labels));
        match own.take(SESSIONS_OF_ONE_MAX).count() < SESSIONS_OF_ONE_MAX {
            true => Ok(()),
            false => Err(Error::Overloaded(format!("{} has {SESSIONS_OF_ONE_MAX} sessions open", principal.name))),
        }
    }

    /// Refuses somebody else's session. False: it is not known.
    fn owns(&self, principal: &Principal, session: SessionId) -> Result<bool> {
        let machine = self.machine.read();
        let Some(session) = machine.session(session) else { return Ok(false) };
        match principal.is_owner(&session.labels) {
            true => Ok(true),
            false => Err(principal.lacks(format!("to use session {}, which is not its own", session.id))),
        }
    }

    /// The time by which tokens and invitations expire: this node's cluster time, which follows no jump of the wall clock,
    /// and never before what the log says.
    pub(super) fn judging_time(&self) -> Millis {
        let (wall, monotonic) = (self.config.clock.wall(), self.config.clock.monotonic());
        let own = self.stamp.lock().clone().now(wall, monotonic);
        own.max(self.machine.read().clock())
    }
}

/// The request, with the owner's name among the labels if it opens a session.
fn named(request: Vec<u8>, principal: &Principal) -> Result<Vec<u8>> {
    const OPEN_SESSION: u64 = 1;
    let mut reader = Reader::new(&request);
    reader.array()?;
    let head = [reader.u64()?, reader.u64()?, reader.u64()?];
    let items = reader.array()?;
    if reader.u64()? != OPEN_SESSION {
        return Ok(request);
    }
    let mut out = Writer::with_capacity(request.len() + 64);
    out.array(4);
    head.iter().for_each(|number| {
        out.u64(*number);
    });
    out.array(items).u64(OPEN_SESSION).u64(reader.u64()?).str(reader.str()?).str(reader.str()?).u64(reader.u64()?);
    let labels = reader.array()?;
    out.array(labels + 1).array(2).str(OWNER).str(&principal.name);
    for _ in 0..labels {
        reader.array_of(2, "a label")?;
        let name = reader.str()?;
        if name == OWNER {
            return Err(Error::Invalid(format!("labels: {OWNER} is written by the cluster; choose another name")));
        }
        out.array(2).str(name).str(reader.str()?);
    }
    Ok(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_as_a_person_reads_it() {
        for (pattern, fitting, others) in [
            ("mail", vec!["mail"], vec!["", "mails", "e-mail", "*"]),
            ("*", vec!["", "mail", "a:b"], vec![]),
            ("mail.*", vec!["mail.", "mail.out"], vec!["mail", "xmail.out"]),
            ("*.eu", vec![".eu", "mail.eu", "a.eu.eu"], vec!["mail.eux", "eu"]),
            ("a*b*c", vec!["abc", "axbxc", "abbcc"], vec!["ab", "acb", "bc"]),
            ("a*a", vec!["aa", "aba"], vec!["a"]),
            ("a**a", vec!["aa", "aba"], vec!["a"]),
        ] {
            fitting.iter().for_each(|name| assert!(fits(pattern, name), "{pattern} {name}"));
            others.iter().for_each(|name| assert!(!fits(pattern, name), "{pattern} {name}"));
        }
    }

    #[test]
    fn capabilities_are_read_and_shown_alike_or_refused() {
        for text in ["read", "operate", "admin", "enqueue:*", "work:mail.*", "lock:invoice:*"] {
            assert_eq!(Capability::parse(text).expect(text).to_string(), text);
        }
        for wrong in
            ["", "enqueue", "enqueue:", "work", "lock", "lock:", "write", "read:payload", "ADMIN", "enqueue mail"]
        {
            assert!(Capability::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// What a command needs.
    fn asked(command: &dyn Fn(&mut Writer) -> &mut Writer) -> Needs {
        let mut out = Writer::new();
        command(out.array(4).u64(7).u64(1).u64(0));
        needs(out.as_bytes()).expect("it can be read").0
    }

    #[test]
    fn a_schedule_is_changed_by_whoever_may_enqueue_and_fired_by_workers_too() {
        let changed = |queue: Option<&str>| Needs::Schedule("daily".into(), queue.map(Into::into));
        fn put(out: &mut Writer) -> &mut Writer {
            out.array(9).u64(33).str("daily").nil().str("api");
            out.array(14).str("f").str("mail").i64(0).u64(1).u64(1).nil().u64(0).u64(0).array(0).u64(0).nil().nil();
            out.u64(0).bin(b"").bin(b"").u64(0).bin(b"").nil()
        }
        assert_eq!(asked(&put), changed(Some("mail")));
        assert_eq!(asked(&|out| out.array(2).u64(35).str("daily")), changed(None));
        assert_eq!(asked(&|out| out.array(3).u64(36).str("daily").nil()), changed(None));
        assert_eq!(asked(&|out| out.array(3).u64(37).str("daily").bin(&[1; 16])), changed(None));
        let fired = || Needs::Fire("daily".into());
        assert_eq!(asked(&|out| out.array(6).u64(34).str("daily").u64(1).u64(5).nil().array(0)), fired());
        assert_eq!(asked(&|out| out.array(5).u64(38).str("daily").u64(1).u64(5).nil()), fired());
    }

    #[test]
    fn results_of_parents_are_taken_by_readers_and_batches_opened_by_whoever_enqueues() {
        fn enqueue(uses: Option<bool>) -> Needs {
            asked(&|out| {
                out.array(3).u64(4).array(1);
                out.array(14).str("f").str("mail").i64(0).u64(1).u64(1).nil().u64(0).u64(0).array(0).u64(0).nil().nil();
                out.u64(0).bin(b"").array(1);
                out.array(if uses.is_some() { 7 } else { 6 }).bin(&[2; 16]).u64(0).bin(b"").u64(0).nil().nil();
                match uses {
                    Some(uses) => out.map(1).u64(1).array(1).array(3).bin(&[1; 16]).u64(0).bool(uses),
                    None => out,
                }
            })
        }
        let needed = |outputs| Needs::Enqueue { queues: ["mail".into()].into(), outputs };
        assert_eq!(enqueue(None), needed(false));
        assert_eq!(enqueue(Some(false)), needed(false), "to wait for a job shows nothing of it");
        assert_eq!(enqueue(Some(true)), needed(true));
        assert_eq!(asked(&|out| out.array(4).u64(40).bin(&[1; 16]).str("month-end").nil()), Needs::Batch);
        assert_eq!(asked(&|out| out.array(2).u64(41).bin(&[1; 16])), Needs::Batch);
        assert_eq!(asked(&|out| out.array(3).u64(42).bin(&[1; 16]).str("")), Needs::Operate);
    }

    #[test]
    fn whoever_may_enqueue_into_some_queue_enqueues_somewhere() {
        let principal = |rights| Principal { name: "x".into(), rights, token: None };
        let only = |text: &str| principal(Rights::Only(vec![Capability::parse(text).expect(text)]));
        assert!(only("enqueue:mail").must_enqueue_somewhere().is_ok());
        assert!(only("work:mail").must_enqueue_somewhere().is_err());
        assert!(principal(Rights::AllButAdmin).must_enqueue_somewhere().is_ok());
    }

    #[test]
    fn a_lock_is_taken_and_freed_by_whoever_may_hold_it() {
        let of_lock = || Needs::Lock("invoice".into());
        assert_eq!(asked(&|out| out.array(4).u64(30).u64(1).str("invoice").bool(true)), of_lock());
        assert_eq!(asked(&|out| out.array(6).u64(60).u64(1).str("invoice").u64(1).u64(5).bool(true)), of_lock());
        assert_eq!(asked(&|out| out.array(3).u64(31).str("invoice").u64(9)), of_lock());
        assert_eq!(asked(&|out| out.array(2).u64(32).u64(1)), Needs::Nothing, "it is its session's own");
    }

    #[test]
    fn a_session_gets_its_owners_name_and_nobody_takes_another() {
        let token = Token {
            digest: [1; 32],
            name: "mail".into(),
            capabilities: vec!["read".into()],
            expires: None,
            made: Millis(0),
        };
        let principal = Principal::of_token(&token);
        let open = |label: &str| {
            let mut out = Writer::new();
            out.array(4).u64(0).u64(0).u64(0).array(6).u64(1).u64(15_000).str("client").str("box").u64(7);
            out.array(1).array(2).str(label).str("x");
            out.into_bytes()
        };
        let written = named(open("zone"), &principal).expect("a label is written");
        let request = needs(&written).expect("it can be read");
        assert_eq!(request.0, Needs::Session);
        assert!(written.windows(10).any(|part| part == b"token/mail"));
        assert!(named(open(OWNER), &principal).is_err());
    }
}
