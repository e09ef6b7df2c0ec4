//! Reading content back, always checked against its name.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use estop_durable::file::At as _;

use super::format::{ENTRY_BYTES, Entry, Kind};
use super::group::Group;
use super::map::{Body, Chunks, MOST_LINKS, PageMap};
use super::pack::Pack;
use super::{ContentId, Location, Packs};
use crate::{Error, Result};

/// So many groups are kept while a content is put together: those of the versions that its pages are of. 8 MiB at most.
const KEPT_GROUPS: usize = 64;

impl Packs {
    /// Writes the content `id` to `out`, checking it on the way; gives its length in bytes.
    ///
    /// When this fails, part of it may have been written.
    ///
    /// # Errors
    /// [`Error::ContentMissing`] if no pack holds it, or a piece of it; [`Error::ContentDamaged`] if it, or a piece of it, is not what
    /// was stored.
    pub(crate) fn read_to(&self, id: &ContentId, out: &mut dyn Write) -> Result<u64> {
        let mut reader = self.reader();
        let (entry, location) = reader.entry(id)?;
        match entry.kind {
            Kind::Plain => {
                let pack = reader.pack(location.pack, id)?;
                let copied = copy_entry(&pack.file, location.offset, &entry, out);
                copied.map_err(|failure| failure.of(id, pack.path.clone()))?;
                Ok(entry.size)
            }
            Kind::Map => {
                let mut checked =
                    Checked { out, hasher: blake3::Hasher::new(), size: 0, id, pack: self.path(location.pack) };
                let size = match reader.map(id)? {
                    Body::Chunks(map) => reader.copy_chunks(&map, &mut checked).map(|()| map.size)?,
                    Body::Pages(_) => {
                        let map = reader.page_map(id)?;
                        reader.copy_pages(&map, &mut checked).map(|()| map.size)?
                    }
                };
                checked.finish(size)
            }
            Kind::Group => Err(reader.damaged(id, location.pack, "it is no content")),
        }
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { packs: self, open: None }
    }

    /// The map of content `id`; nothing if it has none or it can't be read.
    pub(super) fn map_of(&self, id: &ContentId) -> Option<Body> {
        let mut reader = self.reader();
        let (entry, _) = reader.entry(id).ok()?;
        if entry.kind == Kind::Map { reader.map(id).ok() } else { None }
    }
}

/// Reads entries, keeping the pack of the last one open.
pub(super) struct Reader<'a> {
    packs: &'a Packs,
    open: Option<Pack>,
}

