//! A disk in memory that keeps what the trait promises and nothing more: the tool of every test about power cuts.
//!
//! * Bytes are lost by sectors of 512. A cut keeps, for each sector written since the last sync, the old content, the new
//!   one, any in between, or a sector torn within; each sector decides alone.
//! * Names are lost one by one, unless their directory was synced.
//! * A failed sync loses what it should have saved, while reads still show it: no later sync brings it back. A failed sync
//!   of a directory only leaves the names to the next one: file systems stop when they cannot write their journal.
//! * A disk can be told to lie: to lose a write, or to put it somewhere else (`Lie`).
//!
//! One assumption is made, as by every log that writes a sector twice: bytes of a sector that a write does not change
//! survive the write. SQLite calls it "powersafe overwrite".
//!
//! Everything random comes from the seed, so a failure can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, Disk, File};
use crate::base::planted::{has, Bug};
use crate::base::sync::Mutex;
use crate::base::{Error, Result};

mod damage;
mod medium;

pub use damage::Lie;
pub use medium::SECTOR_BYTES;
use medium::{next, Inode};

/// A kind of call that can fail and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Open,
    Create,
    Rename,
    Remove,
    List,
    MakeDir,
    SyncDir,
    Read,
    Write,
    Sync,
}

impl Op {
    pub const ALL: [Op; 10] = [
        Op::Open,
        Op::Create,
        Op::Rename,
        Op::Remove,
        Op::List,
        Op::MakeDir,
        Op::SyncDir,
        Op::Read,
        Op::Write,
        Op::Sync,
    ];

    /// Whether it changes what a cut leaves: these are the steps at which power can be cut.
    fn is_step(self) -> bool {
        !matches!(self, Op::Open | Op::List | Op::Read)
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device failed.
    Eio,
    /// No room.
    Enospc,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    names: Tree,
    durable: Tree,
    /// Changes of names that are not durable yet, oldest first.
    pending: Vec<NameChange>,
    counts: BTreeMap<Op, u64>,
    steps: u64,
    cut_at: Option<u64>,
    off: bool,
    /// Handles of an earlier life are dead.
    life: u64,
    faults: Vec<(Op, u64, Fault, bool)>,
    lies: Vec<(u64, Lie)>,
    random: u64,
}

#[derive(Clone, Debug, Default)]
struct Tree {
    files: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Make { path: PathBuf, inode: usize },
    MakeDir { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, inode: usize },
    Remove { path: PathBuf },
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    inode: usize,
    path: PathBuf,
    life: u64,
}

impl FakeDisk {
    /// An empty disk with these directories, which are durable.
    pub fn new(seed: u64, dirs: &[&Path]) -> FakeDisk {
        let mut tree = Tree::default();
        for dir in dirs {
            tree.dirs.extend(dir.ancestors().map(Path::to_owned));
        }
        let state = State {
            inodes: Vec::new(),
            names: tree.clone(),
            durable: tree,
            pending: Vec::new(),
            counts: BTreeMap::new(),
            steps: 0,
            cut_at: None,
            off: false,
            life: 0,
            faults: Vec::new(),
            lies: Vec::new(),
            random: seed.wrapping_mul(2).wrapping_add(1),
        };
        FakeDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Calls so far that change what a cut leaves.
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Calls of this kind so far, those that failed included.
    pub fn count(&self, op: Op) -> u64 {
        self.state.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// Calls of all kinds so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().counts.values().sum()
    }

    /// Switches the power off within the step with this number, counted from 1: it fails, and so does all that follows.
    pub fn cut_at_step(&self, step: u64) {
        self.state.lock().cut_at = Some(step);
    }

    /// Makes the call of this kind with this number (counted from 1, over the life of the disk) fail; with `for_good`,
    /// all later ones too.
    pub fn fail(&self, op: Op, number: u64, fault: Fault, for_good: bool) {
        self.state.lock().faults.push((op, number, fault, for_good));
    }

    /// Takes back all faults, lies and the planned cut.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.lies.clear();
        state.cut_at = None;
    }

