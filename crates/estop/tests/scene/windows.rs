//! What a scene has from Windows: every process that a test has started has its file in the test's own folder, and is found by
//! that in the system's own list.

use std::collections::BTreeMap;
use std::os::windows::ffi::OsStrExt as _;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle, RawHandle};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{FILETIME, INVALID_HANDLE_VALUE, WAIT_TIMEOUT};
use windows_sys::Win32::Storage::FileSystem::GetCompressedFileSizeW;
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_NAME_WIN32, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SUSPEND_RESUME,
    PROCESS_SYNCHRONIZE, PROCESS_TERMINATE, QueryFullProcessImageNameW, TerminateProcess, WaitForSingleObject,
};

use super::{Running, Scene};
use crate::house::House;
use crate::house::windows::villain as shared_villain;

#[link(name = "ntdll")]
unsafe extern "system" {
    fn NtSuspendProcess(process: RawHandle) -> i32;
    fn NtResumeProcess(process: RawHandle) -> i32;
}

/// There is one tier.
pub(crate) const TIERS: &[&[&str]] = &[&[]];

/// What tests do to processes, by the names of the signals that do it elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(u8);

impl Signal {
    pub(crate) const KILL: Self = Self(9);
    pub(crate) const STOP: Self = Self(19);
    pub(crate) const CONT: Self = Self(18);
}

/// As whom estop runs: as the user that runs the tests.
pub(super) struct Guise(());

impl Guise {
    pub(super) fn own(_house: &House) -> Self {
        Self(())
    }

    pub(super) fn command(&self, plain: Command, _directory: &Path) -> Command {
        plain
    }
}

/// Nothing but its end is heard by a daemon without a console of the test's.
pub(super) fn leave(brain: Running) {
    brain.signal(Signal::KILL);
    brain.wait().expect(137);
}

pub(super) fn villain(scene: &Path) -> PathBuf {
    scene.join(r"bin\villain.exe")
}

impl Scene {
    /// Everything that this test started and that is alive, found without asking estop, with its file.
    pub(crate) fn alive(&self) -> BTreeMap<u32, String> {
        let processes = all().into_iter().filter_map(|pid| Some((pid, image(pid)?)));
        processes.filter(|(_, image)| self.is_own(image)).collect()
    }