impl Reader<'_> {
    /// The entry named `id`, and where it stands.
    pub(super) fn entry(&mut self, id: &ContentId) -> Result<(Entry, Location)> {
        let location = self.packs.inner().index.get(id).copied();
        let location = location.ok_or_else(|| self.missing(id))?;
        let entry = self.pack(location.pack, id)?.entry(location.offset)?.filter(|entry| entry.id == *id);
        let entry = entry.ok_or_else(|| self.damaged(id, location.pack, "its header does not match"))?;
        Ok((entry, location))
    }

    /// What the entry named `id` holds, whose own check is its reader's matter.
    pub(super) fn payload(&mut self, id: &ContentId, kind: Kind) -> Result<Vec<u8>> {
        let (entry, location) = self.entry(id)?;
        if entry.kind != kind {
            return Err(self.damaged(id, location.pack, "it is of another kind"));
        }
        let pack = self.pack(location.pack, id)?;
        payload(&pack.file, location.offset, &entry).map_err(|failure| failure.of(id, pack.path.clone()))
    }

    pub(super) fn group(&mut self, id: &ContentId) -> Result<Group> {
        let bytes = self.payload(id, Kind::Group)?;
        Group::decode(id, bytes).ok_or_else(|| self.mismatch(id))
    }

    pub(super) fn map(&mut self, id: &ContentId) -> Result<Body> {
        let bytes = self.payload(id, Kind::Map)?;
        Body::decode(id, &bytes).ok_or_else(|| self.mismatch(id))
    }

    /// The page map of content `id` with all its pages, put together from the maps it builds on.
    pub(super) fn page_map(&mut self, id: &ContentId) -> Result<PageMap> {
        let mut chain = Vec::new();
        let mut next = Some(*id);
        while let Some(id) = next {
            let Body::Pages(pages) = self.map(&id)? else { return Err(self.mismatch(&id)) };
            next = pages.base.map(|base| base.id);
            chain.push(pages);
            if chain.len() > MOST_LINKS as usize + 1 {
                return Err(self.mismatch(&id));
            }
        }
        let whole = chain.into_iter().rev().try_fold(PageMap::default(), PageMap::apply);
        whole.ok_or_else(|| self.mismatch(id))
    }

    fn copy_chunks(&mut self, map: &Chunks, out: &mut Checked<'_>) -> Result<()> {
        for (id, length) in &map.pieces {
            let bytes = self.payload(id, Kind::Plain)?;
            if bytes.len() as u64 != u64::from(*length) || blake3::hash(&bytes).as_bytes() != &id.0 {
                return Err(self.mismatch(id));
            }
            out.take(&bytes)?;
        }
        Ok(())
    }

    fn copy_pages(&mut self, map: &PageMap, out: &mut Checked<'_>) -> Result<()> {
        let mut kept: HashMap<u32, (usize, Group)> = HashMap::new();
        for (clock, page) in map.pages.iter().enumerate() {
            let id = &map.groups[page.group as usize];
            if kept.len() >= KEPT_GROUPS && !kept.contains_key(&page.group) {
                let oldest = kept.iter().min_by_key(|(_, (used, _))| *used).map(|(group, _)| *group);
                oldest.and_then(|group| kept.remove(&group));
            }
            let (used, group) = match kept.entry(page.group) {
                MapEntry::Occupied(there) => there.into_mut(),
                MapEntry::Vacant(place) => place.insert((clock, self.group(id)?)),
            };
            *used = clock;
            match group.page(page.slot) {
                Some((bytes, hash)) if *hash == page.hash => out.take(bytes)?,
                Some(_) => return Err(self.mismatch(id)),
                None => return Err(self.missing(id)),
            }
        }
        Ok(())
    }

    fn pack(&mut self, number: u32, id: &ContentId) -> Result<&Pack> {
        let pack = match self.open.take() {
            Some(pack) if pack.number == number => pack,
            _ if !self.packs.path(number).exists() => return Err(self.missing(id)),
            _ => Pack::open(&self.packs.dir, number)?,
        };
        Ok(self.open.insert(pack))
    }

    fn missing(&self, id: &ContentId) -> Error {
        Error::ContentMissing { id: *id, dir: self.packs.dir.clone() }
    }

    fn damaged(&self, id: &ContentId, pack: u32, detail: &str) -> Error {
        Error::ContentDamaged { id: *id, pack: self.packs.path(pack), detail: detail.to_owned() }
    }

    fn mismatch(&self, id: &ContentId) -> Error {
        let pack = self.packs.inner().index.get(id).map_or(0, |location| location.pack);
        self.damaged(id, pack, MISMATCH)
    }
}

const MISMATCH: &str = "its bytes do not match its hash";

/// Passes on what is to be content `id`, and checks that it is.
struct Checked<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
    size: u64,
    id: &'a ContentId,
    pack: PathBuf,
}

impl Checked<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| Copying::Writing(source).of(self.id, self.pack.clone()))
    }

    fn finish(self, size: u64) -> Result<u64> {
        if size == self.size && self.hasher.finalize().as_bytes() == &self.id.0 {
            return Ok(size);
        }
        Err(Copying::Damaged("its pieces do not make what it was".to_owned()).of(self.id, self.pack))
    }
}

pub(super) enum Copying {
    Damaged(String),
    Writing(io::Error),
}

impl Copying {
    fn of(self, id: &ContentId, pack: PathBuf) -> Error {
        match self {
            Self::Damaged(detail) => Error::ContentDamaged { id: *id, pack, detail },
            Self::Writing(source) => Error::Io { action: "write the content of", path: pack, source },
        }
    }
}

/// What the entry at `offset` holds, unchecked but for its length.
pub(super) fn payload(file: &File, offset: u64, entry: &Entry) -> std::result::Result<Vec<u8>, Copying> {
    let damaged = |error: io::Error| Copying::Damaged(error.to_string());
    let mut bytes = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0));
    let mut source = source(file, offset, entry).map_err(damaged)?.take(entry.size + 1);
    source.read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 == entry.size { Ok(bytes) } else { Err(Copying::Damaged(MISMATCH.to_owned())) }
}

fn source<'a>(file: &'a File, offset: u64, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
    let stored = Section { file, at: offset + ENTRY_BYTES, left: entry.stored };
    Ok(if entry.compressed { Box::new(zstd::Decoder::new(stored)?.single_frame()) } else { Box::new(stored) })
}

/// Copies the content of the entry at `offset`, of any length, to `out`, and checks it against its name.
pub(super) fn copy_entry(
    file: &File,
    offset: u64,
    entry: &Entry,
    out: &mut dyn Write,
) -> std::result::Result<(), Copying> {
    let mut source = source(file, offset, entry).map_err(|error| Copying::Damaged(error.to_string()))?;
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
        Err(Copying::Damaged(MISMATCH.to_owned()))
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
