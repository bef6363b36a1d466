//! What an archive looks like from outside, for people. Changes nothing: sled writes when it is opened, so a copy of the
//! index is opened instead. The records themselves are not read; each chunk is checked when it is asked for.

use std::path::{Path, PathBuf};

use super::index::{self, packs_named, Index, META_KEY};
use super::pack;
use super::store::{Lost, Meta};
use crate::base::codec::Writer;
use crate::base::{ClusterId, Error, GroupId, Result};

/// Largest index that is copied: of a hundred million records and more.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// An archive as it lies on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether there is one.
    pub present: bool,
    pub watermark: u64,
    pub records: u64,
    /// Bytes of its packs.
    pub bytes: u64,
    /// History that it knows to be gone.
    pub lost: Option<Lost>,
    /// Why the next start puts it aside and begins an empty one.
    pub damage: Option<String>,
    /// Why it was not looked at.
    pub unknown: Option<String>,
}

/// Reads the figures of the archive in `dir` and checks what can be checked without reading its records. `owner`: whose
/// it must be, if that is known. No node may use it meanwhile.
pub fn inspect(dir: &Path, owner: Option<(ClusterId, GroupId)>) -> Report {
    if !dir.is_dir() {
        return Report::default();
    }
    let mut report = Report { present: true, ..Report::default() };
    match look(dir, owner, &mut report) {
        Ok(()) => {}
        Err(Error::Corrupt { message, .. } | Error::Foreign(message)) => report.damage = Some(message),
        Err(other) => report.unknown = Some(other.to_string()),
    }
    report
}

fn look(dir: &Path, owner: Option<(ClusterId, GroupId)>, report: &mut Report) -> Result<()> {
    let packs = pack::list(dir)?;
    report.bytes = packs.iter().map(|(_, bytes)| bytes).sum();
    let copy = Copy::of(&dir.join("index"))?;
    let index = index::open_sled(&copy.path)?;
    let Some(meta) = index.get(META_KEY)? else {
        let empty = packs.is_empty() && index.first_from(&[])?.is_none();
        return if empty { Ok(()) } else { Err(bad("its meta record is missing")) };
    };
    let meta = Meta::decode(&meta)?;
    if owner.is_some_and(|owner| owner != (meta.cluster, meta.group)) {
        return Err(bad(format!("it belongs to cluster {}, group {}", meta.cluster, meta.group)));
    }
    (report.watermark, report.records, report.lost) = (meta.watermark, meta.records, meta.lost);
    check_packs(dir, &*index, &packs, (meta.cluster, meta.group))
}

/// Every pack that the index names is there and has a whole head.
fn check_packs(dir: &Path, index: &dyn Index, packs: &[(u32, u64)], owner: (ClusterId, GroupId)) -> Result<()> {
    for number in packs_named(index)? {
        if !packs.iter().any(|(pack, _)| *pack == number) {
            return Err(bad(format!("pack {number} is missing")));
        }
        pack::check_head(dir, number, owner.0, owner.1)?;
    }
    Ok(())
}

fn bad(message: impl Into<String>) -> Error {
    Error::Corrupt { path: "archive".to_owned(), offset: 0, message: message.into() }
}

/// A copy of a directory of files, removed when dropped.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn of(source: &Path) -> Result<Copy> {
        let bytes = bytes_in(source)?;
        if bytes > INDEX_BYTES_MAX {
            return Err(Error::Invalid(format!("its index of {bytes} bytes is too large to be looked at")));
        }
        let number = std::process::id();
        let path = (0..).map(|attempt| std::env::temp_dir().join(format!("raftwork-doctor-{number}-{attempt}")));
        let path = path.into_iter().find(|path| !path.exists()).expect("there are more numbers than directories");
        let copy = Copy { path };
        copy_files(source, &copy.path)?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn bytes_in(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for item in std::fs::read_dir(dir).map_err(|error| missing(dir, &error))? {
        let item = item.map_err(|error| Error::disk("list", dir.display(), &error))?;
        let about = item.metadata().map_err(|error| Error::disk("stat", dir.display(), &error))?;
        bytes += if about.is_dir() { bytes_in(&item.path())? } else { about.len() };
    }
    Ok(bytes)
}

fn missing(dir: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => bad("its index is missing"),
        _ => Error::disk("list", dir.display(), error),
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to).map_err(|error| Error::disk("create", to.display(), &error))?;
    for item in std::fs::read_dir(from).map_err(|error| missing(from, &error))? {
        let item = item.map_err(|error| Error::disk("list", from.display(), &error))?.path();
        let target = to.join(item.file_name().unwrap_or_default());
        if item.is_dir() {
            copy_files(&item, &target)?;
        } else {
            std::fs::copy(&item, &target).map_err(|error| Error::disk("copy", item.display(), &error))?;
        }
    }
    Ok(())
}

impl Report {
    /// Appends the report as a MessagePack map with names.
    pub fn write(&self, out: &mut Writer) {
        let text = |out: &mut Writer, text: &str| {
            out.str(text);
        };
        out.map(7);
        out.str("present").bool(self.present);
        out.str("watermark").u64(self.watermark);
        out.str("records").u64(self.records);
        out.str("bytes").u64(self.bytes);
        out.str("lost").option(self.lost.as_ref().map(|lost| &*lost.reason), text);
        out.str("damage").option(self.damage.as_deref(), text);
        out.str("unknown").option(self.unknown.as_deref(), text);
    }
}
