//! Who holds a file open on Windows, as the Restart Manager tells.

use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt as _;
use std::path::Path;
use std::ptr::null;

use windows_sys::Win32::Foundation::ERROR_SUCCESS;
use windows_sys::Win32::System::RestartManager::{
    CCH_RM_SESSION_KEY, RM_PROCESS_INFO, RmEndSession, RmGetList, RmRegisterResources, RmStartSession,
};

use super::windows::wide;

/// The most holders of a file that are named.
const MOST: usize = 8;

/// A process that has a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// When it started, in 100 ns since 1601: tells it from a later process with the same id.
    pub start_time: u64,
    /// Its name.
    pub name: String,
}

/// Who holds `path` open; nobody where that can't be told.
pub fn holders(path: &Path) -> Vec<Holder> {
    let Some(session) = Session::start() else { return Vec::new() };
    let name = wide(path);
    let names = [name.as_ptr()];
    // SAFETY: one name, which ends with a zero and lives until the call returns; no applications and no services.
    let registered = unsafe { RmRegisterResources(session.0, 1, names.as_ptr(), 0, null(), 0, null()) };
    if registered != ERROR_SUCCESS {
        return Vec::new();
    }
    let mut found = [RM_PROCESS_INFO::default(); MOST];
    let (mut needed, mut count, mut reasons) = (0, u32::try_from(MOST).unwrap_or(0), 0);
    // SAFETY: `count` is the length of the array; all four places live until the call returns.
    unsafe { RmGetList(session.0, &raw mut needed, &raw mut count, found.as_mut_ptr(), &raw mut reasons) };
    let holder = |process: &RM_PROCESS_INFO| {
        let name = &process.strAppName;
        let end = name.iter().position(|&unit| unit == 0).unwrap_or(name.len());
        let began = process.Process.ProcessStartTime;
        Holder {
            pid: process.Process.dwProcessId,
            start_time: u64::from(began.dwHighDateTime) << 32 | u64::from(began.dwLowDateTime),
            name: OsString::from_wide(&name[..end]).to_string_lossy().into_owned(),
        }
    };
    found.iter().take(count as usize).filter(|process| process.Process.dwProcessId != 0).map(holder).collect()
}

/// A session with the Restart Manager.
struct Session(u32);

impl Session {
    fn start() -> Option<Self> {
        let mut session = 0;
        let mut key = [0; CCH_RM_SESSION_KEY as usize + 1];
        // SAFETY: the key has the room that the call asks for, and both places live until it returns.
        let started = unsafe { RmStartSession(&raw mut session, 0, key.as_mut_ptr()) };
        (started == ERROR_SUCCESS).then_some(Self(session))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session was started and is ended once.
        unsafe { RmEndSession(self.0) };
    }
}
