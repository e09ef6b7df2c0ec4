//! The first process of a job's PID namespace: starts the program, reaps what is orphaned, and takes all with it when it ends.
//!
//! It is a copy of the guardian that never executes anything else. It is bound to the guardian by its parent-death signal,
//! so that the death of the guardian is the death of the job. From inside the namespace it cannot be killed.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{DumpableBehavior, WaitOptions, set_dumpable_behavior};

use super::spawn::{Plan, fork, leave};
use crate::error::Context as _;
use crate::job::Exit;
use crate::{Error, Result};

/// Opens the gate.
pub(super) const GO: u8 = b'G';
const MAIN: u8 = b'M';
const EXITED: u8 = b'E';
const KILLED: u8 = b'K';

/// Waits at the gate. False if it closed: the guardian has gone, or given up.
pub(super) fn passed_gate(gate: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    matches!(rustix::io::retry_on_intr(|| rustix::io::read(gate, &mut byte)), Ok(1)) && byte[0] == GO
}

/// Goes on as the namespace's init.
pub(super) fn run(plan: &Plan, gate: &OwnedFd, failure: OwnedFd) -> ! {
    // What the workload runs as the same user must not read or trace this copy of the guardian.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let main = match fork() {
        Ok(None) => plan.execute(&failure),
        Ok(Some(main)) => main,
        Err(_) => leave(1),
    };
    drop(failure);
    if send_main(gate, &main.fd).is_err() {
        leave(1);
    }
    close_all_but(gate);
    reap(gate, main.pid)
}

fn send_main(gate: &OwnedFd, main: &OwnedFd) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [main.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(gate, &[IoSlice::new(&[MAIN])], &mut ancillary, SendFlags::empty())
}

/// In the guardian: the descriptor of the program that the init has started.
///
/// # Errors
/// [`Error::Containment`] if the init ended instead.
pub(super) fn receive_main(gate: &OwnedFd) -> Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(gate, &mut [std::io::IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .doing("hear from the job's init")?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.filter(|_| byte[0] == MAIN)
        .ok_or_else(|| Error::Containment("the job's init ended before it started the program".to_owned()))
}

/// In the guardian: how the program ended, if the init has reported it.
pub(super) fn receive_exit(gate: &OwnedFd) -> Option<Exit> {
    let mut message = [0; 5];
    let (length, _) = rustix::net::recv(gate, message.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
    let value = i32::from_le_bytes([message[1], message[2], message[3], message[4]]);
    match (length, message[0]) {
        (5, EXITED) => Some(Exit { code: Some(value), signal: None }),
        (5, KILLED) => Some(Exit { code: None, signal: Some(value) }),
        _ => None,
    }
}

/// Pipes and terminals are the program's alone: whoever reads from it must see it close them.
fn close_all_but(kept: &OwnedFd) {
    let kept = kept.as_raw_fd().cast_unsigned();
    for (first, last) in [(0, kept.saturating_sub(1)), (kept + 1, u32::MAX)] {
        // SAFETY: the descriptors of this copy belong to nobody: it never returns to the code that owns them.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

fn reap(gate: &OwnedFd, main: u32) -> ! {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == main => {
                let (kind, value) = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => (EXITED, code),
                    (None, signal) => (KILLED, signal.unwrap_or(libc::SIGKILL)),
                };
                let mut message = [kind, 0, 0, 0, 0];
                message[1..].copy_from_slice(&value.to_le_bytes());
                // If the guardian has gone, this process is about to end too.
                let _ = rustix::net::send(gate, &message, SendFlags::NOSIGNAL);
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Nothing is left in the namespace.
            Err(_) => leave(0),
        }
    }
}

/// Closes the standard descriptors of this process and puts nothing in their place but `/dev/null`.
///
/// # Errors
/// If `/dev/null` cannot be opened.
pub fn detach_standard_streams() -> Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .on("open", std::path::Path::new("/dev/null"))?;
    for target in 0..3 {
        // SAFETY: the three standard descriptors belong to the process; `ManuallyDrop` keeps them from being closed here.
        let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(target) });
        rustix::io::dup2(&null, &mut target).doing("detach from the standard streams")?;
    }
    Ok(())
}
