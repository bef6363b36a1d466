//! What a request is about, for whoever must decide before it enters the log whether its sender may ask for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::command::{self, Command};
use crate::base::{JobId, Result, SessionId};

/// What the sender of a request must be allowed to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing beyond its own session.
    Nothing,
    /// To put jobs into these queues, and if they take results of others, to read.
    Enqueue { queues: BTreeSet<Arc<str>>, outputs: bool },
    /// To open or seal a batch: to put jobs into some queue, or to operate.
    Batch,
    /// To take jobs of these queues.
    Claim(BTreeSet<Arc<str>>),
    /// To hold this lock, or to take it from who holds it.
    Lock(Arc<str>),
    /// To say how runs of these jobs went.
    Finish(Vec<JobId>),
    /// To change this schedule: to operate, or to put jobs into its queue and, when it is put, into the one that it names.
    Schedule(Arc<str>, Option<Arc<str>>),
    /// To fire this schedule: to take jobs of its queue, or to put jobs into it.
    Fire(Arc<str>),
    /// To have one session more.
    Session,
    /// To change jobs and queues of others.
    Operate,
    /// Only nodes say this.
    Node,
}

/// What a request is about, and the sessions that it names.
///
/// # Errors
/// `Invalid`: it cannot be read.
pub fn needs(request: &[u8]) -> Result<(Needs, BTreeSet<SessionId>)> {
    let request = command::decode(request)?;
    let mut sessions = BTreeSet::from([request.session]);
    let needs = match request.command {
        // What somebody gives up is its session's, and a session its owner's.
        Command::OpenSession(_) => Needs::Session,
        Command::GiveUp(_) => Needs::Nothing,
        // Below the level of shared locks one is freed by its token alone, and tokens are no secret.
        Command::Lock { name, .. } | Command::Acquire { name, .. } | Command::Unlock { name, .. } => {
            Needs::Lock(name.into())
        }
        Command::CloseSession(session) => {
            sessions.insert(session);
            Needs::Nothing
        }
        Command::Enqueue { specs, jobs } => {
            // Also those of the same request: a job that there is already keeps its id, or its unique key.
            let mut parents = jobs.iter().filter_map(|job| job.joining.as_deref()).flat_map(|joining| &joining.parents);
            let outputs = parents.any(|(_, _, uses)| *uses);
            Needs::Enqueue { queues: specs.into_iter().map(|spec| spec.queue).collect(), outputs }
        }
        Command::Claim(claim) => {
            sessions.insert(claim.session);
            Needs::Claim(claim.queues.iter().map(|(queue, _)| Arc::from(*queue)).collect())
        }
        Command::Finish(results) => Needs::Finish(results.iter().map(|result| result.id).collect()),
        Command::Progress(items) => Needs::Finish(items.iter().map(|item| item.id).collect()),
        Command::OpenBatch { .. } | Command::SealBatch(_) => Needs::Batch,
        Command::Cancel { .. } | Command::CancelBatch { .. } => Needs::Operate,
        Command::Requeue(_) | Command::Delete(_) | Command::Change(_) => Needs::Operate,
        Command::PauseQueue { .. } | Command::ResumeQueue(_) | Command::LimitQueue { .. } => Needs::Operate,
        Command::PutSchedule(put) => Needs::Schedule(put.name.into(), Some(put.plan.spec.queue)),
        Command::DeleteSchedule(name) | Command::PauseSchedule { name, .. } => Needs::Schedule(name.into(), None),
        Command::TriggerSchedule { name, .. } => Needs::Schedule(name.into(), None),
        Command::FireSchedule { at, .. } | Command::MoveSchedule(at) => Needs::Fire(at.name.into()),
        Command::ExpireSession(_) | Command::Tick { .. } | Command::Evict { .. } | Command::Restore(_) => Needs::Node,
        Command::PutMember(_) | Command::DropMember(_) | Command::Digest { .. } | Command::SetLevel(_) => Needs::Node,
        Command::PutToken(_) | Command::RevokeToken { .. } | Command::Note(_) => Needs::Node,
        Command::PutInvitation { .. } | Command::UseInvitation { .. } => Needs::Node,
        #[cfg(feature = "sim")]
        Command::Future => Needs::Node,
    };
    // Zero is no session.
    sessions.remove(&SessionId(0));
    Ok((needs, sessions))
}
