//! Storing content.

use std::io::Read;
use std::path::Path;

use super::format::{Entry, Kind};
use super::map::{Body, Division};
use super::pack::Writer;
use super::{ContentId, Inner, Location, Mark, Packs, Sink};
use crate::error::Context as _;
use crate::{Error, Result};

/// Up to this length a content is one entry, read into memory; a longer one is stored in pieces. Below it, what a piece saves is less
/// than what keeping account of it costs.
pub(crate) const WHOLE_BYTES: u64 = 1024 * 1024;
/// The fastest real level: 300 MB/s a thread here, and a third of the size on text.
const LEVEL: i32 = 1;
/// Shorter contents gain nothing.
const WORTH_TRYING_BYTES: usize = 128;
/// What every `SQLite` database begins with.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// Whether `compressed` bytes instead of `plain` are worth the decompression: an eighth saved.
fn pays(plain: usize, compressed: usize) -> bool {
    compressed < plain - plain / 8
}

impl Sink for Packs {
    fn take(&self, source: &mut dyn Read, path: &Path, before: Option<ContentId>) -> Result<(ContentId, u64)> {
        let mut start = Vec::new();
        source.take(WHOLE_BYTES + 1).read_to_end(&mut start).context("read", path)?;
        if start.len() as u64 <= WHOLE_BYTES {
            return Ok((self.store(&start)?, start.len() as u64));
        }
        let is_database = start.starts_with(SQLITE);
        let before = before.and_then(|id| Some((id, self.map_of(&id)?)));
        let division = match &before {
            _ if is_database => Division::Pages,
            Some((_, body)) => body.next(),
            None => Division::Chunks,
        };
        let mut source = start.as_slice().chain(source);
        match division {
            Division::Pages => {
                let base = before.filter(|(_, body)| matches!(body, Body::Pages(_))).map(|(id, _)| id);
                self.take_pages(&mut source, path, base, is_database)
            }
            Division::Chunks => {
                let before = before.and_then(|(_, body)| match body {
                    Body::Chunks(chunks) => Some(chunks),
                    Body::Pages(_) => None,
                });
                self.take_chunks(&mut source, path, before.as_ref())
            }
        }
    }
}

impl Packs {
    /// Stores `content`, in one entry, unless it is there already.
    pub(crate) fn store(&self, content: &[u8]) -> Result<ContentId> {
        let id = ContentId(*blake3::hash(content).as_bytes());
        if !self.contains(&id) {
            self.put(id, content, Kind::Plain)?;
        }
        Ok(id)
    }

    /// Writes an entry. A plain one is not written twice; another one is then the one that counts, since it may hold more.
    pub(super) fn put(&self, id: ContentId, plain: &[u8], kind: Kind) -> Result<()> {
        let compressed = if plain.len() >= WORTH_TRYING_BYTES {
            zstd::bulk::compress(plain, LEVEL).ok().filter(|bytes| pays(plain.len(), bytes.len()))
        } else {
            None
        };
        let stored = compressed.as_deref().unwrap_or(plain);
        let (size, length, compressed) = (plain.len() as u64, stored.len() as u64, compressed.is_some());
        let entry = Entry { id, size, stored: length, compressed, kind };
        let mut inner = self.inner();
        if kind == Kind::Plain && inner.index.contains_key(&id) {
            return Ok(());
        }
        let written = inner.writer(self).and_then(|writer| writer.append(&entry, stored));
        let location = inner.poison(written)?;
        inner.remember(id, location);
        Ok(())
    }

    /// Writes the map of content `id`.
    pub(super) fn put_map(&self, id: ContentId, body: &Body) -> Result<()> {
        let refused = |error: postcard::Error| std::io::Error::other(error);
        let bytes = body.encode(&id).map_err(refused).context("write to a pack in", &self.dir)?;
        self.put(id, &bytes, Kind::Map)
    }

    /// Whether the content `id` is stored and all of it can be read. That a map is there does not say it: pieces that only it needed
    /// may have been freed, after a crash before it was forgotten.
    pub(super) fn is_whole(&self, id: &ContentId) -> Result<bool> {
        if !self.contains(id) {
            return Ok(false);
        }
        match self.read_to(id, &mut std::io::sink()) {
            Ok(_) => Ok(true),
            Err(Error::ContentMissing { .. } | Error::ContentDamaged { .. } | Error::PackDamaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes everything stored so far durable, and says up to where the packs count now.
    pub(crate) fn sync(&self) -> Result<Mark> {
        let mut inner = self.inner();
        inner.refuse_if_poisoned(&self.dir)?;
        let Some(writer) = &mut inner.writer else { return Ok(inner.mark) };
        let synced = writer.sync().map(|()| writer.mark());
        let mark = inner.poison(synced)?;
        inner.mark = mark;
        Ok(mark)
    }
}

impl Inner {
    /// The pack to append to; a full one is made durable and followed by a new one.
    pub(super) fn writer(&mut self, packs: &Packs) -> Result<&mut Writer> {
        self.refuse_if_poisoned(&packs.dir)?;
        let writer = match self.writer.take() {
            Some(writer) if !writer.is_full() => writer,
            Some(mut full) => {
                full.sync()?;
                Writer::resume(&packs.dir, full.mark(), packs.last_number()?)?
            }
            None => Writer::resume(&packs.dir, self.mark, packs.last_number()?)?,
        };
        Ok(self.writer.insert(writer))
    }

    pub(super) fn remember(&mut self, id: ContentId, location: Location) {
        self.index.insert(id, location);
        self.fresh.push((id, location));
    }
}
