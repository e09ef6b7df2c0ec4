//! One pack file being written.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use estop_durable::file::{At as _, created_with};

use super::format::{ENTRY_BYTES, Entry, HEADER_BYTES, PackHeader, pack_header, refuse_header};
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

/// Opens pack `number` in `dir` for reading and checks its header.
pub(super) fn open(dir: &Path, number: u32) -> Result<(File, PathBuf)> {
    let path = dir.join(name(number));
    let file = File::open(&path).context("open", &path)?;
    let mut header: PackHeader = [0; _];
    let refusal = match file.read_exact_at(&mut header, 0) {
        Ok(()) => refuse_header(&header, number),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Some("it is cut short".to_owned()),
        Err(error) => return Err(error).context("read", &path),
    };
    match refusal {
        Some(detail) => Err(Error::PackDamaged { path, detail }),
        None => Ok((file, path)),
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
    /// Goes on where `mark` says, or with a new pack after `last` if that one is full or holds more than the log knows.
    pub(super) fn resume(dir: &Path, mark: Mark, last: u32) -> Result<Self> {
        if mark.pack == last && mark.pack > 0 && mark.length < FULL_BYTES {
            let path = dir.join(name(mark.pack));
            open(dir, mark.pack)?;
            let file = OpenOptions::new().read(true).write(true).open(&path).context("open", &path)?;
            if file.metadata().context("look at", &path)?.len() == mark.length {
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

    /// Completes an entry whose stored bytes already stand behind the place of its header.
    pub(super) fn finish(&mut self, entry: &Entry) -> Result<Location> {
        let offset = self.length;
        self.dirty = true;
        self.file.write_all_at(&entry.encode(self.number, offset), offset).context("write", &self.path)?;
        self.length += ENTRY_BYTES + entry.stored;
        Ok(Location { pack: self.number, offset })
    }

    /// Takes back what stands behind the last entry: the beginning of one that is not needed.
    pub(super) fn discard_tail(&mut self) -> Result<()> {
        self.dirty = true;
        self.file.set_len(self.length).context("shorten", &self.path)
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        if self.dirty {
            self.file.sync_data().context("synchronise", &self.path)?;
            self.dirty = false;
        }
        Ok(())
    }
}
