//! The system's own list of processes, and what it does to one of them.

#[cfg(unix)]
pub(crate) use unix::{called, is_wine, kill, resume, suspend, tells_of_refusals};
#[cfg(windows)]
pub(crate) use windows::{called, is_wine, kill, resume, suspend, tells_of_refusals};

#[cfg(unix)]
mod unix {
    use rustix::process::{Pid, Signal, kill_process};

    /// Whose program has this name.
    pub(crate) fn called(name: &str) -> Vec<u32> {
        let processes =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let is_called = |pid: &u32| {
            let executable = std::fs::read_link(format!("/proc/{pid}/exe"));
            executable.is_ok_and(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)))
        };
        processes.filter(is_called).collect()
    }

    /// Whether the kernel tells a guardian that it has refused a process: a v1 group's only by its log.
    pub(crate) fn tells_of_refusals() -> bool {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        !own.contains(":pids:") || std::fs::File::open("/dev/kmsg").is_ok()
    }

    pub(crate) fn is_wine() -> bool {
        false
    }

    pub(crate) fn kill(pid: u32) {
        signal(pid, Signal::KILL);
    }

    pub(crate) fn suspend(pid: u32) {
        signal(pid, Signal::STOP);
    }

    pub(crate) fn resume(pid: u32) {
        signal(pid, Signal::CONT);
    }

    fn signal(pid: u32, signal: Signal) {
        // It may have ended.
        let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
    }
}

#[cfg(windows)]
mod windows {
    use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle, RawHandle};

    use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
    use windows_sys::Win32::System::Diagnostics::ToolHelp::{
        CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
    };
    use windows_sys::Win32::System::Threading::{
        OpenProcess, PROCESS_SUSPEND_RESUME, PROCESS_TERMINATE, TerminateProcess,
    };

    #[link(name = "ntdll")]
    unsafe extern "system" {
        fn NtSuspendProcess(process: RawHandle) -> i32;
        fn NtResumeProcess(process: RawHandle) -> i32;
    }

    /// Whose program has this name.
    pub(crate) fn called(name: &str) -> Vec<u32> {
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
            let end = entry.szExeFile.iter().position(|&unit| unit == 0).unwrap_or(entry.szExeFile.len());
            if String::from_utf16_lossy(&entry.szExeFile[..end]).eq_ignore_ascii_case(name) {
                found.push(entry.th32ProcessID);
            }
            // SAFETY: as above.
            more = unsafe { Process32NextW(snapshot.as_raw_handle(), &raw mut entry) };
        }
        found
    }

    /// Wine knows no holes in files, and tells nobody's command line.
    /// Whether the kernel tells a guardian that it has refused a process.
    pub(crate) fn tells_of_refusals() -> bool {
        false
    }

    pub(crate) fn is_wine() -> bool {
        estop_watchdog::job::windows::is_wine()
    }

    pub(crate) fn kill(pid: u32) {
        if let Some(process) = open(pid) {
            // SAFETY: the handle is open.
            unsafe { TerminateProcess(process.as_raw_handle(), 1) };
        }
    }

    pub(crate) fn suspend(pid: u32) {
        // SAFETY: the handle is open.
        unsafe { NtSuspendProcess(open(pid).unwrap().as_raw_handle()) };
    }

    pub(crate) fn resume(pid: u32) {
        if let Some(process) = open(pid) {
            // SAFETY: the handle is open.
            unsafe { NtResumeProcess(process.as_raw_handle()) };
        }
    }

    fn open(pid: u32) -> Option<OwnedHandle> {
        // SAFETY: takes three numbers.
        let process = unsafe { OpenProcess(PROCESS_TERMINATE | PROCESS_SUSPEND_RESUME, 0, pid) };
        // SAFETY: the call has just opened it for us alone.
        (!process.is_null()).then(|| unsafe { OwnedHandle::from_raw_handle(process) })
    }
}
