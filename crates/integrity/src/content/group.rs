//! A group of pages: what a page map's pages stand in.
//!
//! ```text
//! group = salt 16 | count u8 | held u32 | for each page: its length u16 if it is held, else its BLAKE3 32 | the pages that are held
//! ```
//! A group is named by the hash of its salt and its pages' hashes, not by its bytes: so a page that nothing needs any more can be
//! dropped from it, and every map that speaks of the others stays true. The salt makes each group one of a kind. Otherwise a file that
//! happens to have the same pages again could be built on a group of which some are about to be dropped.
//!
//! Pages are compressed together, not one by one: of pages here and there of an `SQLite` table of words, 54 % is left instead of 64 %.

use std::ops::Range;

use super::ContentId;

/// The length of a page: that of `SQLite`'s, and of the memory that other databases and indexes map their files by.
pub(super) const PAGE_BYTES: usize = 4096;
/// So many pages make a group. Twice as many would leave 1 % less, and cost twice as much where one page of many is read.
pub(super) const GROUP_PAGES: usize = 32;
const NAMING: &str = "estop-integrity 2026-11-25 group of pages";
const FIXED_BYTES: usize = 16 + 1 + 4;

/// A page's BLAKE3.
pub(super) type PageHash = [u8; 32];

pub(super) fn hash(page: &[u8]) -> PageHash {
    *blake3::hash(page).as_bytes()
}

/// A group whose pages have been checked.
pub(super) struct Group {
    salt: [u8; 16],
    bytes: Vec<u8>,
    pages: Vec<(PageHash, Option<Range<usize>>)>,
}

impl Group {
    /// An empty group, which no other is equal to if no other has this salt.
    pub(super) fn new(salt: [u8; 16]) -> Self {
        Self { salt, bytes: Vec::with_capacity(GROUP_PAGES * PAGE_BYTES), pages: Vec::with_capacity(GROUP_PAGES) }
    }

    /// Adds a page; gives its slot.
    pub(super) fn push(&mut self, page: &[u8], hash: PageHash) -> u8 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(page);
        self.pages.push((hash, Some(start..self.bytes.len())));
        u8::try_from(self.pages.len() - 1).unwrap_or(u8::MAX)
    }

    pub(super) fn is_full(&self) -> bool {
        self.pages.len() >= GROUP_PAGES
    }

    pub(super) fn id(&self) -> ContentId {
        let mut hasher = blake3::Hasher::new_derive_key(NAMING);
        hasher.update(&self.salt);
        for (hash, _) in &self.pages {
            hasher.update(hash);
        }
        ContentId(*hasher.finalize().as_bytes())
    }

    /// The page in `slot`, with its hash; nothing if it was dropped.
    pub(super) fn page(&self, slot: u8) -> Option<(&[u8], &PageHash)> {
        let (hash, range) = self.pages.get(usize::from(slot))?;
        Some((&self.bytes[range.clone()?], hash))
    }

    /// Drops the pages whose bit in `live` is not set.
    pub(super) fn keep(&mut self, live: u32) {
        for (slot, (_, range)) in self.pages.iter_mut().enumerate() {
            if live & 1 << slot == 0 {
                *range = None;
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + 32 * self.pages.len() + self.bytes.len());
        out.extend_from_slice(&self.salt);
        out.push(u8::try_from(self.pages.len()).unwrap_or(u8::MAX));
        let held = (0..).zip(&self.pages).filter(|(_, (_, range))| range.is_some());
        let held = held.fold(0_u32, |mask, (slot, _)| mask | 1 << slot);
        out.extend_from_slice(&held.to_le_bytes());
        for (hash, range) in &self.pages {
            match range {
                Some(range) => out.extend_from_slice(&u16::try_from(range.len()).unwrap_or(u16::MAX).to_le_bytes()),
                None => out.extend_from_slice(hash),
            }
        }
        for range in self.pages.iter().filter_map(|(_, range)| range.clone()) {
            out.extend_from_slice(&self.bytes[range]);
        }
        out
    }

    /// The group `id`; nothing if a byte of it is not as it was written.
    pub(super) fn decode(id: &ContentId, bytes: Vec<u8>) -> Option<Self> {
        let (salt, rest) = bytes.split_first_chunk::<16>()?;
        let (count, rest) = rest.split_first()?;
        let (held, mut rest) = rest.split_first_chunk::<4>()?;
        let held = u32::from_le_bytes(*held);
        let count = usize::from(*count);
        if count > GROUP_PAGES || u64::from(held) >= 1 << count {
            return None;
        }
        let mut lengths = Vec::with_capacity(count);
        for slot in 0..count {
            if held & 1 << slot == 0 {
                let (hash, after) = rest.split_first_chunk::<32>()?;
                lengths.push(Err(*hash));
                rest = after;
            } else {
                let (length, after) = rest.split_first_chunk::<2>()?;
                lengths.push(Ok(usize::from(u16::from_le_bytes(*length))));
                rest = after;
            }
        }
        let mut at = bytes.len() - rest.len();
        let mut pages = Vec::with_capacity(count);
        for length in lengths {
            match length {
                Err(dropped) => pages.push((dropped, None)),
                Ok(length) => {
                    pages.push((hash(bytes.get(at..at + length)?), Some(at..at + length)));
                    at += length;
                }
            }
        }
        let salt = *salt;
        let whole = at == bytes.len();
        let group = Self { salt, bytes, pages };
        (whole && group.id() == *id).then_some(group)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_group_keeps_its_name_when_pages_are_dropped_and_every_changed_byte_is_noticed() {
        let mut group = Group::new([7; 16]);
        let pages = [vec![1; PAGE_BYTES], vec![2; PAGE_BYTES], vec![3; 10]];
        for page in &pages {
            group.push(page, hash(page));
        }
        let id = group.id();
        assert_ne!(id, Group { salt: [8; 16], ..Group::decode(&id, group.encode()).unwrap() }.id());
        let mut less = Group::decode(&id, group.encode()).unwrap();
        less.keep(0b101);
        let bytes = less.encode();
        let less = Group::decode(&id, bytes.clone()).unwrap();
        assert_eq!(less.page(0).unwrap().0, &pages[0][..]);
        assert_eq!(less.page(1), None);
        assert_eq!(less.page(2).unwrap(), (&pages[2][..], &hash(&pages[2])));
        assert_eq!(less.page(3), None);
        assert!(bytes.len() < PAGE_BYTES + 100);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Group::decode(&id, bad).is_none(), "byte {at}");
        }
    }
}
