//! Reading content back, always checked against its name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use estop_durable::file::At as _;

use super::format::{ENTRY_BYTES, Entry, EntryHeader, HEADER_BYTES};
use super::{ContentId, Location, Mark, Packs, pack};
use crate::error::Context as _;
use crate::{Error, Result};

/// What was found behind a mark.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Whole and matching contents.
    pub(crate) contents: HashMap<ContentId, Location>,
    /// What could not be used, with the pack concerned.
    pub(crate) faults: Vec<String>,
}

impl Packs {
    /// Writes the content `id` to `out`, checking it on the way; gives its length in bytes.
    ///
    /// When this fails, part of it may have been written.
    ///
    /// # Errors
    /// [`Error::ContentMissing`] if no pack holds it, [`Error::ContentDamaged`] if it is not what was stored.
    pub(crate) fn read_to(&self, id: &ContentId, out: &mut dyn Write) -> Result<u64> {
        let location = self.inner().index.get(id).copied();
        let missing = || Error::ContentMissing { id: *id, dir: self.dir.clone() };
        let location = location.ok_or_else(missing)?;
        if !self.path(location.pack).exists() {
            return Err(missing());
        }
        let (file, path) = pack::open(&self.dir, location.pack)?;
        let damaged = |detail: String| Error::ContentDamaged { id: *id, pack: path.clone(), detail };
        let mut header: EntryHeader = [0; _];
        file.read_exact_at(&mut header, location.offset).map_err(|error| damaged(error.to_string()))?;
        let entry = Entry::decode(&header, location.pack, location.offset)
            .filter(|entry| entry.id == *id)
            .ok_or_else(|| damaged("its header does not match".to_owned()))?;
        let copied = copy_entry(&file, location.offset, &entry, out);
        copied.map_err(|failure| match failure {
            Copying::Damaged(detail) => damaged(detail),
            Copying::Writing(source) => Error::Io { action: "write the content of", path: path.clone(), source },
        })?;
        Ok(entry.size)
    }

    /// How many bytes the entry at `location` takes in its pack; 0 if it can't be read.
    pub(super) fn stored_bytes(&self, location: Location) -> Result<u64> {
        let (file, _) = pack::open(&self.dir, location.pack)?;
        let mut header: EntryHeader = [0; _];
        let entry = match file.read_exact_at(&mut header, location.offset) {
            Ok(()) => Entry::decode(&header, location.pack, location.offset),
            Err(_) => None,
        };
        Ok(entry.map_or(0, |entry| ENTRY_BYTES + entry.stored))
    }

    /// Reads what stands in the packs behind `from`, up to `until` if given, checking each content against its name.
    pub(crate) fn scan(&self, from: Mark, until: Option<Mark>) -> Result<Found> {
        let mut found = Found::default();
        for number in self.numbers()? {
            if number < from.pack || until.is_some_and(|until| number > until.pack) {
                continue;
            }
            let start = if number == from.pack { from.length } else { HEADER_BYTES };
            let end = until.filter(|until| until.pack == number).map(|until| until.length);
            self.scan_pack(number, start, end, &mut found)?;
        }
        Ok(found)
    }

    fn scan_pack(&self, number: u32, start: u64, end: Option<u64>, found: &mut Found) -> Result<()> {
        let (file, path) = match pack::open(&self.dir, number) {
            Ok(opened) => opened,
            Err(error @ Error::PackDamaged { .. }) => {
                found.faults.push(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata().context("look at", &path)?.len();
        let end = end.unwrap_or(length);
        let mut offset = start.max(HEADER_BYTES);
        while offset < end {
            let mut header: EntryHeader = [0; _];
            let entry = match file.read_exact_at(&mut header, offset) {
                Ok(()) => Entry::decode(&header, number, offset),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => return Err(error).context("read", &path),
            };
            let Some(entry) = entry else {
                found.faults.push(format!("{}: nothing readable from byte {offset} on", path.display()));
                break;
            };
            match copy_entry(&file, offset, &entry, &mut io::sink()) {
                Ok(()) => {
                    found.contents.insert(entry.id, Location { pack: number, offset });
                }
                Err(Copying::Damaged(detail)) => {
                    found.faults.push(format!("{}: content {} at byte {offset}: {detail}", path.display(), entry.id));
                }
                Err(Copying::Writing(error)) => return Err(error).context("read", &path),
            }
            offset = offset.saturating_add(ENTRY_BYTES).saturating_add(entry.stored);
        }
        Ok(())
    }
}

enum Copying {
    Damaged(String),
    Writing(io::Error),
}

/// Copies the content of the entry at `offset` to `out`, and checks it against its name.
fn copy_entry(file: &File, offset: u64, entry: &Entry, out: &mut dyn Write) -> std::result::Result<(), Copying> {
    let stored = Section { file, at: offset + ENTRY_BYTES, left: entry.stored };
    let mut source: Box<dyn Read> = if entry.compressed {
        Box::new(zstd::Decoder::new(stored).map_err(|error| Copying::Damaged(error.to_string()))?.single_frame())
    } else {
        Box::new(stored)
    };
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    let chunk = usize::try_from(entry.size.clamp(1, 256 * 1024)).unwrap_or(256 * 1024);
    let mut buffer = vec![0; chunk];
    loop {
        let read = source.read(&mut buffer).map_err(|error| Copying::Damaged(error.to_string()))?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > entry.size {
            break;
        }
        hasher.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(Copying::Writing)?;
    }
    if size == entry.size && hasher.finalize().as_bytes() == &entry.id.0 {
        Ok(())
    } else {
        Err(Copying::Damaged("its bytes do not match its hash".to_owned()))
    }
}

/// Reads a section of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
