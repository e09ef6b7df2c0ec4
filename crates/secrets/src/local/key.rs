//! The key of the embedded store.

use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use super::guarded;
use crate::{SecretValue, StoreError};

/// The environment variable that may hold the key: 32 bytes in base64 or hexadecimal.
pub const KEY_VARIABLE: &str = "ESTOP_SECRETS_KEY";

const KEY_BYTES: usize = 32;

/// The first word of a key file: what it is, and its version.
const HEADING: &str = "estop-secrets-key-v1";

/// Where the key comes from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A file with mode 0600 that belongs to this user. Made with a random key on first use.
    File(PathBuf),
    /// The key as text: 32 bytes in base64 or hexadecimal.
    Text(SecretValue),
}

impl KeySource {
    /// The environment variable [`KEY_VARIABLE`] if it is set and not empty, else the file.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the variable holds no key.
    pub fn from_environment_or(file: impl Into<PathBuf>) -> Result<Self, StoreError> {
        match std::env::var(KEY_VARIABLE) {
            Ok(text) if !text.trim().is_empty() => {
                let text = SecretValue::from(text);
                parse(KEY_VARIABLE, &text)?;
                Ok(Self::Text(text))
            }
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(Self::File(file.into())),
            Err(std::env::VarError::NotUnicode(_)) => Err(no_key(KEY_VARIABLE)),
        }
    }

    /// Gets the key; a missing file is made only where `may_create` says that no secret needs an older one.
    pub(super) fn obtain(&self, may_create: bool) -> Result<MasterKey, StoreError> {
        match self {
            Self::Text(text) => parse("the key given", text),
            Self::File(path) => match guarded::read(path)? {
                Some(bytes) => parse_file(path, &bytes),
                None if may_create => create(path),
                None => {
                    let detail = "it does not exist, but secrets encrypted with it do: put it back from a copy";
                    Err(StoreError::invalid(format!("the key file {}", path.display()), detail))
                }
            },
        }
    }
}

/// The key from which all others are derived. Wiped when dropped.
pub(super) struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl MasterKey {
    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

fn create(path: &Path) -> Result<MasterKey, StoreError> {
    let mut key = MasterKey(Zeroizing::new([0; KEY_BYTES]));
    getrandom::fill(&mut *key.0).map_err(|error| StoreError::storage("get random bytes for", path, error))?;
    let hex = Zeroizing::new(HEXLOWER.encode(key.bytes()));
    let text = Zeroizing::new(format!("{HEADING} {} {}\n", *hex, checksum(key.bytes())));
    guarded::create(path, text.as_bytes())?;
    Ok(key)
}

fn parse_file(path: &Path, bytes: &[u8]) -> Result<MasterKey, StoreError> {
    let damaged = |detail: &str| StoreError::Damaged {
        what: format!("the key file {}", path.display()),
        detail: detail.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    let mut words = text.split_ascii_whitespace();
    if words.next() != Some(HEADING) {
        return Err(damaged("it does not begin as a key file of this version does"));
    }
    let key = words.next().and_then(|hex| key_from(HEXLOWER.decode(hex.as_bytes()).ok()?));
    let key = key.ok_or_else(|| damaged("its key is not 32 bytes in hexadecimal"))?;
    if words.next() != Some(checksum(key.bytes()).as_str()) || words.next().is_some() {
        return Err(damaged("its checksum does not match"));
    }
    Ok(key)
}

/// The first 8 bytes of the key's SHA-256: enough to find a slip, and of no use against 256 random bits.
fn checksum(key: &[u8; KEY_BYTES]) -> String {
    HEXLOWER.encode(&Sha256::digest(key)[..8])
}

fn parse(what: &str, text: &SecretValue) -> Result<MasterKey, StoreError> {
    let text = text.expose().trim_ascii();
    let bytes = if text.len() == 2 * KEY_BYTES { HEXLOWER_PERMISSIVE.decode(text) } else { BASE64.decode(text) };
    bytes.ok().and_then(key_from).ok_or_else(|| no_key(what))
}

fn key_from(bytes: Vec<u8>) -> Option<MasterKey> {
    let bytes = Zeroizing::new(bytes);
    let mut key: [u8; KEY_BYTES] = bytes.as_slice().try_into().ok()?;
    let kept = MasterKey(Zeroizing::new(key));
    key.zeroize();
    Some(kept)
}

fn no_key(what: &str) -> StoreError {
    let detail = "it must be 32 random bytes in base64 or hexadecimal: make one with `openssl rand -hex 32`";
    StoreError::invalid(what, detail)
}
