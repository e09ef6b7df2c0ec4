//! Whose turn it is at a terminal.

use std::os::fd::AsFd;

use rustix::process::Pid;

use crate::Result;
use crate::error::Context as _;

/// The process group of this process, whose terminal a program is to share. One that lies outside of this PID namespace, as it may
/// in a container, has no number here: then this process gets a group of its own.
pub fn own_process_group() -> Pid {
    // `getpgrp` of `rustix` takes it for granted that there is a number.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let group = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(2)?.parse().ok());
    group.and_then(Pid::from_raw).unwrap_or_else(|| {
        // It fails only for the leader of a session, whose group has its own number.
        let _ = rustix::process::setpgid(None, None);
        rustix::process::getpid()
    })
}

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
