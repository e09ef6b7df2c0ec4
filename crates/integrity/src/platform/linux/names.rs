//! Names are bytes, and paths are made of them by `/`.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The bytes of a path, as records keep them.
pub(crate) fn from_path(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The path that records keep as `bytes`.
pub(crate) fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// What a user gave as a path inside a store, with `/` between the names; `None` if no name can be like that.
pub(crate) fn given(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    Some(Cow::Borrowed(bytes))
}

/// Whether two names, or paths, are the same to the filesystem.
pub(crate) fn same_name(one: &[u8], other: &[u8]) -> bool {
    one == other
}

/// As a POSIX shell takes it for one word.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if word.is_empty() || !word.chars().all(plain) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    word.to_owned()
}
