//! All processes at a moment, and single ones by an identity that a reused process ID does not have.

use std::collections::HashMap;
use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsHandle as _, AsRawHandle as _, BorrowedHandle, OwnedHandle, RawHandle};
use std::time::Duration;

use estop_durable::privileges::{Privilege, enable};
use windows_sys::Wdk::System::SystemInformation::{NtQuerySystemInformation, SYSTEM_INFORMATION_CLASS};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_INVALID_PARAMETER, FILETIME, STATUS_INFO_LENGTH_MISMATCH, UNICODE_STRING, WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_DUP_HANDLE, PROCESS_QUERY_INFORMATION, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_SUSPEND_RESUME, PROCESS_SYNCHRONIZE, PROCESS_TERMINATE, TerminateProcess, WaitForSingleObject,
};

use super::command_line::text;
use super::object::{check, owned, ticks_of};
use crate::job::{Process, ProcessId};

#[link(name = "ntdll")]
unsafe extern "system" {
    /// Suspends every thread of a process, and those that it starts before it has seen the call.
    fn NtSuspendProcess(process: RawHandle) -> i32;
    /// Takes one suspension back.
    fn NtResumeProcess(process: RawHandle) -> i32;
    /// Tells something about a process.
    fn NtQueryInformationProcess(
        process: RawHandle,
        class: i32,
        information: *mut c_void,
        length: u32,
        returned: *mut u32,
    ) -> i32;
}

/// `ProcessCommandLineInformation`.
const COMMAND_LINE: i32 = 60;
/// `SystemProcessInformation`.
const PROCESSES: SYSTEM_INFORMATION_CLASS = 5;

/// `SYSTEM_PROCESS_INFORMATION` as far as it is used: the documented structure leaves out the times.
/// See "NtQuerySystemInformation" and the definitions of System Informer's `phnt`.
#[repr(C)]
struct SystemProcess {
    next: u32,
    threads: u32,
    private_working_set: i64,
    faults: u32,
    most_threads: u32,
    cycles: u64,
    created: i64,
    user_time: i64,
    kernel_time: i64,
    name: UNICODE_STRING,
    priority: i32,
    pid: usize,
    parent: usize,
    handles: u32,
    session: u32,
    key: usize,
    peak_virtual: usize,
    virtual_size: usize,
    page_faults: u32,
    peak_working_set: usize,
    working_set: usize,
    quota: [usize; 4],
    pagefile: usize,
    peak_pagefile: usize,
    private: usize,
    operations: [i64; 3],
    read_bytes: i64,
    written_bytes: i64,
    other_bytes: i64,
}

/// One process, as it was at the moment of the look.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) id: ProcessId,
    parent: u32,
    name: String,
    pub(super) cpu: Duration,
    /// What it has been promised of memory and swap, in bytes; its working set where that is not told.
    pub(super) memory: u64,
    /// Bytes that it has read and written.
    pub(super) io: u64,
    /// Open handles.
    pub(super) handles: u64,
}

impl Seen {
    /// To be shown.
    pub(super) fn process(&self, suspended: bool) -> Process {
        Process {
            id: self.id,
            parent: self.parent,
            command: self.name.clone(),
            arguments: String::new(),
            state: if suspended { 'T' } else { 'R' },
            memory_bytes: self.memory,
            open: Vec::new(),
        }
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: Duration,
    /// What it has been promised of memory and swap, in bytes; its working set where that is not told.
    pub memory_bytes: u64,
}

/// What the process `pid` has used; `None` if there is none.
pub fn usage(pid: u32) -> Option<Usage> {
    let seen = all().ok()?.remove(&pid)?;
    Some(Usage { cpu: seen.cpu, memory_bytes: seen.memory })
}

/// All processes of the system, by ID.
///
/// # Errors
/// The system's answer.
pub(super) fn all() -> io::Result<HashMap<u32, Seen>> {
    let mut room = 256 * 1024;
    loop {
        let mut buffer = vec![0_u64; room / 8];
        let mut length = 0;
        let bytes = u32::try_from(room).unwrap_or(u32::MAX);
        // SAFETY: the buffer has the length that is given, and both places live until the call returns.
        let status = unsafe {
            NtQuerySystemInformation(PROCESSES, buffer.as_mut_ptr().cast::<c_void>(), bytes, &raw mut length)
        };
        match status {
            // There may be more by the next try.
            STATUS_INFO_LENGTH_MISMATCH => room = room.max(length as usize) * 2,
            0 => return Ok(parse(&buffer)),
            other => return Err(io::Error::other(format!("the system does not list its processes: {other:#x}"))),
        }
    }
}

fn parse(buffer: &[u64]) -> HashMap<u32, Seen> {
    let mut found = HashMap::new();
    let mut at = 0;
    while at + size_of::<SystemProcess>() <= size_of_val(buffer) {
        // SAFETY: the entry lies in the buffer. Where it begins depends on the length of the name before it.
        let entry = unsafe { buffer.as_ptr().cast::<u8>().add(at).cast::<SystemProcess>().read_unaligned() };
        let length = usize::from(entry.name.Length);
        let name = if entry.name.Buffer.is_null() {
            String::new()
        } else {
            // SAFETY: the name stands in the same buffer, in the length that is given.
            let bytes = unsafe { std::slice::from_raw_parts(entry.name.Buffer.cast::<u8>(), length) };
            text(&bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect::<Vec<_>>())
        };
        if let (Ok(pid), Ok(parent)) = (u32::try_from(entry.pid), u32::try_from(entry.parent)) {
            let memory = if entry.pagefile > 0 { entry.pagefile } else { entry.working_set };
            let id = ProcessId { pid, start_time: entry.created.cast_unsigned() };
            let cpu = ticks_of(entry.user_time.saturating_add(entry.kernel_time));
            let io = entry.read_bytes.cast_unsigned().saturating_add(entry.written_bytes.cast_unsigned());
            found.insert(pid, Seen { id, parent, name, cpu, memory: memory as u64, io, handles: entry.handles.into() });
        }
        if entry.next == 0 {
            break;
        }
        at += entry.next as usize;
    }
    found
}

/// A process that is held by a handle, so that its ID is nobody else's meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: ProcessId,
    handle: OwnedHandle,
}

