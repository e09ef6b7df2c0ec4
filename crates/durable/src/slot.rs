//! A preallocated file of two slots: writing it needs no new file, no new block and no memory.
//!
//! A write goes to the older slot, so that a torn write leaves the other one in force. Each slot is one sector of
//! 512 bytes (little endian): `"ESTOPSLT"`, version `u32` = 1, kind (8 bytes), sequence `u64`, payload length `u32`,
//! payload, zeros, and in the last 32 bytes the BLAKE3 of all that.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{Context as _, damaged};
use crate::file::At as _;
use crate::{Error, Kind, Result, replace};

const MAGIC: &[u8; 8] = b"ESTOPSLT";
const VERSION: u32 = 1;
const SECTOR: usize = 512;
const PAYLOAD_AT: usize = 8 + 4 + 8 + 8 + 4;
const CHECKSUM_AT: usize = SECTOR - 32;

/// The largest payload of a slot, in bytes.
pub const LIMIT: usize = CHECKSUM_AT - PAYLOAD_AT;

/// An open slot file.
#[derive(Debug)]
pub struct Slot {
    file: File,
    path: PathBuf,
    kind: Kind,
}

/// What one sector holds.
enum Sector {
    Empty,
    Torn,
    Valid { sequence: u64, length: usize },
}

