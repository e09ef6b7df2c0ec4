//! Storing a content in chunks whose borders follow from what is in them (`FastCDC`), so that what is inserted moves them and changes
//! one or two. A chunk is a content of its own: equal ones are stored once, of whatever file they are.
//!
//! How it is recognised that a file is rather one of pages: `SQLite`'s by what they begin with, others by what they do. Most formats of
//! databases and vector indexes have nothing in common at their beginning, and what looks like one may be written anew each time. So
//! the first two versions of a large file are stored in chunks; if the second has most of its pages where they were, and pages would
//! have cost far less than the chunks did, the versions from the third on are stored as pages. It goes back to chunks in the same
//! way (see `pages`). A wrong guess costs room, never content.

use std::io::Read;
use std::path::Path;

use fastcdc::v2020::StreamCDC;

use super::group::PAGE_BYTES;
use super::map::{Body, Chunks, Division};
use super::{ContentId, Packs};
use crate::Result;
use crate::error::Context as _;

/// Small enough that a changed byte costs little, large enough that a file of 10 GB has no more than 40,000 of them to be indexed.
const AVERAGE_BYTES: usize = 256 * 1024;
const LEAST_BYTES: usize = 64 * 1024;
const MOST_BYTES: usize = 1024 * 1024;
/// Of so many pages one is in the sketch.
const SKETCHED: u64 = 16;
/// Pages must be that much cheaper than chunks.
const CLEARLY: u64 = 3;
/// Below this it does not matter.
const NOTEWORTHY_BYTES: u64 = 1024 * 1024;

impl Packs {
    /// Stores what `source` gives in chunks. `before` is the map of the version before.
    pub(super) fn take_chunks(
        &self,
        source: &mut dyn Read,
        path: &Path,
        before: Option<&Chunks>,
    ) -> Result<(ContentId, u64)> {
        let mut whole = blake3::Hasher::new();
        let mut sketch = Sketch::default();
        let mut map = Chunks { next: Division::Chunks, size: 0, pieces: Vec::new(), sketch: Vec::new() };
        let mut new = 0;
        for chunk in StreamCDC::new(source, LEAST_BYTES, AVERAGE_BYTES, MOST_BYTES) {
            let bytes = chunk.map_err(std::io::Error::from).context("read", path)?.data;
            whole.update(&bytes);
            sketch.take(map.size, &bytes);
            let id = ContentId(*blake3::hash(&bytes).as_bytes());
            if !self.contains(&id) {
                new += bytes.len() as u64;
                self.store(&bytes)?;
            }
            map.size += bytes.len() as u64;
            // At most `MOST_BYTES`.
            map.pieces.push((id, u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
        }
        let id = ContentId(*whole.finalize().as_bytes());
        let size = map.size;
        if self.is_whole(&id)? {
            return Ok((id, size));
        }
        map.sketch = sketch.pages;
        if before.is_some_and(|before| pages_are_cheaper(before, &map, new)) {
            map.next = Division::Pages;
        }
        self.put_map(id, &Body::Chunks(map))?;
        Ok((id, size))
    }
}

/// Whether pages would have cost far less than the `new` bytes of chunks.
fn pages_are_cheaper(before: &Chunks, after: &Chunks, new: u64) -> bool {
    let pairs = before.sketch.len().min(after.sketch.len()) as u64;
    let equal = before.sketch.iter().zip(&after.sketch).filter(|(one, other)| one == other).count() as u64;
    if equal * 2 < pairs || pairs == 0 {
        return false;
    }
    let changed = (pairs - equal) * SKETCHED * PAGE_BYTES as u64;
    let added = after.size.saturating_sub(before.size);
    new > NOTEWORTHY_BYTES + CLEARLY * (changed + added)
}

/// Takes some of the pages of a content that comes in pieces.
#[derive(Default)]
struct Sketch {
    pages: Vec<u32>,
    hasher: blake3::Hasher,
}

impl Sketch {
    /// Takes the bytes from `at` on; they follow those before.
    fn take(&mut self, mut at: u64, mut bytes: &[u8]) {
        const PAGE: u64 = PAGE_BYTES as u64;
        const PERIOD: u64 = SKETCHED * PAGE;
        while !bytes.is_empty() {
            let within = at % PERIOD;
            let until = if within < PAGE { PAGE - within } else { PERIOD - within };
            // No more than the bytes there are.
            let (part, rest) = bytes.split_at(usize::try_from(until).unwrap_or(usize::MAX).min(bytes.len()));
            if within < PAGE {
                self.hasher.update(part);
                if part.len() as u64 == until {
                    let hash = self.hasher.finalize();
                    let [a, b, c, d, ..] = *hash.as_bytes();
                    self.pages.push(u32::from_le_bytes([a, b, c, d]));
                    self.hasher.reset();
                }
            }
            at += part.len() as u64;
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sketch_is_the_same_however_the_bytes_come() {
        let bytes: Vec<u8> = (0..400_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
        let of_pieces = |length: usize| {
            let mut sketch = Sketch::default();
            for (at, piece) in bytes.chunks(length).enumerate() {
                sketch.take((at * length) as u64, piece);
            }
            sketch.pages
        };
        let whole = of_pieces(bytes.len());
        assert_eq!(whole.len(), bytes.len().div_ceil(16 * PAGE_BYTES));
        let second = blake3::hash(&bytes[16 * PAGE_BYTES..17 * PAGE_BYTES]);
        assert_eq!(whole[1].to_le_bytes(), second.as_bytes()[..4]);
        for length in [1000, 4096, 70_001] {
            assert_eq!(of_pieces(length), whole);
        }
    }

    #[test]
    fn pages_are_told_from_what_is_inserted_and_appended() {
        let map = |size: u64, sketch: Vec<u32>| Chunks { next: Division::Chunks, size, pieces: Vec::new(), sketch };
        let size = 100 << 20;
        let before = map(size, (0..1600).collect());
        let overwritten = map(size, (0..1600).map(|at| if at % 100 == 0 { 5000 } else { at }).collect());
        assert!(pages_are_cheaper(&before, &overwritten, 47 << 20));
        let inserted = map(size + 1, (0..1600).map(|at| at + 5000).collect());
        assert!(!pages_are_cheaper(&before, &inserted, 300_000));
        let appended = map(size + (10 << 20), (0..1760).collect());
        assert!(!pages_are_cheaper(&before, &appended, 11 << 20));
        let anew = map(size, (0..1600).map(|at| at + 5000).collect());
        assert!(!pages_are_cheaper(&before, &anew, size));
    }
}