impl Held {
    /// The process that a handle stands for.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn of(pid: u32, handle: OwnedHandle) -> io::Result<Self> {
        let start_time = created(handle.as_raw_handle())?;
        Ok(Self { id: ProcessId { pid, start_time }, handle })
    }

    /// Opens a process.
    ///
    /// # Errors
    /// The system's answer: there is none, or it is out of reach.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        Self::open_for(pid, 0)
    }

    /// Opens the process `id`, if it is still that one and alive, also to take what it holds.
    ///
    /// # Errors
    /// The system's answer: it is out of reach.
    pub(crate) fn open_guardian(id: ProcessId) -> io::Result<Option<Self>> {
        let open = || Self::open_for(id.pid, PROCESS_DUP_HANDLE);
        let opened = open().or_else(|refused| {
            // The guardian of a service is the system's, which an administrator has to ask for.
            let asked = refused.raw_os_error() == Some(ERROR_ACCESS_DENIED.cast_signed());
            if asked && enable(Privilege::Debug)? { open() } else { Err(refused) }
        });
        match opened {
            Ok(held) => Ok(Some(held).filter(|held| held.id == id && !held.has_ended())),
            // What the system says of a process ID that nobody has.
            Err(error) if error.raw_os_error() == Some(ERROR_INVALID_PARAMETER.cast_signed()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the process `id` to wait for its end. `None` if it has ended, or cannot be waited for.
    pub(crate) fn open_to_wait(id: ProcessId) -> Option<Self> {
        // SAFETY: takes three numbers.
        let handle = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE, 0, id.pid) };
        Self::of(id.pid, owned(handle).ok()?).ok().filter(|held| held.id == id && !held.has_ended())
    }

    fn open_for(pid: u32, more: u32) -> io::Result<Self> {
        let rights = PROCESS_QUERY_INFORMATION | PROCESS_SUSPEND_RESUME | PROCESS_SYNCHRONIZE | PROCESS_TERMINATE;
        // SAFETY: takes three numbers.
        Self::of(pid, owned(unsafe { OpenProcess(rights | more, 0, pid) })?)
    }

    /// Ends it at once.
    pub(super) fn terminate(&self) {
        // It fails only for a process that has ended.
        // SAFETY: the handle is open.
        unsafe { TerminateProcess(self.handle(), 1) };
    }

    pub(crate) fn borrowed(&self) -> BorrowedHandle<'_> {
        self.handle.as_handle()
    }

    pub(super) fn handle(&self) -> RawHandle {
        self.handle.as_raw_handle()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits at most `wait` for its end. Whether it has ended.
    pub(super) fn wait(&self, wait: Duration) -> bool {
        let milliseconds = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX - 1);
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(self.handle(), milliseconds) == WAIT_OBJECT_0 }
    }

    /// Keeps all its threads from running. Whether that was taken.
    pub(super) fn suspend(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { NtSuspendProcess(self.handle()) >= 0 }
    }

    /// Takes one suspension back.
    pub(super) fn resume(&self) {
        // It fails only for a process that has ended.
        // SAFETY: the handle is open.
        unsafe { NtResumeProcess(self.handle()) };
    }
}

/// The process `pid`, as it is named in records; `None` if there is none that can be looked at.
pub(crate) fn identity(pid: u32) -> Option<ProcessId> {
    // SAFETY: takes three numbers.
    let handle = owned(unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid) }).ok()?;
    Some(ProcessId { pid, start_time: created(handle.as_raw_handle()).ok()? })
}

/// When a process was started: in 100 ns since 1601.
fn created(process: RawHandle) -> io::Result<u64> {
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the handle is open, and the four places live until the call returns.
    check(unsafe { GetProcessTimes(process, &raw mut *created, &raw mut *ended, &raw mut *kernel, &raw mut *user) })?;
    Ok(u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime))
}

/// The command line of a process, if it is still that one and lets itself be looked at.
pub(crate) fn command_line(id: ProcessId) -> String {
    let Some(held) = Held::open_to_wait(id) else { return String::new() };
    let mut buffer = vec![0_u64; 8 * 1024];
    let mut length = 0;
    let bytes = u32::try_from(size_of_val(&buffer[..])).unwrap_or(0);
    // SAFETY: the buffer has the length that is given, and both places live until the call returns.
    let status = unsafe {
        NtQueryInformationProcess(held.handle(), COMMAND_LINE, buffer.as_mut_ptr().cast(), bytes, &raw mut length)
    };
    if status != 0 {
        return String::new();
    }
    // SAFETY: the call has written that structure to the beginning of the buffer, which is aligned for it.
    let found = unsafe { buffer.as_ptr().cast::<UNICODE_STRING>().read() };
    if found.Buffer.is_null() {
        return String::new();
    }
    // SAFETY: the text stands in the same buffer, in the length that is given.
    let units = unsafe { std::slice::from_raw_parts(found.Buffer.cast_const(), usize::from(found.Length) / 2) };
    text(units)
}
