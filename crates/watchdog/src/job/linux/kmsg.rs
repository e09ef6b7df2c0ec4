//! The kernel's log. See `Documentation/ABI/testing/dev-kmsg` of the Linux sources.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};

/// Opens it, from now on. Reading it never waits. Copies of a process share how far it was read.
///
/// # Errors
/// If this process may not read it, or there is none.
pub fn from_now_on() -> io::Result<OwnedFd> {
    let log = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    skip(&log)?;
    Ok(log)
}

/// Passes over what it has said by now.
///
/// # Errors
/// The kernel's answer.
pub fn skip(log: &OwnedFd) -> io::Result<()> {
    seek(log, SeekFrom::End(0))?;
    Ok(())
}
