//! Errors by what they are: how often runs of one function failed with the same fingerprint, so that a thousand failures
//! that are three mistakes read as three. The worker that saw an error makes its fingerprint; the machine only counts.
//!
//! A group is a fingerprint, a type and a function. An error whose text is encrypted, or that came from a version that
//! made no fingerprints, is counted by its type and function. When there are too many groups, the one whose newest
//! error is the oldest goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decode::{bytes, list, number, Place as _};
use super::fields::fingerprint;
use super::job::State;
use super::levels;
use super::load::COUNTER_MAX;
use super::record::{error_parts, shortened};
use super::table::Slot;
use super::Machine;
use crate::base::codec::{Reader, Writer};
use crate::base::{limits, Error, JobId, Millis, Result};

/// What errors of one group have in common.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    fingerprint: Option<Box<str>>,
    /// The type of the exception.
    kind: Box<str>,
    function: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    /// Runs that ended with such an error.
    errors: u64,
    /// Those among them after which the job was failed for good.
    failed: u64,
    first: Millis,
    last: Millis,
    /// The number of its newest error among all errors, from 1.
    newest: u64,
    /// The job of its newest error.
    job: JobId,
}

/// Every group, and how many errors there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Errors {
    groups: BTreeMap<Arc<Group>, Figures>,
    /// The groups by the number of their newest error.
    by_age: BTreeMap<u64, Arc<Group>>,
    /// All errors so far, those of groups that went among them.
    errors: u64,
}

impl Group {
    /// Bytes that are no error are in no group.
    fn of(error: &[u8], function: &str) -> Option<Self> {
        let [kind, ..] = error_parts(error)?;
        let fingerprint = fingerprint(error).filter(|text| text.len() <= limits::FINGERPRINT_BYTES_MAX);
        let kind = shortened(kind, limits::NAME_BYTES_MAX).into();
        Some(Self { fingerprint: fingerprint.map(Into::into), kind, function: function.into() })
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let fingerprint = reader.option(|reader| bytes(reader.str()?, limits::FINGERPRINT_BYTES_MAX));
        Ok(Self {
            fingerprint: fingerprint.at("fingerprint")?.map(Into::into),
            kind: bytes(reader.str()?, limits::NAME_BYTES_MAX).at("type")?.into(),
            function: bytes(reader.str()?, limits::NAME_BYTES_MAX).at("function")?.into(),
        })
    }

    /// Its three items.
    fn encode(&self, writer: &mut Writer) {
        writer.option(self.fingerprint.as_ref(), |writer, fingerprint| {
            writer.str(fingerprint);
        });
        writer.str(&self.kind).str(&self.function);
    }
}

impl Errors {
    fn count(&mut self, group: Group, failed: bool, now: Millis, job: JobId) {
        self.errors += 1;
        let (group, mut figures) = match self.groups.remove_entry(&group) {
            Some((group, figures)) => {
                self.by_age.remove(&figures.newest);
                (group, figures)
            }
            None => {
                self.forget_down_to(limits::ERROR_GROUPS_MAX - 1);
                (group.into(), Figures { errors: 0, failed: 0, first: now, last: now, newest: 0, job })
            }
        };
        figures.errors += 1;
        figures.failed += u64::from(failed);
        (figures.last, figures.newest, figures.job) = (now, self.errors, job);
        self.by_age.insert(figures.newest, group.clone());
        self.groups.insert(group, figures);
    }

    fn forget_down_to(&mut self, groups: usize) {
        while self.groups.len() > groups {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.groups.remove(&oldest);
        }
    }

    /// `[errors, [[fingerprint or nil, type, function, errors, failed, first, last, newest, job]]]`, by fingerprint.
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.array(2).u64(self.errors).array(self.groups.len());
        for (group, figures) in &self.groups {
            group.encode(writer.array(9));
            writer.u64(figures.errors).u64(figures.failed).u64(figures.first.0).u64(figures.last.0);
            writer.u64(figures.newest).id(figures.job);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(2, "the errors")?;
        let errors = number(reader, COUNTER_MAX).at("errors")?;
        let rows = list(reader, "groups", limits::ERROR_GROUPS_MAX, |reader| {
            reader.array_of(9, "a group of errors")?;
            Ok((Arc::new(Group::decode(reader)?), Figures::decode(reader, errors)?))
        })?;
        let count = rows.len();
        let by_age: BTreeMap<_, _> = rows.iter().map(|(group, figures)| (figures.newest, group.clone())).collect();
        let groups: BTreeMap<_, _> = rows.into_iter().collect();
        match (groups.len(), by_age.len()) == (count, count) {
            true => Ok(Self { groups, by_age, errors }),
            false => Err(Error::Invalid("groups: the same group or number twice".into())),
        }
    }
}

impl Figures {
    fn decode(reader: &mut Reader<'_>, all: u64) -> Result<Self> {
        let errors = number(reader, all).at("errors of a group")?;
        let failed = number(reader, errors).at("failed")?;
        let (first, last) = (Millis(reader.u64()?), Millis(reader.u64()?));
        let newest = number(reader, all).at("newest")?;
        if errors == 0 || newest == 0 || last < first {
            return Err(Error::Invalid("a group of errors without any, or before its first".into()));
        }
        Ok(Self { errors, failed, first, last, newest, job: reader.id()? })
    }
}

impl Machine {
    /// Counts what a run ended with, once it is known whether it was the last of its job.
    pub(super) fn count_error(&mut self, slot: Slot, error: &[u8]) {
        if !self.level.has(levels::ERRORS) {
            return;
        }
        let job = self.table.get(slot);
        let Some(group) = Group::of(error, &self.specs.get(job.spec).spec.function) else { return };
        let (id, failed) = (job.id, job.state == State::Failed);
        Arc::make_mut(&mut self.errors).count(group, failed, self.clock, id);
    }

    /// The answer to the question for errors, the newest first.
    pub(super) fn error_rows(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let groups_max = number(reader, limits::ERROR_GROUPS_MAX as u64).at("limit")?;
        let newest = self.errors.by_age.values().rev().take(groups_max as usize);
        let mut w = Writer::new();
        w.array(2).u64(self.errors.errors).array(newest.len());
        for group in newest {
            let figures = &self.errors.groups[group];
            group.encode(w.array(8));
            w.u64(figures.errors).u64(figures.failed).u64(figures.first.0).u64(figures.last.0).id(figures.job);
        }
        Ok(w.into_bytes())
    }
}
