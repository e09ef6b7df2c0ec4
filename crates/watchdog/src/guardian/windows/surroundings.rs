//! What a guardian has from the system around it: the end of its session, the watched file `now`, its priority.

use std::cell::Cell;
use std::os::windows::io::RawHandle;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, SystemTime};

use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_NOTIFY_CHANGE_FILE_NAME, FILE_NOTIFY_CHANGE_LAST_WRITE, FILE_NOTIFY_CHANGE_SIZE, FindCloseChangeNotification,
    FindFirstChangeNotificationW, FindNextChangeNotification,
};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_LOGOFF_EVENT, SetConsoleCtrlHandler};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetCurrentThread, ResetEvent, SetEvent, SetThreadPriority, THREAD_PRIORITY_NORMAL,
    THREAD_PRIORITY_TIME_CRITICAL,
};

use super::overlapped::is_set;
use crate::error::Context as _;
use crate::job::ProcessId;
use crate::job::windows::object::check;
use crate::job::windows::processes::identity;
use crate::job::windows::spawn::wide;
use crate::registry::RunDir;
use crate::{Error, Result};

/// How long the system waits for a program whose console or session ends, less a little.
const SESSION_END: Duration = Duration::from_millis(4500);

/// The event that is set when the session ends. The system calls the handler with nothing else.
static ENDING: AtomicPtr<std::ffi::c_void> = AtomicPtr::new(null_mut());

/// This process.
pub(in crate::guardian) fn own_id() -> ProcessId {
    let pid = std::process::id();
    identity(pid).unwrap_or(ProcessId { pid, start_time: 0 })
}

/// What tells a guardian to end: its console is closed, or its session ends. Ctrl-C and Ctrl-Break are for the program.
#[derive(Debug)]
pub(in crate::guardian) struct Signals(());

impl Signals {
    /// Takes them for this process.
    ///
    /// # Errors
    /// If no event is to be had.
    pub(in crate::guardian) fn watch() -> Result<Self> {
        // SAFETY: neither attributes nor a name are given. It lives as long as the process.
        let event = unsafe { CreateEventW(null(), 1, 0, null()) };
        if event.is_null() {
            return Err(Error::System { action: "watch for signals", source: std::io::Error::last_os_error() });
        }
        ENDING.store(event, Ordering::Release);
        // SAFETY: the handler is a function of the kind that is asked for, and stays.
        check(unsafe { SetConsoleCtrlHandler(Some(handle_control), 1) }).doing("watch for signals")?;
        Ok(Self(()))
    }

    pub(super) fn handle(&self) -> RawHandle {
        ENDING.load(Ordering::Acquire)
    }

    /// Whether this process was told to end since the last look.
    pub(in crate::guardian) fn asked(&self) -> bool {
        let asked = is_set(self.handle());
        if asked {
            // SAFETY: the event is open.
            unsafe { ResetEvent(self.handle()) };
        }
        asked
    }
}

/// Called by the system in a thread of its own.
unsafe extern "system" fn handle_control(event: u32) -> i32 {
    // Only services hear of somebody's logging off, of anybody's: whose session it is that ends is not told.
    if !matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT | CTRL_LOGOFF_EVENT) {
        // SAFETY: it was made before this handler was, and stays.
        unsafe { SetEvent(ENDING.load(Ordering::Acquire)) };
        // The process is ended when this returns: the guardian has until then.
        std::thread::sleep(SESSION_END);
    }
    1
}

/// One writing of a file: when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing(SystemTime);

/// The writing of the run directory's file `now`, if it calls for an end. Another writing is another order.
pub fn order(run_dir: &RunDir) -> Option<Writing> {
    order_at(&run_dir.now_file())
}

fn order_at(path: &Path) -> Option<Writing> {
    let text = std::fs::read(path).ok()?;
    let written = || std::fs::metadata(path).and_then(|found| found.modified()).ok();
    says_now(&text).then(written).flatten().map(Writing)
}

