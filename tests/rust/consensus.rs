//! Consensus as events and actions, with one member and with three: the order in which things must happen.

use bytes::Bytes;
use raftwork::base::{Error, LogIndex, NodeId};
use raftwork::consensus::{
    Action, ConfState, Core, CoreConfig, Entry, EntryType, Event, HardState, MemberChange, Message, MessageType, Role,
    SnapshotMetadata,
};
use raftwork::replica::LogCache;

/// A member whose writes are reported only when the test says so.
struct Member {
    core: Core<LogCache>,
    unwritten: Vec<u64>,
    outbox: Vec<Message>,
    applied: Vec<(u64, Bytes)>,
    /// Where members changed, and who was a learner from then on.
    changes: Vec<(u64, Vec<u64>)>,
}

impl Member {
    fn new(id: u64, voters: &[u64]) -> Self {
        let mut members = ConfState::default();
        members.set_voters(voters.to_vec());
        let mut start = SnapshotMetadata { index: 1, term: 1, ..SnapshotMetadata::default() };
        start.set_conf_state(members);
        let log = LogCache::new(start, HardState { term: 1, commit: 1, ..HardState::default() });
        let config = CoreConfig { id: NodeId(id), applied: LogIndex(1), seed: 7 };
        let core = Core::new(config, log).unwrap();
        Self { core, unwritten: vec![], outbox: vec![], applied: vec![], changes: vec![] }
    }

    fn step(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.core.step(event, &mut actions);
        self.take(actions);
    }

    fn propose(&mut self, entries: &[&'static str]) -> Result<(), Error> {
        let mut actions = Vec::new();
        let entries = entries.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        let placed = self.core.propose(entries, &mut actions)?;
        assert_eq!(placed.term, self.core.term());
        self.take(actions);
        Ok(())
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(messages) => self.outbox.extend(messages),
                Action::Persist(write) => self.unwritten.push(write.number),
                Action::Apply(entries) => {
                    let last = entries.last().unwrap().index;
                    for entry in entries.iter().filter(|entry| entry.get_entry_type() != EntryType::EntryNormal) {
                        let members = self.core.change_members(entry).unwrap();
                        self.changes.push((entry.index, members.learners));
                    }
                    self.applied.extend(entries.into_iter().map(|entry| (entry.index, entry.data)));
                    self.step(Event::Applied(LogIndex(last)));
                }
                Action::Readable(..) => {}
            }
        }
    }

    /// The disk has everything that was given to it.
    fn sync(&mut self) {
        while !self.unwritten.is_empty() {
            let number = self.unwritten.remove(0);
            self.step(Event::Persisted(number));
        }
    }

    fn tell_commit(&mut self) {
        let mut actions = Vec::new();
        self.core.tell_commit(&mut actions);
        self.take(actions);
    }

    fn words(&self) -> Vec<&str> {
        let texts = self.applied.iter().map(|(_, data)| std::str::from_utf8(data).unwrap());
        texts.filter(|text| !text.is_empty()).collect()
    }
}

/// Carries messages until none are left. `reaches` says who hears whom.
fn settle(members: &mut [Member], reaches: impl Fn(u64, u64) -> bool) {
    loop {
        let messages: Vec<Message> = members.iter_mut().flat_map(|member| std::mem::take(&mut member.outbox)).collect();
        if messages.is_empty() && members.iter().all(|member| member.unwritten.is_empty()) {
            return;
        }
        for message in messages {
            if reaches(message.from, message.to) && message.to <= members.len() as u64 {
                members[message.to as usize - 1].step(Event::Messages(vec![message]));
            }
        }
        members.iter_mut().for_each(Member::sync);
        members.iter_mut().for_each(Member::tell_commit);
    }
}

fn three() -> Vec<Member> {
    let mut members: Vec<Member> = (1..=3).map(|id| Member::new(id, &[1, 2, 3])).collect();
    members[0].step(Event::Campaign);
    settle(&mut members, |_, _| true);
    assert_eq!(members[0].core.role(), Role::Leader);
    members
}

