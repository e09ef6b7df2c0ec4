//! Whose turn it is at a terminal.

use std::os::fd::AsFd;

use rustix::process::Pid;

use crate::Result;
use crate::error::Context as _;

/// Makes `group` the foreground process group of `terminal`, also from the background.
///
/// # Errors
/// If it is not this session's terminal, or there is no such group.
pub fn bring_to_front(terminal: &impl AsFd, group: Pid) -> Result<()> {
    // From the background the kernel raises SIGTTOU instead, unless it is blocked. A handler would be called for ever.
    let blocked = Blocked::new(libc::SIGTTOU);
    let result = rustix::termios::tcsetpgrp(terminal, group).doing("bring a process group to the terminal's front");
    drop(blocked);
    result
}

/// A signal that this thread does not get while this exists.
struct Blocked {
    before: libc::sigset_t,
}

impl Blocked {
    fn new(signal: i32) -> Self {
        // SAFETY: all-zero is a valid, empty signal set on Linux.
        let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: the set is alive and the signal exists.
        unsafe { libc::sigaddset(&raw mut set, signal) };
        // SAFETY: both sets live until the call returns. It fails only for an unknown first argument.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
        Self { before }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the kernel, or is empty.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}
