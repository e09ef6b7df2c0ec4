//! The encrypted file of one secret.
//!
//! A sealed file (kind `ESTOPSEC`, version 1) of which the payload is, little endian:
//! key id (8 bytes), revision `u64`, nonce (24 bytes), ciphertext with its tag. The plaintext is the name's length `u16`,
//! the name, and the document as JSON. The cipher is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), whose nonce is long
//! enough to be random; format, key id, revision and file name (a keyed hash of the secret's name) are bound as
//! associated data, so that no file can be passed off as another secret or another revision.

use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use data_encoding::HEXLOWER;
use estop_durable::{Kind, sealed};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use super::key::MasterKey;
use crate::error::from_durable;
use crate::{SecretName, StoreError};

const KIND: Kind = Kind(*b"ESTOPSEC");
const VERSION: u32 = 1;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;

/// What is derived from the master key: one key for each use.
pub(super) struct Keys {
    encryption: Zeroizing<[u8; 32]>,
    names: Zeroizing<[u8; 32]>,
    /// Tells a wrong key from a damaged file.
    id: [u8; KEY_ID_BYTES],
}

/// A file that was opened with the right key.
pub(super) struct Opened {
    pub(super) name: SecretName,
    pub(super) revision: u64,
    pub(super) document: Zeroizing<Vec<u8>>,
}

/// A payload taken apart, not yet opened.
struct Parts<'a> {
    key_id: [u8; KEY_ID_BYTES],
    revision: u64,
    nonce: [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
}

impl Keys {
    pub(super) fn derive(master: &MasterKey) -> Self {
        let id = derive(master.bytes(), b"estop secrets 1: key id");
        let mut short = [0; KEY_ID_BYTES];
        short.copy_from_slice(&id[..KEY_ID_BYTES]);
        Self {
            encryption: derive(master.bytes(), b"estop secrets 1: encryption"),
            names: derive(master.bytes(), b"estop secrets 1: names"),
            id: short,
        }
    }

    /// The name of a secret's file, without ending.
    pub(super) fn file_name(&self, name: &SecretName) -> String {
        HEXLOWER.encode(&*derive(&self.names, name.as_str().as_bytes()))
    }

    /// Reads and opens the file at `path`; `None` if there is none.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Opened>, StoreError> {
        let Some(payload) = read_payload(path)? else { return Ok(None) };
        let parts = self.parts(path, &payload)?;
        let aad = self.associated_data(path, parts.revision);
        let cipher = XChaCha20Poly1305::new((&*self.encryption).into());
        let plaintext = cipher
            .decrypt(&XNonce::from(parts.nonce), Payload { msg: parts.ciphertext, aad: &aad })
            .map_err(|_| damaged(path, "it was changed, or stands under another file's name"))?;
        let plaintext = Zeroizing::new(plaintext);
        let (name, document) = split_name(&plaintext).ok_or_else(|| damaged(path, "its content has no name"))?;
        Ok(Some(Opened { name, revision: parts.revision, document: Zeroizing::new(document.to_vec()) }))
    }

    /// Checks, without opening it, that the file at `path` was made with this key.
    pub(super) fn check(&self, path: &Path) -> Result<(), StoreError> {
        match read_payload(path) {
            Ok(Some(payload)) => self.parts(path, &payload).map(drop),
            Ok(None) => Ok(()),
            // One damaged file must not keep the other secrets from being read; it is reported when it is asked for.
            Err(StoreError::Damaged { what, detail }) => {
                tracing::warn!(file = what, detail, "a secret's file is damaged");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Encrypts `document` and replaces the file at `path`.
    pub(super) fn write(
        &self,
        path: &Path,
        name: &SecretName,
        revision: u64,
        document: &[u8],
    ) -> Result<(), StoreError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| StoreError::storage("get random bytes for", path, error))?;
        let plaintext = join_name(name, document);
        let aad = self.associated_data(path, revision);
        let cipher = XChaCha20Poly1305::new((&*self.encryption).into());
        let ciphertext = cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: &plaintext, aad: &aad })
            .map_err(|_| StoreError::invalid(format!("the document of {name}"), "it is too large to be encrypted"))?;
        let mut payload = Vec::with_capacity(KEY_ID_BYTES + 8 + NONCE_BYTES + ciphertext.len());
        payload.extend_from_slice(&self.id);
        payload.extend_from_slice(&revision.to_le_bytes());
        payload.extend_from_slice(&nonce);
        payload.extend_from_slice(&ciphertext);
        sealed::write(path, KIND, VERSION, &payload).map_err(|error| from_durable("write", path, error))
    }

    fn parts<'a>(&self, path: &Path, payload: &'a [u8]) -> Result<Parts<'a>, StoreError> {
        let parts = Parts::split(payload).ok_or_else(|| damaged(path, "it is too short"))?;
        if parts.key_id != self.id {
            return Err(StoreError::WrongKey { what: path.display().to_string() });
        }
        Ok(parts)
    }

    fn associated_data(&self, path: &Path, revision: u64) -> Vec<u8> {
        let mut data = Vec::with_capacity(128);
        data.extend_from_slice(&KIND.0);
        data.extend_from_slice(&VERSION.to_le_bytes());
        data.extend_from_slice(&self.id);
        data.extend_from_slice(&revision.to_le_bytes());
        data.extend_from_slice(path.file_stem().unwrap_or_default().as_encoded_bytes());
        data
    }
}

impl<'a> Parts<'a> {
    fn split(payload: &'a [u8]) -> Option<Self> {
        let (key_id, rest) = payload.split_first_chunk::<KEY_ID_BYTES>()?;
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>()?;
        Some(Self { key_id: *key_id, revision: u64::from_le_bytes(*revision), nonce: *nonce, ciphertext })
    }
}

fn read_payload(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    sealed::read(path, KIND, VERSION).map_err(|error| from_durable("read", path, error))
}

/// HMAC-SHA256 as a key derivation from a uniformly random key: one step of HKDF-Expand (RFC 5869).
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn derive(key: &[u8; 32], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(purpose);
    let mut output = mac.finalize().into_bytes();
    let derived = Zeroizing::new(output.into());
    output.as_mut_slice().zeroize();
    derived
}

fn join_name(name: &SecretName, document: &[u8]) -> Zeroizing<Vec<u8>> {
    let name = name.as_str().as_bytes();
    // A name has at most 255 bytes.
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
    let mut plaintext = Zeroizing::new(Vec::with_capacity(2 + name.len() + document.len()));
    plaintext.extend_from_slice(&length.to_le_bytes());
    plaintext.extend_from_slice(name);
    plaintext.extend_from_slice(document);
    plaintext
}

fn split_name(plaintext: &[u8]) -> Option<(SecretName, &[u8])> {
    let (length, rest) = plaintext.split_first_chunk::<2>()?;
    let (name, document) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((SecretName::new(std::str::from_utf8(name).ok()?).ok()?, document))
}

fn damaged(path: &Path, detail: &str) -> StoreError {
    StoreError::Damaged { what: path.display().to_string(), detail: detail.to_owned() }
}