impl Slot {
    /// Opens the slot file at `path`, creating it (mode 0600, both slots empty) if it is absent.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened or created, [`Error::Damaged`] if it has another size.
    pub fn create_or_open(path: &Path, kind: Kind) -> Result<Self> {
        match Self::open(path, kind) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                replace::replace(path, &[0; 2 * SECTOR], 0o600)?;
                Self::open(path, kind)
            }
            other => other,
        }
    }

    /// Opens the slot file at `path`, which must exist.
    ///
    /// # Errors
    /// As for [`Slot::create_or_open`].
    pub fn open(path: &Path, kind: Kind) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).context("open", path)?;
        let length = file.metadata().context("look at", path)?.len();
        if length != 2 * SECTOR as u64 {
            return Err(damaged(path, format!("it has {length} bytes instead of {}", 2 * SECTOR)));
        }
        Ok(Self { file, path: path.to_owned(), kind })
    }

    /// The payload written last; `None` if none ever was.
    ///
    /// # Errors
    /// [`Error::Damaged`] if no slot is valid though something was written; [`Error::WrongKind`]; [`Error::Io`].
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        let sectors = self.sectors()?;
        Ok(self.newest(&sectors)?.map(|(index, _, length)| sectors[index][PAYLOAD_AT..PAYLOAD_AT + length].to_vec()))
    }

    /// Writes `payload` durably. Allocates nothing unless it fails.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above [`LIMIT`] bytes; [`Error::Io`] if the write fails: the payload before is then in force.
    /// A slot file in which nothing is readable is written all the same.
    pub fn write(&self, payload: &[u8]) -> Result<()> {
        if payload.len() > LIMIT {
            return Err(Error::TooLarge { path: self.path.clone(), size: payload.len(), limit: LIMIT });
        }
        let sectors = self.sectors()?;
        let (index, sequence) = match self.newest(&sectors) {
            Ok(Some((newest, sequence, _))) => (1 - newest, sequence + 1),
            Ok(None) | Err(_) => (0, 1),
        };
        let sector = encode(self.kind, sequence, payload);
        self.file.write_all_at(&sector, (index * SECTOR) as u64).context("write", &self.path)?;
        self.file.sync_data().context("synchronise", &self.path)
    }

    fn sectors(&self) -> Result<[[u8; SECTOR]; 2]> {
        let mut sectors = [[0; SECTOR]; 2];
        for (index, sector) in sectors.iter_mut().enumerate() {
            self.file.read_exact_at(sector, (index * SECTOR) as u64).context("read", &self.path)?;
        }
        Ok(sectors)
    }

    /// Index, sequence and payload length of the newest valid slot.
    fn newest(&self, sectors: &[[u8; SECTOR]; 2]) -> Result<Option<(usize, u64, usize)>> {
        let mut newest: Option<(usize, u64, usize)> = None;
        let mut torn = 0;
        for (index, sector) in sectors.iter().enumerate() {
            match self.classify(sector)? {
                Sector::Valid { sequence, length } if newest.is_none_or(|(_, best, _)| sequence > best) => {
                    newest = Some((index, sequence, length));
                }
                Sector::Torn => torn += 1,
                Sector::Valid { .. } | Sector::Empty => {}
            }
        }
        // One torn slot beside an empty one is a first write that was never acknowledged.
        if newest.is_none() && torn == 2 {
            return Err(damaged(&self.path, "neither slot has a valid checksum"));
        }
        Ok(newest)
    }

    fn classify(&self, sector: &[u8; SECTOR]) -> Result<Sector> {
        if sector.iter().all(|&byte| byte == 0) {
            return Ok(Sector::Empty);
        }
        let (fields, checksum) = sector.split_at(CHECKSUM_AT);
        if checksum != blake3::hash(fields).as_bytes() || !fields.starts_with(MAGIC) {
            return Ok(Sector::Torn);
        }
        let version = u32_at(fields, 8);
        if version != VERSION {
            return Err(Error::WrongVersion { path: self.path.clone(), expected: VERSION, found: version });
        }
        let mut kind = [0; 8];
        kind.copy_from_slice(&fields[12..20]);
        if kind != self.kind.0 {
            return Err(Error::WrongKind { path: self.path.clone(), expected: self.kind, found: Kind(kind) });
        }
        let sequence = u64::from(u32_at(fields, 20)) | u64::from(u32_at(fields, 24)) << 32;
        let length = u32_at(fields, 28) as usize;
        Ok(if length <= LIMIT { Sector::Valid { sequence, length } } else { Sector::Torn })
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Slot {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn encode(kind: Kind, sequence: u64, payload: &[u8]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..8].copy_from_slice(MAGIC);
    sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
    sector[12..20].copy_from_slice(&kind.0);
    sector[20..28].copy_from_slice(&sequence.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "a payload has at most LIMIT bytes")]
    sector[28..32].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    sector[PAYLOAD_AT..PAYLOAD_AT + payload.len()].copy_from_slice(payload);
    let checksum = blake3::hash(&sector[..CHECKSUM_AT]);
    sector[CHECKSUM_AT..].copy_from_slice(checksum.as_bytes());
    sector
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KIND: Kind = Kind(*b"TESTSLOT");

    #[test]
    fn the_last_write_is_in_force_also_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slot");
        let slot = Slot::create_or_open(&path, KIND).unwrap();
        assert!(slot.read().unwrap().is_none());
        for round in 0..5_u8 {
            slot.write(&[round; 3]).unwrap();
            assert_eq!(Slot::open(&path, KIND).unwrap().read().unwrap().unwrap(), [round; 3]);
        }
        assert!(matches!(slot.write(&[0; LIMIT + 1]), Err(Error::TooLarge { .. })));
        assert!(matches!(Slot::open(&path, Kind(*b"ANOTHER ")).unwrap().read(), Err(Error::WrongKind { .. })));
    }

    #[test]
    fn a_torn_write_leaves_the_payload_before_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slot");
        let slot = Slot::create_or_open(&path, KIND).unwrap();
        slot.write(b"old").unwrap();
        slot.write(b"new").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[SECTOR + PAYLOAD_AT] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(slot.read().unwrap().unwrap(), b"old");
        slot.write(b"newer").unwrap();
        assert_eq!(slot.read().unwrap().unwrap(), b"newer");
    }

    #[test]
    fn two_damaged_slots_are_an_error_but_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slot");
        let slot = Slot::create_or_open(&path, KIND).unwrap();
        std::fs::write(&path, [7; 2 * SECTOR]).unwrap();
        assert!(matches!(slot.read(), Err(Error::Damaged { .. })));
        slot.write(b"latched").unwrap();
        assert_eq!(slot.read().unwrap().unwrap(), b"latched");
    }
}