    /// Cuts the power and switches it on again: what was not durable is lost in parts, as the seed says.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.random ^= seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for change in std::mem::take(&mut state.pending) {
            if next(&mut state.random).is_multiple_of(2) {
                state.durable.apply(&change);
            }
        }
        for inode in &mut state.inodes {
            inode.lose(&mut state.random);
        }
        state.names = state.durable.clone();
        let known: BTreeSet<PathBuf> = state.names.dirs.clone();
        state.names.files.retain(|path, _| path.parent().is_some_and(|dir| known.contains(dir)));
        state.durable.files.clone_from(&state.names.files);
        (state.off, state.cut_at) = (false, None);
        state.life += 1;
    }

    /// Whether a planned cut happened and nobody has switched the power on again.
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// Takes a planned cut for the end of the process only: what was written stays visible, handles die.
    pub fn switch_on(&self) {
        let mut state = self.state.lock();
        (state.off, state.cut_at) = (false, None);
        state.life += 1;
    }

    /// Ends the process but not the machine: handles die, everything written stays visible.
    pub fn process_ends(&self) {
        self.state.lock().life += 1;
    }

    /// All files, in the order of their paths.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().names.files.keys().cloned().collect()
    }

    /// Content of a file as reads show it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.names.files.get(path).map(|inode| state.inodes[*inode].current.clone())
    }

    /// Puts these bytes on the disk under this name, durable: for tests that damage files.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.lock();
        let inode = state.inodes.len();
        state.inodes.push(Inode::with_content(bytes));
        state.names.files.insert(path.to_owned(), inode);
        state.durable.files.insert(path.to_owned(), inode);
    }

    /// A copy that shares nothing with this one.
    pub fn fork(&self) -> FakeDisk {
        let state = self.state.lock();
        let copy = State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            durable: state.durable.clone(),
            pending: state.pending.clone(),
            counts: state.counts.clone(),
            faults: state.faults.clone(),
            lies: state.lies.clone(),
            ..*state
        };
        FakeDisk { state: Arc::new(Mutex::new(copy)) }
    }

    fn change(&self, change: NameChange) {
        let mut state = self.state.lock();
        state.names.apply(&change);
        state.pending.push(change);
    }
}

impl State {
    /// Counts a call and lets it fail if that was planned. A call that fails may still have a partial effect, which the
    /// caller adds.
    fn enter(&mut self, op: Op, name: &'static str, path: &Path) -> Result<()> {
        if self.off {
            return Err(broken(name, path, "the power is off"));
        }
        let count = self.counts.entry(op).or_default();
        *count += 1;
        let number = *count;
        if op.is_step() {
            self.steps += 1;
            if self.cut_at == Some(self.steps) {
                self.off = true;
                return Err(broken(name, path, "the power is off"));
            }
        }
        let planned = self
            .faults
            .iter()
            .find(|(kind, nth, _, for_good)| *kind == op && (number == *nth || (*for_good && number > *nth)));
        match planned {
            None => Ok(()),
            Some((_, _, Fault::Eio, _)) => Err(broken(name, path, "Input/output error (os error 5)")),
            Some((_, _, Fault::Enospc, _)) => Err(Error::DiskFull(format!("{name} {}: no room", path.display()))),
        }
    }

    fn check_dir(&self, name: &'static str, path: &Path) -> Result<()> {
        let known = path.parent().is_some_and(|dir| self.names.dirs.contains(dir));
        if known {
            return Ok(());
        }
        Err(broken(name, path, "No such file or directory (os error 2)"))
    }
}

