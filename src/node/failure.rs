//! Why a node stopped, and whether opening its directory again can mend that.
//!
//! | failure                        | opening the directory again                                             |
//! |--------------------------------|-------------------------------------------------------------------------|
//! | the disk                       | mends it: what is stored is read afresh                                 |
//! | a panic                        | may mend it; not if it comes again at the same entry, see `client`      |
//! | removed, or given up           | is refused, see `disk::gone`                                            |
//! | the state differs (L6)         | is refused, see `disk::differs`                                         |

use super::{Node, Shared};
use crate::base::{Error, LogIndex};
use crate::disk::differs;

/// Why a node stopped.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// Without the words that every such error begins with.
    pub cause: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The disk as a rule; or that it is no member any more.
    Other,
    /// A panic, when everything up to this entry was applied.
    Panic { applied: LogIndex },
    /// Its state is not that of the others; `noted`: the directory says so.
    Differs { noted: bool },
}

impl Failure {
    pub fn error(&self) -> Error {
        match self.kind {
            Kind::Differs { .. } => Error::Differs(self.cause.clone()),
            _ => Error::Poisoned(self.cause.clone()),
        }
    }
}

impl Node {
    /// Why the node stopped by itself, if it did.
    pub fn failure(&self) -> Option<Error> {
        self.shared.failure.lock().as_ref().map(Failure::error)
    }

    /// If the node stopped in a panic: up to which entry everything was applied then.
    pub fn panicked_at(&self) -> Option<LogIndex> {
        match self.shared.failure.lock().as_ref()?.kind {
            Kind::Panic { applied } => Some(applied),
            _ => None,
        }
    }

    /// Why nobody may open the directory again, where the directory itself could not be made to say so.
    pub fn must_stay_closed(&self) -> Option<Error> {
        let failure = self.shared.failure.lock();
        failure.as_ref().filter(|failure| failure.kind == Kind::Differs { noted: false }).map(Failure::error)
    }
}

impl Shared {
    /// What stopped this node, and what must not be forgotten of it. `applied`: up to where its state reached.
    pub(super) fn failure_of(&self, error: &Error, panicked: bool, applied: LogIndex) -> Failure {
        match error {
            Error::Differs(what) => {
                let cause = self.differs(what);
                let noted = differs::note(&*self.config.disk, &self.config.dir, &cause);
                if let Err(error) = &noted {
                    log::error!("it was not written down that the state of this node differs: {error}");
                }
                Failure { cause, kind: Kind::Differs { noted: noted.is_ok() } }
            }
            Error::Poisoned(cause) if panicked => Failure { cause: cause.clone(), kind: Kind::Panic { applied } },
            Error::Poisoned(cause) => Failure { cause: cause.clone(), kind: Kind::Other },
            other => Failure { cause: other.to_string(), kind: Kind::Other },
        }
    }

    /// What happened to a member whose state differs, and what to do.
    fn differs(&self, what: &str) -> String {
        let (dir, node) = (self.config.dir.display(), self.identity.node);
        let address = self.config.cluster.as_ref().map(|cluster| cluster.reached().to_string()).unwrap_or_default();
        format!(
            "{what}. It serves nothing any more, and {dir} is not opened again; what is in it is evidence: raftwork doctor \
             {dir}. To bring the member back, set the directory aside: mv {dir} {dir}.differs. Then run raftwork cluster \
             replace {node} {address} and start the node as before; or run raftwork cluster remove {node} first, and then \
             start it"
        )
    }
}
