//! A lock on a file, which the kernel releases when the holder drops it or dies.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Context as _;
use crate::{Error, Result};

/// How long a waiting [`Lock::acquire`] sleeps between two tries.
const RETRY: Duration = Duration::from_millis(5);

/// An exclusive lock. Dropping it releases it; so does the death of the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock on `path` if nobody holds it; `None` if somebody does. The file is created with mode 0600 and stays.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or locked for another reason than its being held.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .context("open the lock file", path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).context("lock", path),
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
}
