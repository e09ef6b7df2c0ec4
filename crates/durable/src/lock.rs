//! A lock on a file, which the kernel releases when the holder drops it or dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Context as _;
use crate::file::created_with;
use crate::{Error, Result, platform};

/// How long a waiting [`Lock::acquire`] sleeps between two tries.
const RETRY: Duration = Duration::from_millis(5);

/// An exclusive lock. Dropping it releases it; so does the death of the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock on `path` if nobody holds it; `None` if somebody does. The file is created with mode 0600 and stays.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or locked for another reason than its being held.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = created_with(OpenOptions::new().read(true).write(true).create(true).truncate(false), 0o600)
            .open(path)
            .context("open the lock file", path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).context("lock", path),
        }
    }

    /// Takes the lock on `path`, waiting for its holder for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is still held then; [`Error::Io`] as for [`Lock::try_acquire`].
    pub fn acquire(path: &Path, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(lock) = Self::try_acquire(path)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(Error::Locked { path: path.to_owned() });
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Whether somebody holds the lock on `path`, which need not exist. The look takes nothing from anybody: it neither keeps
    /// another look from seeing the lock free, nor holds a lock when this returns.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened for another reason than its absence, or not be looked at.
    pub fn is_held(path: &Path) -> Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.context("open the lock file", path)?,
        };
        Self::is_held_on(&file, path)
    }

    /// As [`Lock::is_held`], of a file that was opened at `path` for reading: in a directory of another user's, how it is opened matters.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be looked at.
    pub fn is_held_on(file: &File, path: &Path) -> Result<bool> {
        match file.try_lock_shared() {
            Ok(()) => platform::unlock(file).context("unlock", path).map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error).context("look at the lock of", path),
        }
    }

    /// Whether the file at `path` is the one that is locked. It is not if it was removed while the lock was waited for.
    ///
    /// # Errors
    /// [`Error::Io`] if either file cannot be looked at.
    pub fn is_on(&self, path: &Path) -> Result<bool> {
        match platform::is_at(&self.file, path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            other => other.context("look at", path),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_held_lock_is_refused_and_a_dropped_one_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        assert!(matches!(Lock::acquire(&path, Duration::from_millis(20)), Err(Error::Locked { .. })));
        drop(held);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_look_sees_who_holds_it_and_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!Lock::is_held(&path).unwrap());
        assert!(!path.exists(), "a look creates nothing");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(Lock::is_held(&path).unwrap());
        drop(held);
        let other_look = std::fs::File::open(&path).unwrap();
        other_look.try_lock_shared().unwrap();
        assert!(!Lock::is_held(&path).unwrap(), "another look is no holder");
        drop(other_look);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_knows_whether_its_file_is_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(first.is_on(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        if cfg!(windows) && Path::new(r"Z:\proc\version").exists() {
            eprintln!("not under Wine: the name of a removed file stays until nobody has it open");
            return;
        }
        assert!(!first.is_on(&path).unwrap());
        let second = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(!first.is_on(&path).unwrap() && second.is_on(&path).unwrap());
    }
}