    fn is_own(&self, image: &str) -> bool {
        image.to_lowercase().starts_with(&(self.path().to_string_lossy().to_lowercase() + r"\"))
    }

    /// Of those, what is not estop itself.
    pub(crate) fn workload_alive(&self) -> BTreeMap<u32, String> {
        let mut found = self.alive();
        found.retain(|_, image| !image.ends_with(r"\bin\estop.exe"));
        found
    }
}

/// Nothing stays there: a job is gone with its last handle.
pub(super) fn left_in_the_system(_scene: &Scene) -> Vec<PathBuf> {
    Vec::new()
}

pub(super) fn tidy(_scene: &Scene, _deadline: Instant) {}

/// All processes that have a thread, by the system's list: one that is being made, or is gone but for its handles, has none, and runs
/// nothing. Under Wine one that was ended while it was being made stays in the list like that for ever.
fn all() -> Vec<u32> {
    // SAFETY: takes two numbers.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    assert!(snapshot != INVALID_HANDLE_VALUE);
    // SAFETY: the call has just made it for us alone.
    let snapshot = unsafe { OwnedHandle::from_raw_handle(snapshot) };
    let mut entry = PROCESSENTRY32W { dwSize: size_of::<PROCESSENTRY32W>() as u32, ..Default::default() };
    let mut found = Vec::new();
    // SAFETY: the handle is open, and the place lives until the call returns.
    let mut more = unsafe { Process32FirstW(snapshot.as_raw_handle(), &raw mut entry) };
    while more != 0 {
        if entry.cntThreads > 0 {
            found.push(entry.th32ProcessID);
        }
        // SAFETY: as above.
        more = unsafe { Process32NextW(snapshot.as_raw_handle(), &raw mut entry) };
    }
    found
}

/// Ends those that are alive of a scene, and none that has got the process ID of one since.
pub(super) fn end_all(scene: &Scene, alive: &BTreeMap<u32, String>) {
    for pid in alive.keys() {
        let rights = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE | PROCESS_TERMINATE;
        if let Some(process) = open(*pid, rights)
            && image_of(&process).is_some_and(|image| scene.is_own(&image))
        {
            // SAFETY: the handle is open.
            unsafe { TerminateProcess(process.as_raw_handle(), 137) };
        }
    }
}

/// The file of a process that runs.
fn image(pid: u32) -> Option<String> {
    image_of(&open(pid, PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE)?)
}

fn image_of(process: &OwnedHandle) -> Option<String> {
    // SAFETY: the handle is open.
    if unsafe { WaitForSingleObject(process.as_raw_handle(), 0) } != WAIT_TIMEOUT {
        return None;
    }
    let mut name = [0; 1024];
    let mut length = 1024;
    // SAFETY: the handle is open, and the place has the room that is given.
    let told = unsafe {
        QueryFullProcessImageNameW(process.as_raw_handle(), PROCESS_NAME_WIN32, name.as_mut_ptr(), &raw mut length)
    };
    (told != 0).then(|| String::from_utf16_lossy(&name[..length as usize]))
}

fn open(pid: u32, rights: u32) -> Option<OwnedHandle> {
    // SAFETY: takes three numbers.
    let process = unsafe { OpenProcess(rights, 0, pid) };
    // SAFETY: the call has just opened it for us alone.
    (!process.is_null()).then(|| unsafe { OwnedHandle::from_raw_handle(process) })
}

/// A process that a test will do something to, also when it may have ended by then: process IDs are soon another's here.
pub(crate) struct Held(OwnedHandle);

impl Held {
    pub(crate) fn new(pid: u32) -> Self {
        Self(open(pid, PROCESS_SYNCHRONIZE | PROCESS_TERMINATE | PROCESS_SUSPEND_RESUME).unwrap())
    }

    /// Does to it what that signal does elsewhere.
    pub(crate) fn signal(&self, which: Signal) {
        let process = self.0.as_raw_handle();
        match which {
            // SAFETY: the handle is open. The code is that of a shell for what a signal has killed.
            Signal::KILL => drop(unsafe { TerminateProcess(process, 137) }),
            // SAFETY: the handle is open.
            Signal::STOP => drop(unsafe { NtSuspendProcess(process) }),
            // SAFETY: the handle is open.
            _ => drop(unsafe { NtResumeProcess(process) }),
        }
    }

    /// It is suspended when the call returns.
    #[expect(clippy::unused_self, reason = "elsewhere it takes a while")]
    pub(crate) fn has_stopped(&self) -> bool {
        true
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(self.0.as_raw_handle(), 0) != WAIT_TIMEOUT }
    }
}

/// Does to a process that runs what that signal does elsewhere.
pub(crate) fn signal(pid: u32, which: Signal) {
    Held::new(pid).signal(which);
}

/// Whether a process is there.
pub(crate) fn runs(pid: u64) -> bool {
    image(u32::try_from(pid).unwrap()).is_some()
}

/// A process that has nothing to do with estop.
pub(crate) fn bystander() -> Child {
    Command::new(shared_villain()).args(["sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap()
}

/// The processor time of a process: by the system's list, for Wine answers with the caller's own otherwise.
pub(crate) fn spent_by(pid: u32) -> Duration {
    estop_watchdog::job::windows::usage(pid).unwrap().cpu
}

/// What a file takes of the disk, in bytes.
pub(crate) fn taken_by(path: &Path) -> u64 {
    let name: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    let mut high = 0;
    // SAFETY: the name ends with a zero, and the place lives until the call returns.
    let low = unsafe { GetCompressedFileSizeW(name.as_ptr(), &raw mut high) };
    u64::from(high) << 32 | u64::from(low)
}

/// A process as records name it.
pub(crate) struct Identity {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
}

/// The identity of a process, read without estop's help.
pub(crate) fn identity(pid: u32) -> Identity {
    let process = open(pid, PROCESS_QUERY_LIMITED_INFORMATION).unwrap();
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the handle is open, and the four places live until the call returns.
    unsafe {
        GetProcessTimes(process.as_raw_handle(), &raw mut *created, &raw mut *ended, &raw mut *kernel, &raw mut *user)
    };
    Identity { pid, start_time: u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime) }
}
