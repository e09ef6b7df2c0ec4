//! What a guardian has from Windows: a named pipe, handles to wait for, threads that may block.

mod channel;
mod helpers;
mod kernel_log;
mod log;
mod notify;
mod overlapped;
mod pipe;
mod surroundings;

use std::fs::File;
use std::os::windows::io::{AsRawHandle as _, RawHandle};
use std::path::Path;
use std::time::Duration;

use windows_sys::Win32::System::Threading::WaitForMultipleObjects;

pub(super) use channel::{NOT_EXECUTABLE, NOT_FOUND, Starter, Told, launch, note_place, settle_in, step_aside};
pub(super) use helpers::Helpers;
pub(super) use kernel_log::KernelLog;
pub(super) use log::{first_data, give_back, open_log};
pub(super) use notify::Notify;
pub(super) use pipe::{Connection, Listener, Received, Return, authorize};
pub(super) use surroundings::{NowFile, Raised, Signals, Spare, own_id, stay_in_memory};
pub use surroundings::{Writing, order};

use super::Sources;
use crate::Result;
use crate::error::Context as _;
use crate::job::windows::processes::{self, Held};
use crate::job::windows::spawn;
use crate::job::{ProcessId, User, Woken};

/// How often a job is looked at whose main process has ended and that others may still be in: nothing wakes for their end.
const REST_LOOK: Duration = Duration::from_millis(5);

/// Another process, whose end is noticed.
#[derive(Debug)]
pub struct Watched(Held);

impl Watched {
    /// `None` if it has ended, or cannot be watched.
    pub fn open(id: ProcessId) -> Option<Self> {
        Held::open_to_wait(id).map(Self)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }
}

/// The process `pid`, as it is named in records.
pub(super) fn identity(pid: u32) -> Option<ProcessId> {
    processes::identity(pid)
}

/// The command line of a process, which may change it.
pub(super) fn arguments(id: ProcessId) -> String {
    processes::command_line(id)
}

/// Waits at most `left` for something to happen.
pub(super) fn wait(sources: &Sources<'_>, left: Duration) -> Option<Woken> {
    debug_assert!(sources.notify.is_none(), "there is no such socket here");
    // Messages about limits are read with every look, and wake nobody up by themselves.
    let _ = sources.limits;
    let mut handles: Vec<RawHandle> = vec![sources.now_file.handle(), sources.signals.handle()];
    handles.extend(sources.brain.map(|Watched(held)| held.borrowed().as_raw_handle()));
    let main = sources.job.main_handle();
    handles.extend(main.map(|main| main.as_raw_handle()));
    handles.extend(sources.listener.handles());
    let left = if main.is_some() { left } else { left.min(REST_LOOK) };
    // Rounded up: one that is over a moment too early is followed by another.
    let milliseconds = u32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u32::MAX - 1);
    let count = u32::try_from(handles.len()).unwrap_or(0);
    // SAFETY: all handles are open and there are as many as is said, fewer than the 64 that may be waited for.
    unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, milliseconds) };
    Some(Woken::default())
}

/// A clock by which is told what a sample costs: time of a processor is counted in ticks here, too rough for that.
pub(super) fn used() -> Duration {
    static BEGUN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    BEGUN.elapsed()
}

/// Makes a file that only its owner can use.
pub(super) fn create_private(path: &Path) -> Result<File> {
    estop_durable::access::create_private(path).on("create", path)
}

/// Lets a directory or file be the workload's, if that is another user.
pub(super) fn hand_over(_path: &Path, user: Option<&User>) -> Result<()> {
    spawn::refuse_another(user)
}
