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
use std::os::fd::{AsFd as _, OwnedFd};
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
pub(super) use crate::job::linux::clock::own_cpu as used;
use crate::job::linux::{procfs, ready};
use crate::job::{DESCRIPTORS, PLACES_OF_LIMITS, ProcessId, User, Woken};

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
/// How often a guardian looks that cannot be told.
const BLIND_LOOK: Duration = Duration::from_millis(10);

/// Waits at most `left` for something to happen; `None` if nothing did, else which of the job's descriptors. Allocates nothing.
pub(super) fn wait(sources: &Sources<'_>, left: Duration) -> Option<Woken> {
    let idle = sources.listener.descriptor();
    let mut fds = [idle; OWN + DESCRIPTORS].map(|fd| PollFd::new(fd, PollFlags::IN));
    // Those that are there stand together: the kernel may not take more, and the array needs no allocation.
    let mut count = 1;
    let own = [
        Some(sources.now_file.descriptor().as_fd()),
        Some(sources.signals.descriptor().as_fd()),
        sources.brain.map(|Watched(fd)| fd.as_fd()),
        sources.notify.map(|notify| notify.descriptor().as_fd()),
    ];
    for fd in own.into_iter().flatten() {
        fds[count] = PollFd::from_borrowed_fd(fd, PollFlags::IN);
        count += 1;
    }
    let of_job = count;
    let job = sources.job.descriptors();
    let heard = |place: &usize| sources.limits || !PLACES_OF_LIMITS.contains(place);
    let there = || (0..DESCRIPTORS).filter(heard).filter_map(|place| Some((place, job[place]?)));
    for (_, (fd, priority)) in there() {
        fds[count] = PollFd::from_borrowed_fd(fd, if priority { PollFlags::PRI } else { PollFlags::IN });
        count += 1;
    }
    match ready::wait_for(&mut fds[..count], left) {
        Ok(false) => return None,
        Ok(true) => {}
        // Whatever keeps it from waiting, it looks by itself then.
        Err(error) => {
            if error.kind() != std::io::ErrorKind::Interrupted {
                std::thread::sleep(left.min(BLIND_LOOK));
            }
            return Some(Woken::default());
        }
    }
    let mut woken = Woken::default();
    for ((place, _), slot) in there().zip(&fds[of_job..count]) {
        let said = slot.revents();
        if !said.is_empty() {
            woken.by(place, said.contains(PollFlags::ERR));
        }
    }
    Some(woken)
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
