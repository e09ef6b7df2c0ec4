//! Starting a program inside its job: created suspended in the job by the one call that makes it, it is never outside.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::ffi::OsStrExt as _;
use std::os::windows::io::{AsRawHandle as _, OwnedHandle, RawHandle};
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{DUPLICATE_SAME_ACCESS, DuplicateHandle};
use windows_sys::Win32::System::Console::{GetStdHandle, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, CREATE_SUSPENDED, CREATE_UNICODE_ENVIRONMENT, CreateProcessW,
    DeleteProcThreadAttributeList, EXTENDED_STARTUPINFO_PRESENT, GetCurrentProcess, InitializeProcThreadAttributeList,
    LPPROC_THREAD_ATTRIBUTE_LIST, PROC_THREAD_ATTRIBUTE_HANDLE_LIST, PROC_THREAD_ATTRIBUTE_JOB_LIST,
    PROCESS_INFORMATION, STARTF_USESTDHANDLES, STARTUPINFOEXW, UpdateProcThreadAttribute,
};

use super::command_line::{CommandLine, environment};
use super::object::{JobObject, check, owned};
use super::processes::Held;
use crate::job::spec::MARKER;
use crate::job::{Bytes, JobSpec, User};
use crate::{Error, Result};

/// Starts the program of `spec` in `job` with this process's own standard streams. It does not run yet.
///
/// # Errors
/// [`Error::Exec`] if it cannot be executed, [`Error::Containment`] if it cannot be contained.
pub(super) fn spawn(spec: &JobSpec, job: &JobObject) -> Result<Held> {
    let program = &spec.program;
    let argv: Vec<OsString> = program.argv.iter().map(Bytes::to_os_string).collect();
    refuse_another(program.user.as_ref())?;
    let variables = program.environment.iter().map(|(name, value)| (name.to_os_string(), value.to_os_string()));
    // A workload of its own gets a console of its own, without a window; one in the foreground shares the caller's.
    let apart = if program.process_group.is_none() { CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW } else { 0 };
    begin(&argv, variables.collect(), spec, job, apart).map_err(|source| Error::Exec {
        program: argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        source,
    })
}

/// Starts another command in the job of `spec`, with this process's own variables: those of the program may have held secrets, and
/// are kept by nobody.
///
/// # Errors
/// If it cannot be executed.
pub(super) fn beside(argv: &[OsString], spec: &JobSpec, job: &JobObject) -> io::Result<Held> {
    begin(argv, std::env::vars_os().collect(), spec, job, CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW)
}

fn begin(
    argv: &[OsString],
    mut variables: Vec<(OsString, OsString)>,
    spec: &JobSpec,
    job: &JobObject,
    flags: u32,
) -> io::Result<Held> {
    variables.retain(|(name, _)| !name.eq_ignore_ascii_case(MARKER));
    variables.push((MARKER.into(), (&spec.id).into()));
    let path = variables.iter().find(|(name, _)| name.eq_ignore_ascii_case("PATH")).map(|(_, path)| path.as_os_str());
    let directory = spec.program.directory.as_deref();
    let command = CommandLine::new(argv, directory, path)?;
    let block = environment(&variables)?;
    create(command, &block, directory.map(wide).as_deref(), &Streams::own()?, job, flags)
}

fn create(
    mut command: CommandLine,
    block: &[u16],
    directory: Option<&[u16]>,
    streams: &Streams,
    job: &JobObject,
    flags: u32,
) -> io::Result<Held> {
    let jobs = [job.handle()];
    let inherited = streams.handles();
    let mut attributes = Attributes::with_room(2)?;
    attributes.add(PROC_THREAD_ATTRIBUTE_JOB_LIST, &jobs)?;
    if !inherited.is_empty() {
        attributes.add(PROC_THREAD_ATTRIBUTE_HANDLE_LIST, &inherited)?;
    }
    let mut startup = STARTUPINFOEXW::default();
    startup.StartupInfo.cb = u32::try_from(size_of::<STARTUPINFOEXW>()).unwrap_or(0);
    startup.StartupInfo.dwFlags = STARTF_USESTDHANDLES;
    [startup.StartupInfo.hStdInput, startup.StartupInfo.hStdOutput, startup.StartupInfo.hStdError] = streams.raw();
    startup.lpAttributeList = attributes.list();
    let mut made = PROCESS_INFORMATION::default();
    let flags = flags | CREATE_SUSPENDED | CREATE_UNICODE_ENVIRONMENT | EXTENDED_STARTUPINFO_PRESENT;
    // SAFETY: all strings end with a zero; they, the attributes and what those point to live until the call returns.
    check(unsafe {
        CreateProcessW(
            command.file.as_ptr(),
            command.line.as_mut_ptr(),
            null(),
            null(),
            i32::from(!inherited.is_empty()),
            flags,
            block.as_ptr().cast(),
            directory.map_or(null(), <[u16]>::as_ptr),
            (&raw const startup).cast(),
            &raw mut made,
        )
    })?;
    // The process is resumed as a whole; its first thread's handle is not needed.
    drop(owned(made.hThread)?);
    Held::of(made.dwProcessId, owned(made.hProcess)?)
}

