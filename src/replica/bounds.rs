//! What a member does not let in because its state holds as much as its settings allow. Judged where a request comes in, by
//! what is applied there: what is on its way through the group may come on top.

use super::{entry, Proposal, Replica, Turn};

impl<T> Replica<T> {
    /// Refuses requests that bring more jobs than there is room for. Everything else goes on.
    pub(super) fn refuse_beyond(&self, proposals: Vec<Proposal<T>>, turn: &mut Turn<T>) -> Vec<Proposal<T>> {
        let machine = self.machine.read();
        if machine.fits(&self.bounds, proposals.iter().map(|proposal| proposal.entry.len()).sum()) {
            return proposals;
        }
        let (mut fitting, mut ahead) = (Vec::with_capacity(proposals.len()), 0);
        for proposal in proposals {
            let judged = entry::split(&proposal.entry)
                .and_then(|(_, request)| machine.let_in(&self.bounds, request, &mut ahead));
            match judged {
                Ok(()) => fitting.push(proposal),
                Err(error) => turn.answers.push((proposal.ticket, Err(error))),
            }
        }
        fitting
    }
}
