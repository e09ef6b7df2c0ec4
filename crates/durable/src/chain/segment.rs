//! The layout of a segment file.
//!
//! Little endian. The first page of 4096 bytes holds the header (`"ESTOPCHN"`, version `u32` = 1, kind (8 bytes), first
//! LSN `u64`, hash of the record before it (32 bytes), BLAKE3 of that) and, in the sectors at 512 and 1024, two anchors
//! written in turn (sequence `u64`, last acknowledged LSN `u64`, end offset `u64`, flags `u64` (1: continued by
//! another segment), hash of that record (32 bytes), BLAKE3 of that). Records follow: `"RECD"`, payload length `u32`,
//! LSN `u64`, payload, hash (32 bytes) = BLAKE3(hash of the record before, length, LSN, payload). The rest is zeros.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use super::{Head, Lsn};
use crate::error::{Context as _, damaged};
use crate::file::At as _;
use crate::{Error, Kind, Result};

const MAGIC: &[u8; 8] = b"ESTOPCHN";
const VERSION: u32 = 1;
const HEADER_FIELDS: usize = 8 + 4 + 8 + 8 + 32;
const ANCHORS_AT: [u64; 2] = [512, 1024];
const ANCHOR_FIELDS: usize = 8 * 4 + 32;
const RECORD_MAGIC: [u8; 4] = *b"RECD";
const RECORD_HEADER: usize = 4 + 4 + 8;
const CONTINUED: u64 = 1;

/// The first page: header and anchors.
const PAGE: usize = 4096;
/// Where the records begin.
pub(super) const RECORDS_AT: u64 = PAGE as u64;
/// What a record costs beside its payload, in bytes.
pub(super) const OVERHEAD: usize = RECORD_HEADER + 32;
/// The largest payload in bytes.
pub(super) const LIMIT: usize = 1 << 30;

/// A segment's file name.
pub(super) struct Name(pub(super) Lsn);

impl Name {
    pub(super) fn parse(name: &OsStr) -> Option<Self> {
        let digits = name.to_str()?.strip_suffix(".seg")?;
        (digits.len() == 16).then(|| Lsn::from_str_radix(digits, 16).ok().map(Self)).flatten()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}.seg", self.0)
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) kind: Kind,
    pub(super) first_lsn: Lsn,
    pub(super) previous: [u8; 32],
}

impl Segment {
    pub(super) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[12..20].copy_from_slice(&self.kind.0);
        page[20..28].copy_from_slice(&self.first_lsn.to_le_bytes());
        page[28..HEADER_FIELDS].copy_from_slice(&self.previous);
        let checksum = blake3::hash(&page[..HEADER_FIELDS]);
        page[HEADER_FIELDS..HEADER_FIELDS + 32].copy_from_slice(checksum.as_bytes());
        page
    }

    pub(super) fn read(file: &File, path: &Path, kind: Kind) -> Result<Self> {
        let mut bytes = [0; HEADER_FIELDS + 32];
        file.read_exact_at(&mut bytes, 0).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged(path, "it is shorter than its header"),
            _ => Error::Io { action: "read", path: path.to_owned(), source: error },
        })?;
        let (fields, checksum) = bytes.split_at(HEADER_FIELDS);
        if !fields.starts_with(MAGIC) || checksum != blake3::hash(fields).as_bytes() {
            return Err(damaged(path, "its header is not that of a segment"));
        }
        let version = u32::from_le_bytes(array(&fields[8..12]));
        if version != VERSION {
            return Err(Error::WrongVersion { path: path.to_owned(), expected: VERSION, found: version });
        }
        let found = Kind(array(&fields[12..20]));
        if found != kind {
            return Err(Error::WrongKind { path: path.to_owned(), expected: kind, found });
        }
        let first_lsn = u64::from_le_bytes(array(&fields[20..28]));
        if first_lsn == 0 {
            return Err(damaged(path, "it claims to begin at record 0"));
        }
        Ok(Self { kind, first_lsn, previous: array(&fields[28..]) })
    }

    /// The head of the chain before this segment's first record.
    pub(super) fn before(&self) -> Head {
        Head { lsn: self.first_lsn - 1, hash: self.previous }
    }
}

/// A segment's note of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) sequence: u64,
    pub(super) head: Head,
    pub(super) end: u64,
    pub(super) continued: bool,
}

