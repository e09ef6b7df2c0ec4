//! Content, named by its BLAKE3 hash and stored once, in append-only pack files.
//!
//! A small content is one entry in a pack. A large one is a map and pieces: pages of 4 KiB where pages are overwritten in place
//! (`pages`), chunks otherwise (`chunks`). Pieces are found through the map, by the names of their entries; so the index has one
//! entry for 32 pages or for a chunk, and maps stay true wherever pieces are moved to.
//!
//! The log says up to where the packs count ([`Mark`]). What stands behind that, after a crash, is no part of any state:
//! it is never read as content, never overwritten, and goes when the packs are tidied.

mod chunks;
mod format;
mod group;
mod map;
mod pack;
mod pages;
mod read;
mod scan;
mod tidy;
mod write;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::Context as _;
use crate::{Error, Result};

pub(crate) use tidy::Tidied;
pub(crate) use write::WHOLE_BYTES;

/// The name of a content: its BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId(pub [u8; 32]);

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

/// Where a content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The pack's number.
    pub(crate) pack: u32,
    /// Where its entry begins in the pack.
    pub(crate) offset: u64,
}

/// Up to where the packs are durable and count: everything before `length` in pack `pack`, and the packs before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// A pack's number; 0: no pack at all.
    pub pack: u32,
    /// Bytes of that pack.
    pub length: u64,
}

/// Takes content, of the file at `path`; gives its name and length in bytes. `before` is what the file held before, where that is known:
/// of a large file only what differs may then have to be stored.
pub(crate) trait Sink: Sync {
    fn take(&self, source: &mut dyn Read, path: &Path, before: Option<ContentId>) -> Result<(ContentId, u64)>;
}

/// Only hashes: for comparing with what is stored.
pub(crate) struct HashOnly;

impl Sink for HashOnly {
    fn take(&self, source: &mut dyn Read, path: &Path, _before: Option<ContentId>) -> Result<(ContentId, u64)> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let read = source.read(&mut buffer).context("read", path)?;
            if read == 0 {
                return Ok((ContentId(*hasher.finalize().as_bytes()), size));
            }
            hasher.update(&buffer[..read]);
            size += read as u64;
        }
    }
}

/// The pack files of one vault, and where each content stands in them.
#[derive(Debug)]
pub(crate) struct Packs {
    dir: PathBuf,
    inner: Mutex<Inner>,
    opened: i128,
    salts: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    index: HashMap<ContentId, Location>,
    /// Stored by this process and not yet in the catalogue.
    fresh: Vec<(ContentId, Location)>,
    writer: Option<pack::Writer>,
    /// Where to go on, as the log says.
    mark: Mark,
    /// The first failed write: what the device holds since then is not known.
    poisoned: Option<String>,
}

impl Packs {
    /// Opens the packs in `dir`, of which the log knows up to `mark` and the catalogue knows `index`. What `index` says of packs that
    /// are gone is left out, so that their contents are stored again when they are met.
    pub(crate) fn open(dir: &Path, mark: Mark, index: HashMap<ContentId, Location>) -> Result<Self> {
        let inner = Inner { index, fresh: Vec::new(), writer: None, mark, poisoned: None };
        let opened = jiff::Timestamp::now().as_nanosecond();
        let packs = Self { dir: dir.to_owned(), inner: Mutex::new(inner), opened, salts: AtomicU64::new(0) };
        let there: HashSet<u32> = packs.numbers()?.into_iter().collect();
        packs.inner().index.retain(|_, location| there.contains(&location.pack));
        Ok(packs)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change below leaves the fields consistent before it can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlike any that was given for this vault: from the moment, and who asks how often. The vault's lock lets one at a time ask.
    fn salt(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.opened.to_le_bytes());
        hasher.update(&std::process::id().to_le_bytes());
        hasher.update(&self.salts.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let mut salt = [0; 16];
        salt.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        salt
    }

    /// Whether `id` is stored.
    pub(crate) fn contains(&self, id: &ContentId) -> bool {
        self.inner().index.contains_key(id)
    }

    /// What was stored since the last call.
    pub(crate) fn take_fresh(&self) -> Vec<(ContentId, Location)> {
        std::mem::take(&mut self.inner().fresh)
    }

    /// Takes back what could not be noted.
    pub(crate) fn give_back_fresh(&self, fresh: Vec<(ContentId, Location)>) {
        self.inner().fresh.extend(fresh);
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(pack::name(number))
    }

    /// The numbers of the packs there are, ascending.
    pub(crate) fn numbers(&self) -> Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.dir).context("list", &self.dir)? {
            let entry = entry.context("list", &self.dir)?;
            numbers.extend(entry.file_name().to_str().and_then(pack::number));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn last_number(&self) -> Result<u32> {
        Ok(self.numbers()?.last().copied().unwrap_or(0))
    }
}

impl Inner {
    fn refuse_if_poisoned(&self, dir: &Path) -> Result<()> {
        match &self.poisoned {
            Some(detail) => Err(Error::Poisoned { dir: dir.to_owned(), detail: detail.clone() }),
            None => Ok(()),
        }
    }

    /// A failed write or synchronisation is final: the kernel marks the pages clean, and a retry would prove nothing.
    fn poison<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.poisoned.get_or_insert_with(|| error.to_string());
        }
        result
    }
}

#[cfg(test)]
mod tests;
