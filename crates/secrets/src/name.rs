//! The name of a secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes. Vault's own limit for a path is far above it.
const MAX_LENGTH: usize = 255;

/// A secret's name: segments of `[A-Za-z0-9._-]` joined by `/`, such as `db/password`.
///
/// It is used in URL paths and shown in messages, so nothing that is special in either can be in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// Why a text is no [`SecretName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{shown:?} is no name for a secret: {reason}; use letters, digits, '.', '_' and '-', with '/' between segments"
)]
pub struct InvalidName {
    /// The text, shortened.
    shown: String,
    reason: &'static str,
}

impl SecretName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidName`] if it is empty, longer than 255 bytes, has an empty, `.` or `..` segment, or another character.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        match fault(&name) {
            None => Ok(Self(name)),
            Some(reason) => Err(InvalidName { shown: name.chars().take(64).collect(), reason }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > MAX_LENGTH {
        return Some("it is longer than 255 bytes");
    }
    name.split('/').find_map(|segment| match segment {
        "" => Some("it has an empty segment, or a '/' at an end"),
        "." | ".." => Some("it has a segment of dots only"),
        _ if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) => {
            Some("it has a character that is not allowed")
        }
        _ => None,
    })
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretName({})", self.0)
    }
}

impl FromStr for SecretName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl TryFrom<String> for SecretName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn takes_segments_and_nothing_that_a_path_or_url_would_read_otherwise() {
        for good in ["a", "db/password", "A.b_c-9/..x", "x".repeat(255).as_str()] {
            assert_eq!(SecretName::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(256);
        for bad in
            ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a b", "a?b", "a#b", "a%2fb", "ä", "a\n", "a\\b", &long]
        {
            assert!(SecretName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn is_checked_when_it_is_deserialized() {
        assert!(serde_json::from_str::<SecretName>("\"a/../b\"").is_err());
        assert_eq!(serde_json::from_str::<SecretName>("\"a/b\"").unwrap().as_str(), "a/b");
    }
}
