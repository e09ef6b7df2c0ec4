//! The value of a secret, in memory.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretSlice};
use zeroize::Zeroizing;

/// A secret's bytes. Wiped when dropped, never shown by `Debug`.
///
/// What is promised is that *our* copies are wiped; an HTTP library's buffers are not ours.
#[derive(Clone)]
pub struct SecretValue(SecretSlice<u8>);

impl SecretValue {
    /// Takes `bytes` over.
    pub fn new(bytes: Vec<u8>) -> Self {
        // Not `into_boxed_slice`: shrinking would move the bytes and leave the old ones behind unwiped.
        if bytes.len() == bytes.capacity() {
            return Self(bytes.into());
        }
        let bytes = Zeroizing::new(bytes);
        Self(bytes.as_slice().to_vec().into())
    }

    /// The bytes. Each call is a place where a secret could leave: keep them few.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.expose().len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl From<&str> for SecretValue {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl From<Vec<u8>> for SecretValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue([redacted])")
    }
}

impl PartialEq for SecretValue {
    /// Compares without telling by its duration where the first difference is.
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.expose(), other.expose());
        a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
    }
}

impl Eq for SecretValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        let value = SecretValue::from("planted-secret");
        assert_eq!(format!("{value:?} {:?}", Some(&value)), "SecretValue([redacted]) Some(SecretValue([redacted]))");
    }

    #[test]
    fn equality_is_that_of_the_bytes() {
        let mut spare = Vec::with_capacity(64);
        spare.extend_from_slice(b"abc");
        assert_eq!(SecretValue::new(spare), SecretValue::from("abc"));
        assert_ne!(SecretValue::from("abc"), SecretValue::from("abd"));
        assert_ne!(SecretValue::from("abc"), SecretValue::from("ab"));
    }
}
