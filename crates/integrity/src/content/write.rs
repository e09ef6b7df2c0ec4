//! Storing content.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use estop_durable::file::At as _;

use super::format::{ENTRY_BYTES, Entry};
use super::pack::Writer;
use super::{ContentId, Inner, Location, Mark, Packs, Sink};
use crate::Result;
use crate::error::Context as _;

/// Up to this length a file is read into memory, and compressed outside the lock; longer ones are streamed.
const WHOLE_BYTES: u64 = 4 * 1024 * 1024;
/// How much of a long file is compressed for trial.
const SAMPLE_BYTES: usize = 256 * 1024;
/// The fastest real level: 300 MB/s a thread here, and a third of the size on text.
const LEVEL: i32 = 1;
/// Shorter contents gain nothing.
const WORTH_TRYING_BYTES: usize = 128;

/// Whether `compressed` bytes instead of `plain` are worth the decompression: an eighth saved.
fn pays(plain: usize, compressed: usize) -> bool {
    compressed < plain - plain / 8
}

impl Sink for Packs {
    fn take(&self, source: &mut dyn Read, path: &Path) -> Result<(ContentId, u64)> {
        let mut start = Vec::new();
        source.take(WHOLE_BYTES + 1).read_to_end(&mut start).context("read", path)?;
        if start.len() as u64 <= WHOLE_BYTES {
            return Ok((self.store(&start)?, start.len() as u64));
        }
        self.stream(&start, source, path)
    }
}

impl Packs {
    /// Stores `content` unless it is there already.
    pub(crate) fn store(&self, content: &[u8]) -> Result<ContentId> {
        let id = ContentId(*blake3::hash(content).as_bytes());
        if self.contains(&id) {
            return Ok(id);
        }
        let compressed = if content.len() >= WORTH_TRYING_BYTES {
            zstd::bulk::compress(content, LEVEL).ok().filter(|bytes| pays(content.len(), bytes.len()))
        } else {
            None
        };
        let stored = compressed.as_deref().unwrap_or(content);
        let entry =
            Entry { id, size: content.len() as u64, stored: stored.len() as u64, compressed: compressed.is_some() };
        let mut inner = self.inner();
        if !inner.index.contains_key(&id) {
            let written = inner.writer(self).and_then(|writer| writer.append(&entry, stored));
            let location = inner.poison(written)?;
            inner.remember(id, location);
        }
        Ok(id)
    }

    /// Stores a long content: `start`, then the rest of `source`.
    fn stream(&self, start: &[u8], source: &mut dyn Read, path: &Path) -> Result<(ContentId, u64)> {
        let sample = &start[..SAMPLE_BYTES.min(start.len())];
        let compress = zstd::bulk::compress(sample, LEVEL).is_ok_and(|bytes| pays(sample.len(), bytes.len()));
        let mut inner = self.inner();
        let streamed = match inner.writer(self) {
            Ok(writer) => writer.stream(start, source, compress),
            Err(error) => return inner.poison(Err(error)),
        };
        match streamed {
            Ok(entry) if !inner.index.contains_key(&entry.id) => {
                let finished = inner.writer(self).and_then(|writer| writer.finish(&entry));
                let location = inner.poison(finished)?;
                inner.remember(entry.id, location);
                Ok((entry.id, entry.size))
            }
            needless => {
                let discarded = inner.writer(self).and_then(Writer::discard_tail);
                inner.poison(discarded)?;
                match needless {
                    Ok(entry) => Ok((entry.id, entry.size)),
                    Err(Streaming::Reading(error)) => Err(error).context("read", path),
                    Err(Streaming::Writing(error)) => inner.poison(Err(error).context("write to a pack in", &self.dir)),
                }
            }
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

enum Streaming {
    Reading(io::Error),
    Writing(io::Error),
}

impl Writer {
    /// Writes `start` and the rest of `source` behind the place of the next entry's header, which is left for
    /// [`Writer::finish`].
    fn stream(&mut self, start: &[u8], source: &mut dyn Read, compress: bool) -> std::result::Result<Entry, Streaming> {
        self.dirty = true;
        let tail = Tail { file: &self.file, from: self.length + ENTRY_BYTES, at: 0 };
        let mut out = if compress {
            Out::Frame(zstd::Encoder::new(tail, LEVEL).map_err(Streaming::Writing)?)
        } else {
            Out::Plain(tail)
        };
        let mut hasher = blake3::Hasher::new();
        let mut size = start.len() as u64;
        hasher.update(start);
        out.write_all(start).map_err(Streaming::Writing)?;
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            let read = source.read(&mut buffer).map_err(Streaming::Reading)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            out.write_all(&buffer[..read]).map_err(Streaming::Writing)?;
            size += read as u64;
        }
        let stored = out.finish().map_err(Streaming::Writing)?;
        let id = ContentId(*hasher.finalize().as_bytes());
        Ok(Entry { id, size, stored, compressed: compress })
    }
}

/// Writes one after the other behind a place in a file.
struct Tail<'a> {
    file: &'a File,
    from: u64,
    at: u64,
}

impl Write for Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.from + self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Out<'a> {
    Plain(Tail<'a>),
    Frame(zstd::Encoder<'static, Tail<'a>>),
}

impl Out<'_> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tail) => tail.write_all(bytes),
            Self::Frame(encoder) => encoder.write_all(bytes),
        }
    }

    /// How many bytes were stored.
    fn finish(self) -> io::Result<u64> {
        match self {
            Self::Plain(tail) => Ok(tail.at),
            Self::Frame(encoder) => Ok(encoder.finish()?.at),
        }
    }
}
