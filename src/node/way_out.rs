//! What to tell whoever uses the directory of one member of a cluster as if it were alone: who the others are, and the
//! commands that help.

use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, NodeId};
use crate::disk::{Disk, Identity};
use crate::machine::Member;
use crate::replica::{self, Others};
use crate::snapshot;

/// A member's directory, and whom it names beside it.
pub(super) struct WayOut<'a> {
    pub dir: &'a Path,
    pub own: NodeId,
    pub others: &'a Others,
}

impl WayOut<'_> {
    /// The others, each in words.
    pub fn names(&self) -> Vec<String> {
        let words = |node: &NodeId| match self.others.listed.get(node) {
            Some(member) => format!("node {node} ({})", member.raft),
            None => format!("node {node}"),
        };
        self.others.nodes.iter().map(words).collect()
    }

    /// Why no salvage makes it start again, and what does.
    pub fn instead_of_salvage(&self) -> Vec<String> {
        let (dir, own) = (self.dir.display(), self.own);
        vec![
            format!(
                "this is the directory of node {own}, one of several members of a cluster (the others: {}). No salvage: it \
                 would forget what it promised them, and lead a second group beside theirs. They have everything that was \
                 answered, as long as a majority of the members is whole, so nothing is lost",
                self.names().join(", ")
            ),
            format!("set the directory aside: mv {dir} {dir}.damaged"),
            format!("have it replaced, on any machine: raftwork cluster replace {own} --storage {}", self.storage()),
            format!(
                "meanwhile start it anew, with its other settings as before: raftwork node --data {dir} --listen {} --join {}",
                self.listen(),
                self.addresses(|member| &member.raft)
            ),
            format!(
                "only if the majority is lost for good: raftwork cluster recover --data DIRECTORY, of the member that has \
                 most (of {dir} it keeps what lies before the damage), or raftwork cluster restore BACKUP --data DIRECTORY"
            ),
        ]
    }

    /// What a process without the settings of the member can do.
    fn instead_of_opening(&self) -> String {
        format!(
            "Start its node, with its settings: raftwork node --data {} --listen {}. Or ask the cluster, through any member \
             that runs: --storage {} (RAFTWORK_STORAGE)",
            self.dir.display(),
            self.listen(),
            self.storage()
        )
    }

    /// Where the other members serve clients.
    fn storage(&self) -> String {
        format!("raftwork://{}", self.addresses(|member| &member.client))
    }

    fn listen(&self) -> String {
        self.others.listed.get(&self.own).map_or_else(|| "HOST:PORT".to_owned(), |member| member.raft.to_string())
    }

    fn addresses(&self, pick: fn(&Member) -> &Arc<str>) -> String {
        let listed = self.others.nodes.iter().filter_map(|node| self.others.listed.get(node));
        let known: Vec<&str> = listed.map(|member| &**pick(member)).filter(|address| !address.is_empty()).collect();
        if known.is_empty() {
            return "HOST:PORT".to_owned();
        }
        known.join(",")
    }
}

/// The refusal of a process that opened a member's directory without its settings, with the commands that help. It reads
/// the state for that, and so is only for people.
pub fn with_commands(disk: &Arc<dyn Disk>, dir: &Path, error: Error) -> Error {
    let Error::Member(why) = error else { return error };
    let newest = snapshot::newest_header_on(&**disk, dir).ok().flatten();
    let Ok(Some(own)) = Identity::load(&**disk, dir) else { return Error::Member(why) };
    // The files may be its owner's again by now, and change while they are read: then there are no addresses.
    let others = replica::others_on(disk, dir, &own, newest.as_ref()).unwrap_or_default();
    let way_out = WayOut { dir, own: own.node, others: &others };
    Error::Member(format!("{why}. {}", way_out.instead_of_opening()))
}
