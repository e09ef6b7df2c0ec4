//! A small file with kind, version and checksum, replaced as a whole.
//!
//! Layout (little endian): `"ESTOPSLD"`, container version `u32` = 1, kind (8 bytes), payload version `u32`,
//! payload length `u64`, BLAKE3 of all of that and the payload (32 bytes), payload.

use std::fs;
use std::path::Path;

use crate::error::{Context as _, damaged};
use crate::{Error, Kind, Result, replace};

const MAGIC: &[u8; 8] = b"ESTOPSLD";
const CONTAINER_VERSION: u32 = 1;
const FIELDS: usize = 8 + 4 + 8 + 4 + 8;
const HEADER: usize = FIELDS + 32;

/// Writes `payload` to `path` with mode 0600, replacing what is there atomically.
///
/// # Errors
/// As for [`replace::replace`].
pub fn write(path: &Path, kind: Kind, version: u32, payload: &[u8]) -> Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&CONTAINER_VERSION.to_le_bytes());
    bytes.extend_from_slice(&kind.0);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let checksum = checksum(&bytes, payload);
    bytes.extend_from_slice(&checksum);
    bytes.extend_from_slice(payload);
    replace::replace(path, &bytes, 0o600)
}

/// Reads the payload at `path`; `None` if there is no such file.
///
/// # Errors
/// [`Error::Damaged`], [`Error::WrongKind`] or [`Error::WrongVersion`] if it is not what [`write()`] wrote for the same
/// kind and version; [`Error::Io`] if it cannot be read.
pub fn read(path: &Path, kind: Kind, version: u32) -> Result<Option<Vec<u8>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("read", path),
    };
    let header = Header::parse(&bytes).ok_or_else(|| damaged(path, "its header is not that of a sealed file"))?;
    if header.checksum != checksum(&bytes[..FIELDS], header.payload) {
        return Err(damaged(path, "its checksum does not match"));
    }
    if header.container_version != CONTAINER_VERSION {
        return Err(wrong_version(path, CONTAINER_VERSION, header.container_version));
    }
    if header.kind != kind {
        return Err(Error::WrongKind { path: path.to_owned(), expected: kind, found: header.kind });
    }
    if header.version != version {
        return Err(wrong_version(path, version, header.version));
    }
    Ok(Some(header.payload.to_vec()))
}

struct Header<'a> {
    container_version: u32,
    kind: Kind,
    version: u32,
    checksum: [u8; 32],
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (container_version, rest) = rest.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (checksum, payload) = rest.split_first_chunk::<32>()?;
        (u64::from_le_bytes(*length) == payload.len() as u64).then_some(Self {
            container_version: u32::from_le_bytes(*container_version),
            kind: Kind(*kind),
            version: u32::from_le_bytes(*version),
            checksum: *checksum,
            payload,
        })
    }
}

fn checksum(fields: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fields);
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

fn wrong_version(path: &Path, expected: u32, found: u32) -> Error {
    Error::WrongVersion { path: path.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KIND: Kind = Kind(*b"TESTSEAL");

    #[test]
    fn reads_back_what_was_written_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read(&path, KIND, 1).unwrap().is_none());
        write(&path, KIND, 1, b"payload").unwrap();
        assert_eq!(read(&path, KIND, 1).unwrap().unwrap(), b"payload");
        assert!(matches!(read(&path, KIND, 2), Err(Error::WrongVersion { found: 1, .. })));
        assert!(matches!(read(&path, Kind(*b"ANOTHER "), 1), Err(Error::WrongKind { .. })));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, KIND, 1, b"some payload").unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(read(&path, KIND, 1).is_err(), "byte {at} flipped");
            fs::write(&path, &good[..at]).unwrap();
            assert!(read(&path, KIND, 1).is_err(), "cut at {at}");
        }
    }
}