/// The run directory's file `now`, whichever file stands there: a shell writes into it, an editor puts another in its place.
#[derive(Debug)]
pub(in crate::guardian) struct NowFile {
    path: PathBuf,
    change: HANDLE,
    /// When the word was written that was there last: what other files change in the directory is no order, and an old one is done.
    last: Cell<Option<Writing>>,
}

impl NowFile {
    pub(in crate::guardian) fn watch(run_dir: &RunDir) -> Result<Self> {
        let name = wide(run_dir.path());
        let what = FILE_NOTIFY_CHANGE_FILE_NAME | FILE_NOTIFY_CHANGE_LAST_WRITE | FILE_NOTIFY_CHANGE_SIZE;
        // SAFETY: the name ends with a zero and lives until the call returns.
        let change = unsafe { FindFirstChangeNotificationW(name.as_ptr(), 0, what) };
        if change == INVALID_HANDLE_VALUE {
            return Err(std::io::Error::last_os_error()).on("watch", run_dir.path());
        }
        let path = run_dir.now_file();
        let last = Cell::new(order_at(&path));
        Ok(Self { path, change, last })
    }

    /// Set when it may have changed.
    pub(super) fn handle(&self) -> RawHandle {
        self.change
    }

    /// Whether it has changed since the last look, and calls for an end.
    pub(in crate::guardian) fn calls(&self) -> bool {
        let changed = is_set(self.change);
        if changed {
            // Before the look: what is written after it is another change.
            // SAFETY: the handle is open.
            unsafe { FindNextChangeNotification(self.change) };
        }
        let order = if changed { order_at(&self.path) } else { None };
        order.is_some() && self.last.replace(order) != order
    }
}

/// Whether `text` is that word, as the shells of Windows write it: as bytes, or with a mark of its encoding in front.
fn says_now(text: &[u8]) -> bool {
    let text = match text {
        [0xff, 0xfe, units @ ..] => {
            units.chunks(2).map(|unit| if unit.get(1) == Some(&0) { unit[0] } else { 0 }).collect()
        }
        [0xef, 0xbb, 0xbf, rest @ ..] => rest.to_vec(),
        other => other.to_vec(),
    };
    text.trim_ascii() == b"now"
}

impl Drop for NowFile {
    fn drop(&mut self) {
        // SAFETY: it was opened by its own call and is closed once.
        unsafe { FindCloseChangeNotification(self.change) };
    }
}

/// Handles are not limited: none are kept.
#[derive(Debug, Default)]
pub(in crate::guardian) struct Spare;

impl Spare {
    /// Keeps none.
    pub(in crate::guardian) fn keep(&mut self, _of: &Signals) {}

    /// Has none to give up.
    pub(in crate::guardian) fn give_up(&mut self) {}
}

/// The system decides which of its pages are in memory.
pub(in crate::guardian) fn stay_in_memory() {}

/// The highest priority while it exists: a busy tree must not keep its own end waiting.
pub(in crate::guardian) struct Raised;

impl Raised {
    pub(in crate::guardian) fn new() -> Self {
        set_priority(THREAD_PRIORITY_TIME_CRITICAL);
        Self
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        set_priority(THREAD_PRIORITY_NORMAL);
    }
}

fn set_priority(priority: i32) {
    // SAFETY: the pseudo handle of this thread needs no closing. A refusal leaves all as it was.
    unsafe { SetThreadPriority(GetCurrentThread(), priority) };
}

#[cfg(test)]
mod tests {
    use super::says_now;

    #[test]
    fn the_word_is_known_however_a_shell_writes_it() {
        for text in [&b"now\r\n"[..], b" now ", b"\xef\xbb\xbfnow\n", b"\xff\xfen\0o\0w\0\r\0\n\0"] {
            assert!(says_now(text), "{text:?}");
        }
        for text in [&b""[..], b"no", b"\xff\xfe", b"\xff\xfen\0o\0w\x01", b"\xff\xfen"] {
            assert!(!says_now(text), "{text:?}");
        }
    }
}