/// The standard streams, as the program inherits them.
struct Streams([Option<OwnedHandle>; 3]);

impl Streams {
    /// Inheritable copies of this process's own.
    fn own() -> io::Result<Self> {
        let mut streams = [None, None, None];
        for (stream, which) in streams.iter_mut().zip([STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE]) {
            // SAFETY: takes a number.
            let handle = unsafe { GetStdHandle(which) };
            // A process without a console may have none.
            if !handle.is_null() && handle.addr() != usize::MAX {
                *stream = Some(inheritable(handle)?);
            }
        }
        Ok(Self(streams))
    }

    fn raw(&self) -> [RawHandle; 3] {
        [0, 1, 2].map(|index: usize| self.0[index].as_ref().map_or(null_mut(), |handle| handle.as_raw_handle()))
    }

    fn handles(&self) -> Vec<RawHandle> {
        self.0.iter().flatten().map(|handle| handle.as_raw_handle()).collect()
    }
}

fn inheritable(handle: RawHandle) -> io::Result<OwnedHandle> {
    // SAFETY: takes nothing.
    let own = unsafe { GetCurrentProcess() };
    let mut copy = null_mut();
    // SAFETY: the handle is open, and the place lives until the call returns.
    check(unsafe { DuplicateHandle(own, handle, own, &raw mut copy, 0, 1, DUPLICATE_SAME_ACCESS) })?;
    owned(copy)
}

/// What a process is created with beyond the usual.
struct Attributes {
    /// Aligned as the system's own allocations are.
    buffer: Vec<u64>,
}

impl Attributes {
    fn with_room(count: u32) -> io::Result<Self> {
        let mut bytes = 0;
        // SAFETY: asks only for the size.
        unsafe { InitializeProcThreadAttributeList(null_mut(), count, 0, &raw mut bytes) };
        let mut attributes = Self { buffer: vec![0; bytes.div_ceil(8)] };
        // SAFETY: the buffer has the size that was asked for.
        check(unsafe { InitializeProcThreadAttributeList(attributes.list(), count, 0, &raw mut bytes) })?;
        Ok(attributes)
    }

    fn list(&mut self) -> LPPROC_THREAD_ATTRIBUTE_LIST {
        self.buffer.as_mut_ptr().cast()
    }

    /// Adds handles, which must outlive the call that creates the process.
    fn add(&mut self, attribute: u32, handles: &[RawHandle]) -> io::Result<()> {
        let (list, length) = (self.list(), size_of_val(handles));
        // SAFETY: the list was initialised with room for it, and the handles are as long as is given.
        check(unsafe {
            UpdateProcThreadAttribute(list, 0, attribute as usize, handles.as_ptr().cast(), length, null_mut(), null())
        })
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        let list = self.list();
        // SAFETY: it was initialised, and is deleted once.
        unsafe { DeleteProcThreadAttributeList(list) };
    }
}

/// Another user needs a service that logs on as that user.
///
/// # Errors
/// [`Error::Containment`] if there is one.
pub(crate) fn refuse_another(user: Option<&User>) -> Result<()> {
    match user {
        None => Ok(()),
        Some(_) => Err(Error::Containment("another user needs a service that logs on as that user".to_owned())),
    }
}

/// As the system's calls take a text.
pub(crate) fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}