impl Anchor {
    pub(super) fn write(&self, file: &File) -> std::io::Result<()> {
        let mut bytes = [0; ANCHOR_FIELDS + 32];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.head.lsn.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.end.to_le_bytes());
        bytes[24..32].copy_from_slice(&(if self.continued { CONTINUED } else { 0 }).to_le_bytes());
        bytes[32..ANCHOR_FIELDS].copy_from_slice(&self.head.hash);
        let checksum = blake3::hash(&bytes[..ANCHOR_FIELDS]);
        bytes[ANCHOR_FIELDS..].copy_from_slice(checksum.as_bytes());
        let at = if self.sequence.is_multiple_of(2) { ANCHORS_AT[0] } else { ANCHORS_AT[1] };
        file.write_all_at(&bytes, at)
    }

    /// The newer valid anchor; `None` if nothing was ever acknowledged in this segment.
    pub(super) fn read(file: &File, path: &Path) -> Result<Option<Self>> {
        let mut newest: Option<Self> = None;
        let mut torn = 0;
        for at in ANCHORS_AT {
            let mut bytes = [0; ANCHOR_FIELDS + 32];
            file.read_exact_at(&mut bytes, at).context("read", path)?;
            let (fields, checksum) = bytes.split_at(ANCHOR_FIELDS);
            if checksum == blake3::hash(fields).as_bytes() {
                let anchor = Self::decode(fields);
                if newest.is_none_or(|best| anchor.sequence > best.sequence) {
                    newest = Some(anchor);
                }
            } else if bytes.iter().any(|&byte| byte != 0) {
                torn += 1;
            }
        }
        // One write can tear one anchor. Two torn ones are damage.
        if torn == 2 { Err(damaged(path, "neither anchor has a valid checksum")) } else { Ok(newest) }
    }

    fn decode(fields: &[u8]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(array(&fields[at..at + 8]));
        Self {
            sequence: u64_at(0),
            head: Head { lsn: u64_at(8), hash: array(&fields[32..]) },
            end: u64_at(16),
            continued: u64_at(24) & CONTINUED != 0,
        }
    }
}

/// Appends the encoding of a record to `out` and returns the head after it.
pub(super) fn encode_record(out: &mut Vec<u8>, before: Head, payload: &[u8]) -> Head {
    let lsn = before.lsn + 1;
    #[expect(clippy::cast_possible_truncation, reason = "a payload has at most LIMIT bytes")]
    let length = payload.len() as u32;
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&lsn.to_le_bytes());
    out.extend_from_slice(payload);
    let hash = record_hash(&before.hash, length, lsn, payload);
    out.extend_from_slice(&hash);
    Head { lsn, hash }
}

fn record_hash(previous: &[u8; 32], length: u32, lsn: Lsn, payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(&length.to_le_bytes());
    hasher.update(&lsn.to_le_bytes());
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// What stands at an offset.
pub(super) enum Found {
    /// A record that follows, with its payload, the head after it and the offset after it.
    Record { payload: Vec<u8>, head: Head, end: u64 },
    /// Zeros: nothing was written here.
    End,
    /// Something else: torn or damaged.
    Invalid(String),
}

/// Reads what stands at `at`, expecting the record after `before`.
pub(super) fn read_record(file: &File, path: &Path, at: u64, length: u64, before: Head) -> Result<Found> {
    if at + RECORD_HEADER as u64 > length {
        return Ok(Found::End);
    }
    let mut header = [0; RECORD_HEADER];
    file.read_exact_at(&mut header, at).context("read", path)?;
    if header == [0; RECORD_HEADER] {
        return Ok(Found::End);
    }
    let invalid = |detail: &str| Ok(Found::Invalid(format!("at byte {at}, {detail}")));
    let lsn = u64::from_le_bytes(array(&header[8..16]));
    let size = u32::from_le_bytes(array(&header[4..8]));
    let end = at + OVERHEAD as u64 + u64::from(size);
    if header[..4] != RECORD_MAGIC || lsn != before.lsn + 1 || size as usize > LIMIT || end > length {
        return invalid(&format!("there is no record {}", before.lsn + 1));
    }
    let mut payload = vec![0; size as usize + 32];
    file.read_exact_at(&mut payload, at + RECORD_HEADER as u64).context("read", path)?;
    let hash: [u8; 32] = array(&payload[size as usize..]);
    payload.truncate(size as usize);
    if hash != record_hash(&before.hash, size, lsn, &payload) {
        return invalid(&format!("the hash of record {lsn} does not match"));
    }
    Ok(Found::Record { payload, head: Head { lsn, hash }, end })
}

/// Copies a slice whose length the caller has just chosen.
fn array<const N: usize>(slice: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(slice);
    out
}