/// raft-rs 0.7 can put entries into a message without any that waits to be sent, whatever index that names.
#[test]
fn d1_entries_follow_the_index_of_their_message() {
    let mut members = three();
    members[0].propose(&["a"]).unwrap();
    members[0].sync();
    let mut first = std::mem::take(&mut members[0].outbox);
    first.retain(|message| message.to == 2); // The third never hears of it.
    members[0].propose(&["b"]).unwrap();
    members[0].sync();
    let second = std::mem::take(&mut members[0].outbox);
    let mut answers = Vec::new();
    for message in first.into_iter().chain(second) {
        let member = &mut members[message.to as usize - 1];
        member.step(Event::Messages(vec![message]));
        member.sync();
        answers.append(&mut member.outbox);
    }
    answers.sort_by_key(|answer| answer.reject);
    assert!(answers.last().is_some_and(|answer| answer.reject && answer.from == 3), "{answers:?}");
    // The commit and the refusal in one turn.
    members[0].step(Event::Messages(answers));
    for message in &members[0].outbox {
        let next = message.entries.first().map_or(message.index + 1, |entry| entry.index);
        assert_eq!(next, message.index + 1, "{message:?}");
    }
    settle(&mut members, |_, _| true);
    assert_eq!(members[2].words(), ["a", "b"]);
}

#[test]
fn one_voter_leads_at_once_and_applies_only_what_is_written() {
    let mut member = Member::new(1, &[1]);
    member.step(Event::Campaign);
    assert_eq!(member.core.role(), Role::Leader);
    assert!(member.applied.is_empty(), "its first entry is not on disk yet");
    member.sync();
    assert_eq!(member.applied.len(), 1, "the entry that begins the term");
    member.propose(&["a", "b"]).unwrap();
    member.propose(&["c"]).unwrap();
    assert!(member.words().is_empty());
    let first = member.unwritten.remove(0);
    member.step(Event::Persisted(first));
    assert_eq!(member.words(), ["a", "b"]);
    member.sync();
    assert_eq!(member.words(), ["a", "b", "c"]);
}

#[test]
fn three_voters_apply_what_two_have_written() {
    let mut members = three();
    members[0].propose(&["a"]).unwrap();
    settle(&mut members, |from, to| from != 3 && to != 3);
    assert_eq!((members[0].words(), members[2].words()), (vec!["a"], vec![]));
    members[0].propose(&["b"]).unwrap();
    settle(&mut members, |_, _| false);
    assert_eq!(members[0].words(), ["a"], "alone it commits nothing");
}

#[test]
fn the_commit_index_leaves_with_the_next_entries_or_once_by_itself() {
    let mut members = three();
    let carry = |members: &mut [Member]| {
        for message in std::mem::take(&mut members[0].outbox) {
            members[message.to as usize - 1].step(Event::Messages(vec![message]));
        }
        members.iter_mut().for_each(Member::sync);
        let answers: Vec<Message> = members.iter_mut().flat_map(|member| std::mem::take(&mut member.outbox)).collect();
        members[0].step(Event::Messages(answers));
    };
    members[0].propose(&["a"]).unwrap();
    carry(&mut members);
    assert_eq!(members[0].words(), ["a"]);
    assert!(members[0].outbox.is_empty(), "it waits for more to say");
    members[0].propose(&["b"]).unwrap();
    assert!(members[0].outbox.iter().all(|message| message.commit == 3), "the entry of the term, then a");
    members[0].tell_commit();
    assert_eq!(members[0].outbox.len(), 2, "it is told already");
    carry(&mut members);
    assert_eq!([members[1].words(), members[2].words()], [["a"], ["a"]]);
    members[0].tell_commit();
    assert_eq!(members[0].outbox.len(), 2);
    members[0].tell_commit();
    assert_eq!(members[0].outbox.len(), 2);
    carry(&mut members);
    assert_eq!([members[1].words(), members[2].words()], [["a", "b"], ["a", "b"]]);
}

