//! Owners and modes.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use crate::StoreError;

/// Opens a file for reading. No link is followed, and a pipe makes nobody wait.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Makes a file with mode 0600, where nothing may be.
pub(super) fn make(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Who else may reach it, and what to do about that.
pub(super) fn exposure(_file: &File, metadata: &Metadata) -> io::Result<Option<String>> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        let owner = metadata.uid();
        return Ok(Some(format!("it belongs to user {owner}, not to {user}: give it to the user that estop runs as")));
    }
    let mode = metadata.mode() & 0o7777;
    let fault = "make a new key if they may have read it, and run chmod 600 on it";
    Ok((mode & 0o077 != 0).then(|| format!("others may reach it (mode {mode:04o}): {fault}")))
}

/// A file of mode 0600 needs nothing more.
pub(super) fn wrap(bytes: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    Ok(Zeroizing::new(bytes.to_vec()))
}

/// The bytes as they were wrapped.
pub(super) fn unwrap(_path: &Path, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    Ok(bytes)
}
