//! Whether all members have the same state (L6), found out while they work.
//!
//! Each member hashes what it applies: index, time, request and answer. Whenever the index passes a multiple of
//! `DIGEST_ENTRIES` it makes a *mark*: a hash of the mark before, of everything since, and of figures of the state. The
//! leader writes its newest mark into the log, and every member that applies it compares its own at that index.
//!
//! * A mark builds on the one before, so a member that differs once differs from then on, also after a restart.
//! * All of it is stored in an image, so a member that begins with a snapshot goes on with the marks of its giver.
//! * A state from before there were marks has none: such a member takes over the first mark that the log tells it right
//!   behind its own place, and compares from then on.
//! * It is about the state and not part of it: `Machine::digest` leaves it out.

use std::collections::VecDeque;

use super::decode::{number, Place, Result};
use super::levels;
use super::outcome;
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, LogIndex, Millis};

/// Marks that are remembered. A mark comes back through the log while later ones are made already.
const MARKS_KEPT: usize = 64;

/// Two members differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs {
    /// Where the mark was made.
    pub index: LogIndex,
    pub mine: u64,
    /// What the log says.
    pub told: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Hash of what was applied behind `from`.
    block: u64,
    /// Where the newest mark was made, or could have been.
    from: LogIndex,
    /// The mark at `from`; nothing if the state is older than marks.
    chain: Option<u64>,
    /// The newest marks, oldest first.
    marks: VecDeque<(LogIndex, u64)>,
    /// The newest mark that the log told.
    told: LogIndex,
}

impl Default for Digests {
    /// Of the empty state.
    fn default() -> Self {
        Self { chain: Some(0), ..Self::unknown() }
    }
}

impl Digests {
    /// Of a state whose history nobody hashed.
    pub fn unknown() -> Self {
        Self { block: 0, from: LogIndex(0), chain: None, marks: VecDeque::new(), told: LogIndex(0) }
    }

    /// One more entry was applied.
    pub fn add(&mut self, index: LogIndex, now: Millis, request: &[u8], answer: &[u8]) {
        let head = fold(self.block ^ index.0, now.0 ^ KEYS[0]);
        self.block = hash(hash(head, request), answer);
    }

    /// The index passed a place where marks are made. `figures` of the state go into it.
    fn mark(&mut self, index: LogIndex, figures: &[u8]) {
        if let Some(before) = self.chain {
            let mark = hash(fold(before ^ KEYS[1], self.block ^ index.0), figures);
            self.chain = Some(mark);
            self.marks.push_back((index, mark));
            if self.marks.len() > MARKS_KEPT {
                self.marks.pop_front();
            }
        }
        (self.from, self.block) = (index, 0);
    }

    /// The log tells the mark of a leader.
    pub fn hear(&mut self, index: LogIndex, told: u64) -> Option<Differs> {
        self.told = self.told.max(index);
        if self.chain.is_none() && self.from == index {
            self.chain = Some(told);
            return None;
        }
        let mine = self.at(index).filter(|mine| *mine != told)?;
        Some(Differs { index, mine, told })
    }

    /// The mark made at an index, if it is remembered.
    pub fn at(&self, index: LogIndex) -> Option<u64> {
        self.marks.iter().rev().find(|mark| mark.0 == index).map(|mark| mark.1)
    }

    /// The newest mark, and where it was made.
    pub fn newest(&self) -> Option<(LogIndex, u64)> {
        self.marks.back().copied()
    }

