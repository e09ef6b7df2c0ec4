//! Append-only segments of records, each chained to the one before by its hash.
//!
//! A chain is a directory of segment files, named by the first LSN that they hold. See [`segment`](self) for the
//! layout in `segment.rs`. Records of many threads are written and synchronised together (group commit): whoever
//! finds no writer at work becomes the writer for everything that has queued up.
//!
//! After a crash the end of the last segment may hold a record that was never acknowledged. It is cut only where the
//! segment's own note of what was acknowledged (its *anchor*) and the absence of anything valid behind it agree;
//! otherwise the chain is refused as damaged. The anchor reaches the device with the synchronisation after the one it
//! speaks of, so after a power failure the very last batch alone is told from a torn one only by its checksum.

mod reader;
mod segment;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use reader::Reader;
pub use writer::Chain;

use crate::error::Context as _;
use crate::{Kind, Result, error::damaged};
use segment::{Name, Segment};

/// The position of a record: 1 for the first one of a chain, without gaps.
pub type Lsn = u64;

/// How a chain is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the chain is.
    pub kind: Kind,
    /// Size of a new segment in bytes; a batch that needs more gets a larger one.
    pub segment_bytes: u64,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub lsn: Lsn,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// The end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Position of the last record; 0 if there is none.
    pub lsn: Lsn,
    /// Hash of the last record, over everything before it.
    pub hash: [u8; 32],
}

impl Head {
    /// The head of a chain without records.
    pub const EMPTY: Self = Self { lsn: 0, hash: [0; 32] };
}

/// What [`verify`] found.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    /// Number of records held.
    pub records: u64,
    /// Position of the first record held; one past the head if there is none.
    pub first_lsn: Lsn,
    /// The end of the chain.
    pub head: Head,
}

/// Checks every record of the chain in `dir`, without changing anything and without its lock.
///
/// # Errors
/// [`Error::Damaged`](crate::Error::Damaged) at the first record that is not what was appended, or where one is missing.
pub fn verify(dir: &Path, kind: Kind) -> Result<Verified> {
    let mut reader = Reader::open(dir, kind)?;
    let first_lsn = reader.first_lsn();
    let mut records = 0;
    for record in reader.by_ref() {
        record?;
        records += 1;
    }
    Ok(Verified { records, first_lsn, head: reader.position() })
}

/// The segments of a chain in order, checked to follow each other by name.
fn list(dir: &Path) -> Result<Vec<(Lsn, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir).context("list", dir)? {
        let entry = entry.context("list", dir)?;
        if let Some(Name(first)) = Name::parse(&entry.file_name()) {
            segments.push((first, entry.path()));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Opens the segment at `path` and checks that it begins where `before` ends.
fn open_following(path: &Path, kind: Kind, first: Lsn, before: Option<Head>) -> Result<(File, Segment)> {
    let file = File::open(path).context("open", path)?;
    let segment = Segment::read(&file, path, kind)?;
    if segment.first_lsn != first {
        return Err(damaged(path, format!("its header says that it begins at record {}", segment.first_lsn)));
    }
    if let Some(before) = before {
        if before.lsn + 1 != first {
            return Err(damaged(path, format!("records {} to {} before it are missing", before.lsn + 1, first - 1)));
        }
        if before.hash != segment.previous {
            return Err(damaged(path, "it does not continue the segment before it"));
        }
    }
    Ok((file, segment))
}
