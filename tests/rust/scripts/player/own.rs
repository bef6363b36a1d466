//! Commands about the cluster itself, and what the machine knows of it.

use super::{Line, Player};
use crate::wire::Own;
use raftwork::base::codec::Reader;
use raftwork::base::{LogIndex, Millis};
use raftwork::machine::Token;

/// Commands about who may do what.
fn build_access(line: &Line<'_>) -> Option<Own> {
    let (actor, secret) = (line.text("actor", "ann"), line.text("secret", line.words.get(1).unwrap_or(&"")));
    let first = line.words.get(1).map_or(String::new(), |word| (*word).to_owned());
    Some(match line.words[0] {
        "token" => Own::PutToken {
            actor,
            name: first,
            secret,
            can: line.list("can", "read"),
            expires: line.maybe("expires"),
            overlap: line.maybe("overlap"),
        },
        "revoke" => Own::RevokeToken { actor, which: first },
        "invite" => Own::PutInvitation {
            actor,
            secret: first,
            role: line.text("role", "node"),
            expires: line.number("expires", 900),
        },
        "use" => Own::UseInvitation { actor, secret: first },
        "note" => Own::Note { actor, what: first, about: line.text("about", "x") },
        _ => return None,
    })
}

impl Player {
    pub(super) fn build_own(&self, line: &Line<'_>) -> Own {
        if let Some(own) = build_access(line) {
            return own;
        }
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

    /// Tokens, with what they allow and until when.
    pub(super) fn tokens(&self) -> Vec<String> {
        let until = |expires: Option<Millis>| expires.map_or("for good".into(), |at| format!("until {}", at.0));
        let token = |token: &Token| {
            let secret = String::from_utf8_lossy(&token.digest).trim_end_matches('\0').to_owned();
            format!("{} ({secret}): {} {}", token.name, token.capabilities.join(" "), until(token.expires))
        };
        self.machine.tokens().map(token).collect()
    }

    /// What was done about the cluster.
    pub(super) fn acts(&self) -> Vec<String> {
        self.machine
            .acts()
            .map(|act| format!("{} at {}: {} {} {}", act.index.0, act.at.0, act.actor, act.what, act.about))
            .collect()
    }

    pub(super) fn marks(&self) -> Vec<String> {
        vec![self.machine.digest_due().map_or("none to tell".into(), |(index, _)| format!("{index} to tell"))]
    }
}