#[test]
fn no_vote_leaves_before_it_is_written() {
    let mut members: Vec<Member> = (1..=3).map(|id| Member::new(id, &[1, 2, 3])).collect();
    members[0].step(Event::Campaign);
    // The question whether to vote at all changes nothing, so it is answered from memory after an empty write.
    settle_pre_vote(&mut members);
    let ask: Vec<Message> = std::mem::take(&mut members[0].outbox);
    let for_second = ask.into_iter().find(|message| message.to == 2).unwrap();
    members[1].step(Event::Messages(vec![for_second]));
    assert!(members[1].outbox.is_empty(), "the vote is in memory only");
    members[1].sync();
    assert_eq!(members[1].outbox.len(), 1);
}

/// Up to the moment at which the first member asks for real votes.
fn settle_pre_vote(members: &mut [Member]) {
    let messages = std::mem::take(&mut members[0].outbox);
    for message in messages {
        members[message.to as usize - 1].step(Event::Messages(vec![message]));
    }
    for peer in [1, 2] {
        members[peer].sync();
        for message in std::mem::take(&mut members[peer].outbox) {
            members[0].step(Event::Messages(vec![message]));
        }
    }
    members[0].sync();
}

#[test]
fn a_follower_takes_no_proposals_and_forwards_none() {
    let mut members = three();
    let refused = members[1].propose(&["lost"]);
    assert!(matches!(refused, Err(Error::NotCommitted(_))), "{refused:?}");
    assert!(members[1].outbox.is_empty());
}

#[test]
fn a_question_for_a_former_leader_is_not_passed_on_under_the_name_of_the_one_who_asked() {
    let mut members = three();
    let question = |to| {
        let mut message = Message { from: 2, to, ..Message::default() };
        message.set_msg_type(MessageType::MsgReadIndex);
        message.set_entries(vec![Entry { data: Bytes::from_static(b"question"), ..Entry::default() }].into());
        Event::Messages(vec![message])
    };
    members[2].step(question(3));
    assert!(members[2].outbox.is_empty(), "{:?}", members[2].outbox);
    members[0].step(question(1));
    assert!(!members[0].outbox.is_empty(), "the leader asks the others whether it leads");
}

#[test]
fn a_leader_that_was_cut_off_gives_way_and_its_entry_is_overwritten() {
    let mut members = three();
    members[0].propose(&["lonely"]).unwrap();
    settle(&mut members, |_, _| false);
    // The others miss the heartbeats; the election timeouts come from the seed.
    for _ in 0..200 {
        members[1].step(Event::Tick);
        members[2].step(Event::Tick);
        settle(&mut members, |from, to| from != 1 && to != 1);
    }
    let leader = members.iter().position(|member| member.core.role() == Role::Leader && member.core.term().0 > 2);
    let leader = leader.expect("one of the two leads");
    members[leader].propose(&["heard"]).unwrap();
    for _ in 0..20 {
        members[leader].step(Event::Tick);
        settle(&mut members, |_, _| true);
    }
    for member in &members {
        assert_eq!(member.words(), ["heard"]);
    }
    assert_eq!(members[0].core.role(), Role::Follower);
}

#[test]
fn p18_a_change_during_another_becomes_an_empty_entry_that_changes_nothing() {
    let mut members = three();
    let mut actions = Vec::new();
    let mut places = Vec::new();
    for learner in [4, 5] {
        let change = Some(MemberChange::AddLearner(NodeId(learner)));
        places.push(members[0].core.propose_change(change, &mut actions).unwrap().first.0);
        assert!(members[0].core.change_is_pending());
    }
    members[0].take(actions);
    settle(&mut members, |_, _| true);
    assert_eq!(members[0].changes, [(places[0], vec![4])]);
    let second = members[0].applied.iter().find(|(index, _)| *index == places[1]);
    assert_eq!(second, Some(&(places[1], Bytes::new())), "it was committed all the same");
    assert!(!members[0].core.change_is_pending());
}

#[test]
fn only_a_leader_proposes_a_change() {
    let mut members = three();
    let refused = members[1].core.propose_change(Some(MemberChange::Remove(NodeId(3))), &mut Vec::new());
    assert!(matches!(refused, Err(Error::NotCommitted(_))), "{refused:?}");
}
