//! Where a batch may stand. Whether one that is sealed is over depends on its members, which are judged apart (`follow`).

use super::Known;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BatchAt {
    /// `inside`: of another batch, with which it may be cancelled.
    Open {
        inside: bool,
    },
    Sealed {
        inside: bool,
    },
    /// Cancelled, with members that are not over.
    Cancelling,
    Succeeded {
        inside: bool,
    },
    Failed {
        inside: bool,
    },
    Cancelled,
}

use BatchAt::*;

impl BatchAt {
    pub fn name(self) -> &'static str {
        match self {
            Open { .. } => "open",
            Sealed { .. } | Cancelling => "sealed",
            Succeeded { .. } => "succeeded",
            Failed { .. } => "failed",
            Cancelled => "cancelled",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Succeeded { .. } | Failed { .. } | Cancelled)
    }

    pub fn is_over_or_cancelled(self) -> bool {
        self.is_over() || self == Cancelling
    }

    /// Members end or are requeued, and the batch around it is cancelled.
    pub fn unseen(self, known: &Known) -> impl Iterator<Item = BatchAt> {
        let by_members = match self {
            Open { .. } => vec![],
            Sealed { inside } => vec![Succeeded { inside }, Failed { inside }],
            Succeeded { inside } | Failed { inside } => vec![Sealed { inside }],
            Cancelling => vec![Cancelled],
            Cancelled => vec![Cancelling],
        };
        let inside = matches!(self, Open { inside: true } | Sealed { inside: true });
        by_members.into_iter().chain((inside && known.cancels_batches).then_some(Cancelling))
    }

    pub fn opened(before: Option<Self>, inside: bool) -> (u8, Option<Self>) {
        match before {
            None => (0, Some(Open { inside })),
            Some(known) => (2, Some(known)),
        }
    }

    pub fn sealed(before: Option<Self>) -> (u8, Option<Self>) {
        match before {
            None => (1, None),
            Some(Open { inside }) => (0, Some(Sealed { inside })),
            Some(known) => (2, Some(known)),
        }
    }

    pub fn cancelled(before: Option<Self>) -> (u8, Option<Self>) {
        match before {
            None => (1, None),
            Some(Open { .. } | Sealed { .. }) => (0, Some(Cancelling)),
            Some(known) => (2, Some(known)),
        }
    }
}
