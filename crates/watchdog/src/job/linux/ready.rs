//! Waiting for descriptors, without allocating: the kill path waits too.

use std::io;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits at most `wait` for something to read from `fd`, or its end. For a pidfd: for the end of its process.
///
/// An interrupted wait answers false, early: whoever waits for a condition looks again.
pub fn readable(fd: impl AsFd, wait: Duration) -> bool {
    any(&mut [PollFd::new(&fd, PollFlags::IN)], wait)
}

/// Waits for `wait`, or until it is interrupted.
pub fn pause(wait: Duration) {
    any(&mut [], wait);
}

/// Waits at most `wait` for any of `fds`. An interrupted wait answers false, early.
pub fn any(fds: &mut [PollFd<'_>], wait: Duration) -> bool {
    wait_for(fds, wait).is_ok_and(|any| any)
}

/// The same.
///
/// # Errors
/// If it is interrupted, or cannot be waited: for more descriptors than this process may have (`RLIMIT_NOFILE`), the kernel does not.
pub fn wait_for(fds: &mut [PollFd<'_>], wait: Duration) -> io::Result<bool> {
    let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
    Ok(poll(fds, Some(&wait))? > 0)
}

/// Blocks `signals` and gives a descriptor to read them from, without waiting.
///
/// # Errors
/// If there is no descriptor to be had.
pub fn watch_signals(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid, empty signal set on Linux.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in signals {
        // SAFETY: the set is alive. A signal that does not exist is refused.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    // SAFETY: the set is alive; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: the set is alive; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
