//! The errors of this crate.

use std::path::{Path, PathBuf};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, to which file, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as an infinitive: "open", "synchronise".
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The file is not what was written: a changed byte, a missing part.
    #[error("{path} is damaged: {detail}; it was left untouched: restore it from a copy, or move it away", path = path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// What does not fit, and where.
        detail: String,
    },
    /// The file is of another kind than asked for.
    #[error("{path} is a file of kind {found}, not {expected}: check the path", path = path.display())]
    WrongKind {
        /// The file concerned.
        path: PathBuf,
        /// The kind that was asked for.
        expected: crate::Kind,
        /// The kind that its header names.
        found: crate::Kind,
    },
    /// The file was written in a format version that this program does not read.
    #[error("{path} has format version {found}, this estop reads version {expected}: use the estop that wrote it", path = path.display())]
    WrongVersion {
        /// The file concerned.
        path: PathBuf,
        /// The version that this program reads.
        expected: u32,
        /// The version that its header names.
        found: u32,
    },
    /// Another process holds the lock.
    #[error("{path} is locked by another estop: wait for it, or stop it", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A payload is larger than its format can hold.
    #[error("{size} bytes are too many for {path}: the limit is {limit}", path = path.display())]
    TooLarge {
        /// The file concerned.
        path: PathBuf,
        /// The payload's size in bytes.
        size: usize,
        /// The largest payload in bytes.
        limit: usize,
    },
    /// An earlier write to this file failed, so that what it holds on the device is not known.
    #[error("{path} is not written any more, because an earlier write failed ({detail}): open it again to check it", path = path.display())]
    Poisoned {
        /// The file concerned.
        path: PathBuf,
        /// The first failure.
        detail: String,
    },
    /// A position was asked for that the log does not hold.
    #[error("{path} holds no record {lsn}: it has {first} to {last}", path = path.display())]
    NoSuchRecord {
        /// The log's directory.
        path: PathBuf,
        /// The position asked for.
        lsn: u64,
        /// The first position held.
        first: u64,
        /// The last position held.
        last: u64,
    },
}

/// Shorthand that names what was tried and on what.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: source.into() })
    }
}

pub(crate) fn damaged(path: &Path, detail: impl Into<String>) -> Error {
    Error::Damaged { path: path.to_owned(), detail: detail.into() }
}