impl Tree {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Make { path, inode } => {
                self.files.insert(path.clone(), *inode);
            }
            NameChange::MakeDir { path } => {
                self.dirs.insert(path.clone());
            }
            NameChange::Rename { from, to, inode } => {
                // The old name may belong to another file by now.
                if self.files.get(from) == Some(inode) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *inode);
            }
            NameChange::Remove { path } => {
                self.files.remove(path);
            }
        }
    }
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            NameChange::Make { path, .. } | NameChange::MakeDir { path } | NameChange::Remove { path } => {
                path.parent() == Some(dir)
            }
            NameChange::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl Disk for FakeDisk {
    fn open(&self, path: &Path, _access: Access) -> Result<Option<Arc<dyn File>>> {
        let mut state = self.state.lock();
        state.enter(Op::Open, "open", path)?;
        let Some(inode) = state.names.files.get(path).copied() else { return Ok(None) };
        Ok(Some(Arc::new(FakeFile { disk: self.clone(), inode, path: path.to_owned(), life: state.life })))
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        let (inode, life) = {
            let mut state = self.state.lock();
            state.enter(Op::Create, "create", path)?;
            state.check_dir("create", path)?;
            state.inodes.push(Inode::default());
            (state.inodes.len() - 1, state.life)
        };
        // An existing file is replaced by a new one, which is the harder case of emptying it.
        self.change(NameChange::Make { path: path.to_owned(), inode });
        Ok(Arc::new(FakeFile { disk: self.clone(), inode, path: path.to_owned(), life }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let inode = {
            let mut state = self.state.lock();
            state.enter(Op::Rename, "rename", from)?;
            state.check_dir("rename", to)?;
            let inode = state.names.files.get(from).copied();
            inode.ok_or_else(|| broken("rename", from, "No such file or directory (os error 2)"))?
        };
        self.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.state.lock().enter(Op::Remove, "remove", path)?;
        self.change(NameChange::Remove { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let mut state = self.state.lock();
        state.enter(Op::List, "list", dir)?;
        let inside = state.names.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        {
            let mut state = self.state.lock();
            state.enter(Op::MakeDir, "make directory", dir)?;
            state.check_dir("make directory", dir)?;
            if state.names.dirs.contains(dir) {
                return Ok(());
            }
        }
        self.change(NameChange::MakeDir { path: dir.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.enter(Op::SyncDir, "sync", dir)?;
        if has(Bug::NoDirectorySync) {
            return Ok(());
        }
        let (now, later) = std::mem::take(&mut state.pending).into_iter().partition(|change| change.is_in(dir));
        state.pending = later;
        let now: Vec<NameChange> = now;
        now.iter().for_each(|change| state.durable.apply(change));
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> Result<u64> {
        Ok(u64::MAX)
    }

    fn random(&self) -> u64 {
        next(&mut self.state.lock().random)
    }
}

impl FakeFile {
    fn with<T>(&self, op: Op, name: &'static str, run: impl FnOnce(&mut Inode, Result<()>) -> Result<T>) -> Result<T> {
        let mut state = self.disk.state.lock();
        if state.life != self.life {
            return Err(broken(name, &self.path, "this handle did not survive the power cut"));
        }
        if state.off {
            return Err(broken(name, &self.path, "the power is off"));
        }
        let entered = state.enter(op, name, &self.path);
        run(&mut state.inodes[self.inode], entered)
    }
}

impl File for FakeFile {
    fn len(&self) -> Result<u64> {
        Ok(self.disk.state.lock().inodes[self.inode].current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.with(Op::Read, "read", |inode, entered| {
            entered?;
            let start = (offset as usize).min(inode.current.len());
            let length = buffer.len().min(inode.current.len() - start);
            buffer[..length].copy_from_slice(&inode.current[start..start + length]);
            Ok(length)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let lie = self.disk.state.lock().next_lie();
        self.with(Op::Write, "write", |inode, entered| {
            // A write that fails has often done a part of its work; one cut short by the power may have done all.
            let cut = matches!(&entered, Err(Error::Disk { message, .. }) if message == "the power is off");
            let done = if entered.is_ok() || cut { bytes.len() } else { bytes.len() / 2 };
            inode.write(offset as usize, &bytes[..done], lie);
            entered
        })
    }

    fn sync_data(&self) -> Result<()> {
        self.with(Op::Sync, "sync", |inode, entered| {
            match &entered {
                Ok(()) => inode.sync(),
                Err(_) => inode.sync_fails(),
            }
            entered
        })
    }

    fn sync(&self) -> Result<()> {
        self.sync_data()
    }
}

fn broken(operation: &'static str, path: &Path, message: &str) -> Error {
    Error::Disk { operation, path: path.display().to_string(), message: message.to_owned() }
}
