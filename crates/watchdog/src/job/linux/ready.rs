//! Waiting for descriptors, without allocating: the kill path waits too.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits at most `wait` for something to read from `fd`, or its end. For a pidfd: for the end of its process.
///
/// An interrupted wait answers false, early: whoever waits for a condition looks again.
pub fn readable(fd: impl AsFd, wait: Duration) -> bool {
    any(&mut [PollFd::new(&fd, PollFlags::IN)], wait)
}

/// Waits at most `wait` for any of `fds`. An interrupted wait answers false, early.
pub fn any(fds: &mut [PollFd<'_>], wait: Duration) -> bool {
    let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
    poll(fds, Some(&wait)).is_ok_and(|ready| ready > 0)
}