    /// What a leader writes into the log now. Without marks of its own it lets all begin with zero.
    pub fn due(&self) -> Option<(LogIndex, u64)> {
        let newest = match self.chain {
            Some(_) => self.newest(),
            None => Some((self.from, 0)),
        };
        newest.filter(|(index, _)| *index > self.told)
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.array(5).u64(self.block).u64(self.from.0).option(self.chain, |writer, chain| {
            writer.u64(chain);
        });
        writer.u64(self.told.0).array(self.marks.len());
        for (index, mark) in &self.marks {
            writer.array(2).u64(index.0).u64(*mark);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>, index_max: u64) -> Result<Digests> {
        reader.array_of(5, "the digests")?;
        let mut digests = Self {
            block: reader.u64()?,
            from: LogIndex(number(reader, index_max).at("from")?),
            chain: reader.option(|reader| reader.u64())?,
            told: LogIndex(number(reader, index_max).at("told")?),
            marks: VecDeque::new(),
        };
        let marks = reader.array()?;
        if marks > MARKS_KEPT {
            return Err(Error::Invalid(format!("{marks} marks, at most {MARKS_KEPT}")));
        }
        for _ in 0..marks {
            reader.array_of(2, "a mark")?;
            digests.marks.push_back((LogIndex(number(reader, index_max).at("mark")?), reader.u64()?));
        }
        Ok(digests)
    }
}

impl Machine {
    /// What a leader writes into the log now, so that all compare: an index and the mark made there.
    pub fn digest_due(&self) -> Option<(LogIndex, u64)> {
        self.digests.due()
    }

    /// The newest mark, and where it was made.
    pub fn newest_digest(&self) -> Option<(LogIndex, u64)> {
        self.digests.newest()
    }

    /// The mark made at an index, if it is remembered.
    pub fn digest_at(&self, index: LogIndex) -> Option<u64> {
        self.digests.at(index)
    }

    /// Notes an entry that was applied behind `before`.
    pub(super) fn note(&mut self, before: LogIndex, now: Millis, request: &[u8], answer: &[u8]) {
        // Of a refusal the code alone: a later version may say the same in other words.
        let answer = outcome::refusal(answer).map_or(answer, |(code, _)| code.as_bytes());
        self.digests.add(self.applied, now, request, answer);
        if before.0 / limits::DIGEST_ENTRIES != self.applied.0 / limits::DIGEST_ENTRIES {
            self.digests.mark(self.applied, &self.figures());
        }
    }

    /// What a mark says of the state: counters and how many of what there are, never a walk over it.
    fn figures(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        let counts = [
            self.clock.0,
            self.token,
            self.order,
            self.ordinal,
            self.evicted,
            self.bytes,
            self.level.0,
            self.queues.count() as u64,
            self.functions.count() as u64,
            self.specs.count() as u64,
            self.sessions.len() as u64,
            self.table.len() as u64,
            self.members.len() as u64,
            self.due.len() as u64,
            self.finished.len() as u64,
        ];
        for count in counts.iter().chain(&self.tally.by_state) {
            writer.u64(*count);
        }
        self.tally.encode(&mut writer);
        // Members of the version before, which may be among the others until the level is raised, know nothing of these.
        if self.level.has(levels::ACCESS) {
            self.access.len().iter().for_each(|count| {
                writer.u64(*count as u64);
            });
            writer.u64(self.locks.holders() as u64).u64(self.locks.waiting() as u64);
        }
        if self.level.has(levels::SCHEDULES) {
            writer.u64(self.schedules.len() as u64).u64(self.schedules.retired());
        }
        if self.level.has(levels::FLOWS) {
            for count in
                [self.flows.edges.len(), self.flows.todo.len(), self.flows.batches.len(), self.flows.members.len()]
            {
                writer.u64(count as u64);
            }
        }
        if self.level.has(levels::LIMITS) {
            writer.u64(self.limiters.len() as u64);
        }
        writer.into_bytes()
    }
}

/// Odd numbers without a pattern.
const KEYS: [u64; 4] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

/// Both halves of a product: every bit of either number moves many of the result.
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product >> 64) as u64 ^ product as u64
}

