//! The first process of a job's PID namespace: starts the program, reaps what is orphaned, and takes all with it when it ends.
//!
//! It is a copy of the guardian that never executes anything else. It is bound to the guardian by its parent-death signal,
//! so that the death of the guardian is the death of the job. From inside the namespace it cannot be killed.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{DumpableBehavior, WaitOptions, set_dumpable_behavior};

use super::ready;
use super::spawn::{Plan, fork, leave};
use crate::error::Context as _;
use crate::job::Exit;
use crate::{Error, Result};

/// Opens the gate.
pub(super) const GO: u8 = b'G';
const MAIN: u8 = b'M';
/// Start a further command: then its number.
const RUN: u8 = b'C';

/// What the init reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The program has ended.
    Main(Exit),
    /// A further command has ended.
    Command(usize, Exit),
}

impl Report {
    /// Which it is (0 is the program, the others count from 1), whether it exited, its code or signal.
    fn encode(self) -> [u8; 6] {
        let (which, exit) = match self {
            Self::Main(exit) => (0, exit),
            Self::Command(number, exit) => (u8::try_from(number + 1).unwrap_or(u8::MAX), exit),
        };
        let value = exit.code.or(exit.signal).unwrap_or(libc::SIGKILL).to_le_bytes();
        [which, u8::from(exit.code.is_some()), value[0], value[1], value[2], value[3]]
    }

    fn decode(bytes: [u8; 6]) -> Self {
        let [which, exited, value @ ..] = bytes;
        let value = i32::from_le_bytes(value);
        let exit = if exited == 1 {
            Exit { code: Some(value), signal: None }
        } else {
            Exit { code: None, signal: Some(value) }
        };
        which.checked_sub(1).map_or(Self::Main(exit), |number| Self::Command(number.into(), exit))
    }
}

/// In the new process: says through the gate that it has begun.
pub(super) fn says_it_is_there(gate: &OwnedFd) -> bool {
    rustix::io::write(gate, &[GO]).is_ok()
}

/// In the guardian: whether the new process has begun. If not, it has ended.
pub(super) fn is_there(gate: &OwnedFd) -> bool {
    matches!(rustix::io::retry_on_intr(|| rustix::io::read(gate, &mut [0; 1])), Ok(1))
}

/// Waits at the gate. False if it closed: the guardian has gone, or given up.
pub(super) fn passed_gate(gate: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    matches!(rustix::io::retry_on_intr(|| rustix::io::read(gate, &mut byte)), Ok(1)) && byte[0] == GO
}

/// Goes on as the namespace's init.
pub(super) fn run(plan: &Plan, commands: &[Plan], gate: &OwnedFd, failure: OwnedFd) -> ! {
    // What the workload runs as the same user must not read or trace this copy of the guardian.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let Ok(children) = ready::watch_signals(&[libc::SIGCHLD]) else { leave(1) };
    let main = match fork() {
        Ok(None) => plan.execute(&failure),
        Ok(Some(main)) => main,
        Err(_) => leave(1),
    };
    drop(failure);
    if send_main(gate, &main.fd).is_err() {
        leave(1);
    }
    let (gate, children) = close_all_but(gate, &children).unwrap_or_else(|_| leave(1));
    Init { gate, children, main: main.pid, commands, running: Vec::new() }.serve()
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

/// In the guardian: what the init has reported since the last call, if anything.
pub(super) fn receive(gate: &OwnedFd) -> Option<Report> {
    let mut message = [0; 6];
    let (length, _) = rustix::net::recv(gate, message.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
    (length == message.len()).then(|| Report::decode(message))
}

/// In the guardian: has the further command of this number started.
///
/// # Errors
/// If the init has gone, or hears nothing.
pub(super) fn ask_to_run(gate: &OwnedFd, number: usize) -> std::io::Result<()> {
    let number = u8::try_from(number).map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))?;
    rustix::net::send(gate, &[RUN, number], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Pipes and terminals are the program's alone: whoever reads from it must see it close them. What is kept goes where it is in
/// nobody's way; the standard streams lead nowhere.
fn close_all_but(gate: &OwnedFd, children: &OwnedFd) -> std::io::Result<(OwnedFd, OwnedFd)> {
    const FIRST: i32 = 10;
    let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST);
    let (gate, children) = (copy(gate)?, copy(children)?);
    let kept = [gate.as_raw_fd().cast_unsigned(), children.as_raw_fd().cast_unsigned()];
    let (low, high) = (kept[0].min(kept[1]), kept[0].max(kept[1]));
    for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: the descriptors of this copy belong to nobody: it never returns to the code that owns them.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
    // The three lowest, which are free now.
    for _ in 0..3 {
        let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
        std::mem::forget(null);
    }
    Ok((gate, children))
}

/// The init at work.
struct Init<'a> {
    gate: OwnedFd,
    children: OwnedFd,
    main: u32,
    commands: &'a [Plan],
    /// Further commands that run: process ID and number.
    running: Vec<(u32, usize)>,
}

impl Init<'_> {
    /// Reaps until nothing is left in the namespace, and starts what it is told to.
    fn serve(mut self) -> ! {
        loop {
            self.reap();
            let mut fds = [PollFd::new(&self.gate, PollFlags::IN), PollFd::new(&self.children, PollFlags::IN)];
            // An interruption only means that the looks come earlier.
            let _ = poll(&mut fds, None);
            let mut info = [0_u8; 128];
            while rustix::io::read(&self.children, &mut info).is_ok() {}
            self.hear();
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => (pid.as_raw_nonzero().get().cast_unsigned(), status),
                Ok(None) => return,
                Err(rustix::io::Errno::INTR) => continue,
                // Nothing is left in the namespace.
                Err(_) => leave(0),
            };
            let exit = Exit { code: status.exit_status(), signal: status.terminating_signal() };
            let command = self.running.iter().position(|(running, _)| *running == pid);
            let report = match command {
                _ if pid == self.main => Report::Main(exit),
                Some(index) => Report::Command(self.running.swap_remove(index).1, exit),
                None => continue,
            };
            // If the guardian has gone, this process is about to end too.
            let _ = rustix::net::send(&self.gate, &report.encode(), SendFlags::NOSIGNAL);
        }
    }

    fn hear(&mut self) {
        let mut message = [0; 2];
        loop {
            match rustix::net::recv(&self.gate, message.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((2, _)) if message[0] == RUN => self.start(message[1].into()),
                Ok((0, _)) => leave(1),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn start(&mut self, number: usize) {
        let Some(plan) = self.commands.get(number) else { return };
        match fork() {
            Ok(None) => plan.execute_quietly(),
            Ok(Some(child)) => self.running.push((child.pid, number)),
            Err(_) => {
                let refused = Report::Command(number, Exit { code: Some(126), signal: None });
                let _ = rustix::net::send(&self.gate, &refused.encode(), SendFlags::NOSIGNAL);
            }
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
