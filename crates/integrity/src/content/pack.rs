//! One pack file being written.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use estop_durable::file::{At as _, created_with};

use super::format::{Entry, EntryHeader, HEADER_BYTES, PackHeader, VERSION, check_header, pack_header};
use super::{Location, Mark};
use crate::error::Context as _;
use crate::{Error, Result};

/// A pack that has reached this length gets no further entry: small enough to be rewritten when parts of it are dropped.
const FULL_BYTES: u64 = 64 * 1024 * 1024;

/// The file name of pack `number`.
pub(super) fn name(number: u32) -> String {
    format!("{number:08}.pack")
}

/// The number in a pack's file name.
pub(super) fn number(name: &str) -> Option<u32> {
    name.strip_suffix(".pack").filter(|digits| digits.len() == 8)?.parse().ok()
}

/// A pack open for reading.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) number: u32,
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) version: u32,
}

impl Pack {
    /// Opens pack `number` in `dir` and checks its header.
    pub(super) fn open(dir: &Path, number: u32) -> Result<Self> {
        let path = dir.join(name(number));
        let file = File::open(&path).context("open", &path)?;
        let mut header: PackHeader = [0; _];
        let checked = match file.read_exact_at(&mut header, 0) {
            Ok(()) => check_header(&header, number),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err("it is cut short".to_owned()),
            Err(error) => return Err(error).context("read", &path),
        };
        match checked {
            Ok(version) => Ok(Self { number, file, path, version }),
            Err(detail) => Err(Error::PackDamaged { path, detail }),
        }
    }

    /// The entry at `offset`; nothing if none stands there.
    pub(super) fn entry(&self, offset: u64) -> Result<Option<Entry>> {
        let mut header: EntryHeader = [0; _];
        match self.file.read_exact_at(&mut header, offset) {
            Ok(()) => Ok(Entry::decode(&header, self.number, offset)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error).context("read", &self.path),
        }
    }
}

/// The pack at whose end new entries are written.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Where the next entry goes.
    pub(super) length: u64,
    pub(super) dirty: bool,
}

impl Writer {
    /// Goes on where `mark` says, or with a new pack after `last` if that one is full, of an older version, or holds more than the log
    /// knows.
    pub(super) fn resume(dir: &Path, mark: Mark, last: u32) -> Result<Self> {
        if mark.pack == last && mark.pack > 0 && mark.length < FULL_BYTES {
            let Pack { path, version, .. } = Pack::open(dir, mark.pack)?;
            let file = OpenOptions::new().read(true).write(true).open(&path).context("open", &path)?;
            if version == VERSION && file.metadata().context("look at", &path)?.len() == mark.length {
                return Ok(Self { number: mark.pack, path, file, length: mark.length, dirty: false });
            }
        }
        Self::create(dir, last.max(mark.pack) + 1)
    }

    fn create(dir: &Path, number: u32) -> Result<Self> {
        let path = dir.join(name(number));
        let mut options = OpenOptions::new();
        let file = created_with(options.read(true).write(true).create_new(true), 0o600)
            .open(&path)
            .context("create", &path)?;
        file.write_all_at(&pack_header(number), 0).context("write", &path)?;
        estop_durable::replace::sync_dir(dir)?;
        Ok(Self { number, path, file, length: HEADER_BYTES, dirty: true })
    }

    pub(super) fn is_full(&self) -> bool {
        self.length >= FULL_BYTES
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { pack: self.number, length: self.length }
    }

    /// Appends one entry whose stored bytes are at hand.
    pub(super) fn append(&mut self, entry: &Entry, stored: &[u8]) -> Result<Location> {
        let offset = self.length;
        let mut bytes = Vec::with_capacity(stored.len() + 64);
        bytes.extend_from_slice(&entry.encode(self.number, offset));
        bytes.extend_from_slice(stored);
        self.dirty = true;
        self.file.write_all_at(&bytes, offset).context("write", &self.path)?;
        self.length += bytes.len() as u64;
        Ok(Location { pack: self.number, offset })
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        if self.dirty {
            self.file.sync_data().context("synchronise", &self.path)?;
            self.dirty = false;
        }
        Ok(())
    }
}
