//! A data directory looked at without running it, and the salvage of a damaged log: for people, on request.

use std::path::Path;
use std::sync::Arc;

use crate::base::codec::Writer;
use crate::base::Result;
use crate::disk::{Identity, Lock, RealDisk};
use crate::snapshot::SnapshotStore;
use crate::wal::{self, Mark};

/// What is in the log of a directory, as a MessagePack map: `healthy`, `damage`, `segments` and more. Changes nothing,
/// and may be asked while a node runs.
pub fn inspect(dir: &Path) -> Result<Vec<u8>> {
    let mut out = Writer::new();
    wal::inspect(dir)?.write(&mut out);
    Ok(out.into_bytes())
}

/// Keeps what lies before the damage of a log and sets the rest aside, as a MessagePack map. `Busy` while a node runs.
pub fn salvage(dir: &Path) -> Result<Vec<u8>> {
    let _lock = Lock::take(dir)?;
    let disk = Arc::new(RealDisk);
    let snapshot = match Identity::load(&*disk, dir)? {
        Some(identity) => SnapshotStore::open(disk.clone(), dir, &identity)?.latest(),
        None => None,
    };
    let mark = snapshot.map(|snapshot| Mark { index: snapshot.index, term: snapshot.term });
    let mut out = Writer::new();
    wal::salvage_on(disk, dir, mark)?.write(&mut out);
    Ok(out.into_bytes())
}
