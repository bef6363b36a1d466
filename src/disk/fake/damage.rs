//! Disks that lie and disks that rot.

use std::path::Path;

use super::medium::Inode;
use super::{FakeDisk, Op, State};

/// How a disk lies about a write: it reports success, and reads show the bytes until the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing reaches the medium.
    Lost,
    /// The bytes reach it so many sectors away, in the same file. The newest write of a file is not misdirected: where
    /// nothing tells that it was made, nobody could find it missing.
    Misdirected(i64),
    /// The bytes reach it so many sectors further behind, in the same file, also those of the newest write. A write that
    /// would make the file longer is not misdirected.
    Behind(usize),
}

impl FakeDisk {
    /// Lets the disk lie about the write with this number, counted as for `fail`.
    pub fn lie(&self, number: u64, lie: Lie) {
        self.state.lock().lies.push((number, lie));
    }

    /// One bit of a file goes wrong while nobody looks.
    pub fn flip(&self, path: &Path, byte: usize, bit: u32) {
        let mut state = self.state.lock();
        if let Some(inode) = state.names.files.get(path).copied() {
            state.inodes[inode].flip(byte, bit);
        }
    }

    /// Puts what lies and flips have hidden back in its place.
    pub fn mend(&self) {
        self.state.lock().inodes.iter_mut().for_each(Inode::mend);
    }

    /// Whether some file shows other bytes than those that were written.
    pub fn is_damaged(&self) -> bool {
        self.state.lock().inodes.iter().any(Inode::is_damaged)
    }

    /// Damage that is there now was seen by whoever reads the disk: it is not mended any more.
    pub fn accept_damage(&self) {
        self.state.lock().inodes.iter_mut().for_each(Inode::accept);
    }
}

impl State {
    /// What the disk will do to the next write, if it lies.
    pub(super) fn next_lie(&self) -> Option<Lie> {
        let next = self.counts.get(&Op::Write).map_or(1, |count| count + 1);
        self.lies.iter().find(|(number, _)| *number == next).map(|(_, lie)| *lie)
    }
}
