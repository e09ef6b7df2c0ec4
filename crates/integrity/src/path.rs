//! Names inside a store: bytes, relative, never leading out.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::platform::{from_path, given};
use crate::{Error, Result};

/// The path of something inside a store: bytes (names need not be UTF-8), components separated by `/`, relative to the
/// store's root, without empty, `.` or `..` components. The root itself is the empty path, which only estop makes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Box<[u8]>);

impl StorePath {
    /// Takes `bytes` as a path inside a store. A leading `./` and a trailing `/` are left out. On Windows, `\\` separates names too.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] if it is empty, absolute, or holds a NUL byte (on Windows, what no name can hold) or an empty, `.` or `..`
    /// component.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let given = given(bytes).ok_or_else(|| invalid(bytes))?;
        let trimmed = given.strip_prefix(b"./").unwrap_or(&given);
        let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
        if is_inside(trimmed) { Ok(Self(trimmed.into())) } else { Err(invalid(bytes)) }
    }

    /// Takes a relative `path` of the system's as one inside a store.
    ///
    /// # Errors
    /// As [`StorePath::new`].
    pub fn of(path: &Path) -> Result<Self> {
        Self::new(&from_path(path))
    }

    /// The store's own directory.
    pub(crate) fn root() -> Self {
        Self(Box::default())
    }

    /// Takes `bytes` as they stand in estop's own records: as a directory gave them, and the root has its place too.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] if it leads out of the store.
    pub(crate) fn recorded(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() || is_inside(bytes) { Ok(Self(bytes.into())) } else { Err(invalid(bytes)) }
    }

    /// Whether it is the store's own directory.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The name `name`, as a directory listing gave it, inside `directory` (empty: the root).
    pub(crate) fn child(directory: &[u8], name: &[u8]) -> Self {
        if directory.is_empty() {
            return Self(name.into());
        }
        let mut bytes = Vec::with_capacity(directory.len() + 1 + name.len());
        bytes.extend_from_slice(directory);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self(bytes.into())
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of the directory it is in (empty: the root), and its own name.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        }
    }

    /// The directory it is in; `None` for the root and what stands in it.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (directory, _) = self.split();
        (!directory.is_empty()).then(|| Self(directory.into()))
    }

    /// Whether it is `ancestor` or lies below it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        match self.0.strip_prefix(&*ancestor.0) {
            Some(rest) => ancestor.is_root() || rest.is_empty() || rest[0] == b'/',
            None => false,
        }
    }

    /// How many directories stand above it.
    pub(crate) fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.0.split(|byte| *byte == b'/').count() }
    }
}

/// Whether every component is a name.
fn is_inside(path: &[u8]) -> bool {
    let is_name = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    path.split(|byte| *byte == b'/').all(is_name)
}

fn invalid(path: &[u8]) -> Error {
    Error::InvalidPath { path: String::from_utf8_lossy(path).into_owned() }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { f.write_str(&String::from_utf8_lossy(&self.0)) }
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl std::str::FromStr for StorePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text.as_bytes())
    }
}

/// For people and JSON: text, with U+FFFD where the name is not UTF-8. For the log: the bytes themselves.
impl Serialize for StorePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for StorePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = StorePath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path inside a store")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> std::result::Result<StorePath, E> {
                StorePath::recorded(bytes).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<StorePath, E> {
                self.visit_bytes(text.as_bytes())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_leads_out_is_refused() {
        for bad in ["", "/", "/etc", "a//b", "..", "a/../b", ".", "a/.", "a\0b"] {
            assert!(StorePath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        #[cfg(windows)]
        assert!(StorePath::new(b"a:stream").is_err());
        #[cfg(windows)]
        assert_eq!(StorePath::new(br".\a\b").unwrap().as_bytes(), b"a/b");
        for (good, kept) in [("a", "a"), ("./a/b", "a/b"), ("a/", "a"), ("...", "..."), ("a b/\u{e9}", "a b/\u{e9}")] {
            assert_eq!(StorePath::new(good.as_bytes()).unwrap().as_bytes(), kept.as_bytes());
        }
    }

    #[test]
    fn within_means_whole_components() {
        let dir: StorePath = "a/b".parse().unwrap();
        assert!("a/b".parse::<StorePath>().unwrap().is_within(&dir));
        assert!("a/b/c".parse::<StorePath>().unwrap().is_within(&dir));
        assert!(!"a/bc".parse::<StorePath>().unwrap().is_within(&dir));
        assert!(!"a".parse::<StorePath>().unwrap().is_within(&dir));
        assert!(dir.is_within(&StorePath::root()) && !StorePath::root().is_within(&dir));
    }

    #[test]
    fn the_root_stands_above_everything_and_is_no_name_that_a_user_gives() {
        assert!(StorePath::new(b"").is_err());
        let root = StorePath::recorded(b"").unwrap();
        assert_eq!((root.to_string().as_str(), root.depth(), root.parent()), (".", 0, None));
        let top: StorePath = "a".parse().unwrap();
        assert_eq!((top.depth(), top.parent()), (1, None));
    }
}
