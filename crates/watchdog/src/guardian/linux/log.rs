//! Holes in files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

/// Opens a log that another process writes, to cut it.
pub(in crate::guardian) fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Where the first data is, behind the hole that an earlier guardian made.
pub(in crate::guardian) fn first_data(file: &File) -> u64 {
    seek(file, SeekFrom::Data(0)).unwrap_or(0)
}

/// Gives what stands before `begin` back to the filesystem; the length stays.
pub(in crate::guardian) fn give_back(file: &File, begin: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, begin)?)
}
