//! The bytes of a pack file.
//!
//! ```text
//! pack  = header entry*
//! header (32): "ESTOPPAK" | version u32 | number u32 | BLAKE3 of the above, first 16 bytes
//! entry  (64): "ENTY" | flags u32 | size u64 | stored u64 | content id (BLAKE3 of the content) 32
//!              | BLAKE3 of the above with the pack's number and the entry's offset, first 8 bytes
//!        then `stored` bytes: the content itself, or (flag 1) one zstd frame of it
//! ```
//! Numbers are little-endian. An entry found somewhere else than where it was written does not pass for one.

use super::ContentId;

pub(super) const HEADER_BYTES: u64 = 32;
pub(super) const ENTRY_BYTES: u64 = 64;
pub(super) type PackHeader = [u8; 32];
pub(super) type EntryHeader = [u8; 64];
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"ESTOPPAK";
const ENTRY_MAGIC: &[u8; 4] = b"ENTY";
const COMPRESSED: u32 = 1;

pub(super) fn pack_header(number: u32) -> PackHeader {
    let mut header = [0; 32];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&number.to_le_bytes());
    let check = blake3::hash(&header[..16]);
    header[16..].copy_from_slice(&check.as_bytes()[..16]);
    header
}

/// Says why `header` is not that of pack `number`; nothing if it is.
pub(super) fn refuse_header(header: &PackHeader, number: u32) -> Option<String> {
    if &header[..8] != MAGIC || blake3::hash(&header[..16]).as_bytes()[..16] != header[16..] {
        return Some("its header is damaged".to_owned());
    }
    let field = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if field(8) != VERSION {
        return Some(format!("it has format version {}, this estop reads {VERSION}", field(8)));
    }
    (field(12) != number).then(|| format!("it is pack {}, not {number}", field(12)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: ContentId,
    pub(super) size: u64,
    pub(super) stored: u64,
    pub(super) compressed: bool,
}

impl Entry {
    pub(super) fn encode(&self, number: u32, offset: u64) -> EntryHeader {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(ENTRY_MAGIC);
        bytes[4..8].copy_from_slice(&(if self.compressed { COMPRESSED } else { 0 }).to_le_bytes());
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
        (whole && flags & !COMPRESSED == 0).then_some(Self {
            id: ContentId(*id),
            size: u64::from_le_bytes(*size),
            stored: u64::from_le_bytes(*stored),
            compressed: flags & COMPRESSED != 0,
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
    use super::*;

    #[test]
    fn every_changed_byte_of_a_header_is_noticed() {
        let header = pack_header(7);
        assert_eq!(refuse_header(&header, 7), None);
        assert!(refuse_header(&header, 8).is_some());
        let entry = Entry { id: ContentId([9; 32]), size: 5, stored: 4, compressed: true };
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
                assert!(refuse_header(&bad, 7).is_some(), "byte {at}");
            }
        }
    }
}
