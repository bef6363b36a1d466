//! Commands about the cluster itself, and what the machine knows of it.

use super::{Line, Player};
use crate::wire::Own;
use raftwork::base::codec::Reader;
use raftwork::base::LogIndex;

impl Player {
    pub(super) fn build_own(&self, line: &Line<'_>) -> Own {
        let number = line.words[1].parse().expect("a number");
        match line.words[0] {
            "member" => Own::PutMember {
                node: number,
                name: line.text("name", "a"),
                raft: line.text("raft", "a:1"),
                client: line.text("client", ""),
            },
            "forget" => Own::DropMember(number),
            "level" => Own::SetLevel(number),
            _ => {
                let made = || self.machine.digest_at(LogIndex(number)).expect("a mark was made there");
                Own::Digest { index: number, digest: line.maybe("mark").unwrap_or_else(made) }
            }
        }
    }

    /// The answer to question 9.
    pub(super) fn members(&self) -> Vec<String> {
        let answer = self.machine.view(&[0x91, 9]).expect("a question that is known");
        let reader = &mut Reader::new(&answer);
        let members = reader.array().expect("a list");
        let mut member = || {
            reader.array_of(4, "a member").expect("a member");
            let (node, name) = (reader.u64().expect("a node"), reader.str().expect("a name").to_owned());
            let (raft, client) = (reader.str().expect("an address").to_owned(), reader.str().expect("an address"));
            format!("{node} {name} raft={raft} client={client:?}")
        };
        (0..members).map(|_| member()).collect()
    }

    /// The answer to question 10.
    pub(super) fn levels(&self) -> Vec<String> {
        let answer = self.machine.view(&[0x91, 10]).expect("a question that is known");
        let reader = &mut Reader::new(&answer);
        reader.array_of(2, "levels").expect("two levels");
        vec![format!("{} of {}", reader.u64().expect("a level"), reader.u64().expect("a level"))]
    }

    pub(super) fn marks(&self) -> Vec<String> {
        vec![self.machine.digest_due().map_or("none to tell".into(), |(index, _)| format!("{index} to tell"))]
    }
}
