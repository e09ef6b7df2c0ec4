//! The bytes of a pack file.
//!
//! ```text
//! pack  = header entry*
//! header (32): "ESTOPPAK" | version u32 | number u32 | BLAKE3 of the above, first 16 bytes
//! entry  (64): "ENTY" | flags u32 | size u64 | stored u64 | name 32
//!              | BLAKE3 of the above with the pack's number and the entry's offset, first 8 bytes
//!        then `stored` bytes: the entry's `size` bytes themselves, or (flag 1) one zstd frame of them
//! ```
//! What an entry holds: without a flag, a content or a chunk of one, named by its BLAKE3; with flag 2, a group of pages (see `group`);
//! with flag 4, the map of a content (see `map`), named by the BLAKE3 of that content. Flags 2 and 4 came with version 2 of packs; a
//! pack of version 1 is read on, and gets no further entry.
//!
//! Numbers are little-endian. An entry found somewhere else than where it was written does not pass for one.

use super::ContentId;

pub(super) const HEADER_BYTES: u64 = 32;
pub(super) const ENTRY_BYTES: u64 = 64;
pub(super) type PackHeader = [u8; 32];
pub(super) type EntryHeader = [u8; 64];
/// The version of packs that are written.
pub(super) const VERSION: u32 = 2;
const OLDEST: u32 = 1;
const MAGIC: &[u8; 8] = b"ESTOPPAK";
const ENTRY_MAGIC: &[u8; 4] = b"ENTY";
const COMPRESSED: u32 = 1;
const GROUP: u32 = 2;
const MAP: u32 = 4;

pub(super) fn pack_header(number: u32) -> PackHeader {
    let mut header = [0; 32];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&number.to_le_bytes());
    let check = blake3::hash(&header[..16]);
    header[16..].copy_from_slice(&check.as_bytes()[..16]);
    header
}

/// The version of the pack `number`, of which `header` is the beginning; or why it is not that pack.
pub(super) fn check_header(header: &PackHeader, number: u32) -> Result<u32, String> {
    if &header[..8] != MAGIC || blake3::hash(&header[..16]).as_bytes()[..16] != header[16..] {
        return Err("its header is damaged".to_owned());
    }
    let field = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let version = field(8);
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(format!("it has format version {version}, this estop reads {OLDEST} to {VERSION}"));
    }
    if field(12) != number {
        return Err(format!("it is pack {}, not {number}", field(12)));
    }
    Ok(version)
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole content, or a chunk of one.
    Plain,
    /// Pages of contents.
    Group,
    /// Of which pieces a content is made.
    Map,
}

impl Kind {
    fn flag(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Group => GROUP,
            Self::Map => MAP,
        }
    }

    fn of(flags: u32) -> Option<Self> {
        [Self::Plain, Self::Group, Self::Map].into_iter().find(|kind| kind.flag() == flags & !COMPRESSED)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: ContentId,
    pub(super) size: u64,
    pub(super) stored: u64,
    pub(super) compressed: bool,
    pub(super) kind: Kind,
}

impl Entry {
    pub(super) fn encode(&self, number: u32, offset: u64) -> EntryHeader {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(ENTRY_MAGIC);
        let flags = self.kind.flag() | if self.compressed { COMPRESSED } else { 0 };
        bytes[4..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.stored.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.id.0);
        let check = check(&bytes, number, offset);
        bytes[56..].copy_from_slice(&check);
        bytes
    }

    pub(super) fn decode(bytes: &EntryHeader, number: u32, offset: u64) -> Option<Self> {
        let whole = &bytes[..4] == ENTRY_MAGIC && check(bytes, number, offset) == bytes[56..];
        let (flags, rest) = bytes[4..].split_first_chunk::<4>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (stored, rest) = rest.split_first_chunk::<8>()?;
        let (id, _) = rest.split_first_chunk::<32>()?;
        let flags = u32::from_le_bytes(*flags);
        let kind = Kind::of(flags)?;
        whole.then_some(Self {
            id: ContentId(*id),
            size: u64::from_le_bytes(*size),
            stored: u64::from_le_bytes(*stored),
            compressed: flags & COMPRESSED != 0,
            kind,
        })
    }
}

fn check(bytes: &EntryHeader, number: u32, offset: u64) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..56]);
    hasher.update(&number.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_changed_byte_of_a_header_is_noticed() {
        let header = pack_header(7);
        assert_eq!(check_header(&header, 7), Ok(VERSION));
        assert!(check_header(&header, 8).is_err());
        let entry = Entry { id: ContentId([9; 32]), size: 5, stored: 4, compressed: true, kind: Kind::Map };
        let bytes = entry.encode(7, 32);
        assert_eq!(Entry::decode(&bytes, 7, 32), Some(entry));
        assert_eq!(Entry::decode(&bytes, 7, 33), None);
        assert_eq!(Entry::decode(&bytes, 6, 32), None);
        for at in 0..64 {
            let mut bad = bytes;
            bad[at] ^= 4;
            assert_eq!(Entry::decode(&bad, 7, 32), None, "byte {at}");
            if at < 32 {
                let mut bad = header;
                bad[at] ^= 4;
                assert!(check_header(&bad, 7).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_refused_and_the_old_is_not() {
        let of_version = |version: u32| {
            let mut header = pack_header(7);
            header[8..12].copy_from_slice(&version.to_le_bytes());
            let check = blake3::hash(&header[..16]);
            header[16..].copy_from_slice(&check.as_bytes()[..16]);
            check_header(&header, 7)
        };
        assert_eq!(of_version(1), Ok(1));
        assert!(of_version(0).is_err());
        assert!(of_version(VERSION + 1).unwrap_err().contains("format version 3"));
        assert_eq!(Kind::of(GROUP | MAP), None);
        assert_eq!(Kind::of(8), None);
        assert_eq!(Kind::of(COMPRESSED | GROUP), Some(Kind::Group));
    }
}
