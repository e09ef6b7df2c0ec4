//! What a guardian has from Linux: datagrams with credentials, descriptors to wait for, copies of itself that may block.

mod channel;
mod closer;
mod helpers;
mod kernel_log;
mod log;
mod memory;
mod net;
mod notify;
mod sockets;
mod surroundings;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

pub(super) use channel::{NOT_EXECUTABLE, NOT_FOUND, Starter, Told, launch, note_place, settle_in, step_aside};
pub(super) use helpers::Helpers;
pub(super) use kernel_log::KernelLog;
pub(super) use log::{first_data, give_back, open_log};
pub(super) use memory::stay_in_memory;
pub(super) use notify::Notify;
pub(super) use sockets::{Connection, Listener, Received, Return, authorize};
pub(super) use surroundings::{NowFile, Raised, Signals, Spare, own_id};
pub use surroundings::{Writing, order};

use super::Sources;
use crate::Result;
use crate::error::Context as _;
use crate::job::linux::{procfs, ready};
use crate::job::{DESCRIPTORS, ProcessId, User, Woken};

/// Another process, whose end is noticed.
#[derive(Debug)]
pub struct Watched(OwnedFd);

impl Watched {
    /// `None` if it has ended, or cannot be watched.
    pub fn open(id: ProcessId) -> Option<Self> {
        procfs::open_to_wait(id).map(Self)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        ready::readable(&self.0, Duration::ZERO)
    }
}

/// The process `pid`, as it is named in records.
pub(super) fn identity(pid: u32) -> Option<ProcessId> {
    procfs::identity(pid)
}

/// The arguments of a process. It can keep its reader waiting.
pub(super) fn arguments(id: ProcessId) -> String {
    procfs::arguments(id)
}

/// How many descriptors a guardian waits for beside its job's.
const OWN: usize = 5;

/// Waits at most `left` for something to happen; which of the job's descriptors did. Allocates nothing.
pub(super) fn wait(sources: &Sources<'_>, left: Duration) -> Woken {
    let idle = sources.listener.descriptor();
    // Descriptors that are absent are replaced by one that is there, so that the array needs no allocation.
    let mut fds = [idle; OWN + DESCRIPTORS].map(|fd| PollFd::new(fd, PollFlags::IN));
    fds[1] = PollFd::new(sources.now_file.descriptor(), PollFlags::IN);
    fds[2] = PollFd::new(sources.signals.descriptor(), PollFlags::IN);
    if let Some(Watched(fd)) = sources.brain {
        fds[3] = PollFd::new(fd, PollFlags::IN);
    }
    if let Some(notify) = sources.notify {
        fds[4] = PollFd::new(notify.descriptor(), PollFlags::IN);
    }
    let job = sources.job.descriptors();
    for (slot, descriptor) in fds[OWN..].iter_mut().zip(&job) {
        if let Some((fd, priority)) = descriptor {
            *slot = PollFd::from_borrowed_fd(*fd, if *priority { PollFlags::PRI } else { PollFlags::IN });
        }
    }
    // An interruption only means that the looks that follow come earlier.
    ready::any(&mut fds, left);
    let mut woken = Woken::default();
    for (place, (slot, descriptor)) in fds[OWN..].iter().zip(&job).enumerate() {
        if descriptor.is_some() && !slot.revents().is_empty() {
            woken.by(place);
        }
    }
    woken
}

/// Makes a file that only its owner can use.
pub(super) fn create_private(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).on("create", path)
}

/// Lets a directory or file be the workload's, if that is another user.
pub(super) fn hand_over(path: &Path, user: Option<&User>) -> Result<()> {
    match user {
        None => Ok(()),
        Some(user) => std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)).on("hand over", path),
    }
}