/// A hash that every version computes alike, in two lanes of sixteen bytes. It tells mistakes apart, not attackers.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let word = |part: &[u8; 32], at: usize| u64::from_le_bytes(part[at..at + 8].try_into().expect("eight bytes"));
    let (mut left, mut right) = (seed, seed ^ KEYS[2]);
    let mut absorb = |part: &[u8; 32]| {
        left = fold(word(part, 0) ^ KEYS[0], word(part, 8) ^ left);
        right = fold(word(part, 16) ^ KEYS[1], word(part, 24) ^ right);
    };
    let mut parts = bytes.chunks_exact(32);
    for part in parts.by_ref() {
        absorb(part.try_into().expect("a chunk has thirty-two bytes"));
    }
    let rest = parts.remainder();
    let mut last = [0; 32];
    last[..rest.len()].copy_from_slice(rest);
    absorb(&last);
    fold(left ^ KEYS[3], right ^ bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::outcome::Refusal;

    fn at(index: u64) -> LogIndex {
        LogIndex(index)
    }

    /// Digests that applied these words behind each other, with a mark at every tenth.
    fn applied(mut digests: Digests, words: std::ops::RangeInclusive<u64>, odd: u64) -> Digests {
        for index in words {
            let answer: &[u8] = if index == odd { b"no" } else { b"yes" };
            digests.add(at(index), Millis(index), b"request", answer);
            if index % 10 == 0 {
                digests.mark(at(index), b"figures");
            }
        }
        digests
    }

    #[test]
    fn l6_one_other_answer_shows_in_every_later_mark() {
        let (same, other) = (applied(Digests::default(), 1..=30, 0), applied(Digests::default(), 1..=30, 15));
        assert_eq!(same, applied(Digests::default(), 1..=30, 0));
        assert_eq!(same.at(at(10)), other.at(at(10)));
        assert_ne!(same.at(at(20)), other.at(at(20)));
        assert_ne!(same.at(at(30)), other.at(at(30)));
        let (index, told) = same.due().expect("three marks were made");
        assert_eq!(index, at(30));
        assert_eq!(same.clone().hear(index, told), None);
        let differs = other.clone().hear(index, told).expect("they differ");
        assert_eq!((differs.index, Some(differs.mine), differs.told), (index, other.at(index), told));
    }

    #[test]
    fn l6_every_byte_of_request_answer_time_and_index_counts() {
        let base = |index, now, request: &[u8], answer: &[u8]| {
            let mut digests = Digests::default();
            digests.add(at(index), Millis(now), request, answer);
            digests.block
        };
        let (request, answer) = ((0..70).collect::<Vec<u8>>(), (0..33).collect::<Vec<u8>>());
        let mut seen = std::collections::BTreeSet::from([base(5, 6, &request, &answer)]);
        assert!(seen.insert(base(6, 6, &request, &answer)) && seen.insert(base(5, 7, &request, &answer)));
        assert!(seen.insert(base(6, 5, &request, &answer)) && seen.insert(base(5, 6, &answer, &request)));
        for place in 0..request.len() {
            let mut changed = request.clone();
            changed[place] ^= 0x80;
            assert!(seen.insert(base(5, 6, &changed, &answer)), "byte {place} of the request");
        }
        for length in 0..answer.len() {
            assert!(seen.insert(base(5, 6, &request, &answer[..length])), "an answer of {length} bytes");
        }
    }

    #[test]
    fn l6_the_words_of_a_refusal_do_not_count() {
        let noted = |outcome: outcome::Outcome| {
            let mut machine = Machine::default();
            machine.note(at(0), Millis(0), b"request", &outcome::encode(at(1), &outcome));
            machine.digests.block
        };
        let refused = noted(Err(Refusal::invalid("too long")));
        assert_eq!(refused, noted(Err(Refusal::invalid("3 items, at most 2"))));
        assert_ne!(refused, noted(Err(Refusal::overloaded("too long"))));
        assert_ne!(noted(outcome::number(1)), noted(outcome::number(2)));
    }

    #[test]
    fn states_from_before_marks_begin_together_and_compare_from_then_on() {
        let mut left = applied(Digests::unknown(), 5..=12, 0);
        let mut right = applied(Digests::unknown(), 8..=12, 0);
        assert_eq!(left.due(), Some((at(10), 0)), "it has no mark, so all begin with zero");
        for digests in [&mut left, &mut right] {
            assert_eq!(digests.hear(at(10), 0), None);
            assert_eq!(digests.due(), None);
        }
        let (left, mut right) = (applied(left, 13..=20, 0), applied(right, 13..=20, 0));
        let (index, told) = left.due().expect("a mark");
        assert_eq!(right.hear(index, told), None);
        assert!(right.hear(index, told + 1).is_some());
    }

    #[test]
    fn a_mark_that_is_not_remembered_is_not_compared() {
        let mut digests = applied(Digests::default(), 1..=10 * (MARKS_KEPT as u64 + 1), 0);
        assert_eq!(digests.at(at(10)), None);
        assert_eq!(digests.hear(at(10), 7), None);
    }
}
