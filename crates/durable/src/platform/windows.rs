//! Files as Windows has them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;
use std::ptr::null;
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_SUCCESS};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, CreateDirectoryW, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    GetFileInformationByHandle,
};
use windows_sys::Win32::System::RestartManager::{
    CCH_RM_SESSION_KEY, RM_PROCESS_INFO, RmEndSession, RmGetList, RmRegisterResources, RmStartSession,
};

use super::access::Descriptor;

/// How long a rename over an open file is tried: virus scanners and indexers let go soon.
const RENAME_WAIT: Duration = Duration::from_secs(2);
/// The pause between two tries.
const RENAME_PAUSE: Duration = Duration::from_millis(10);
/// `GENERIC_WRITE`: what flushing a directory asks for.
const GENERIC_WRITE: u32 = 0x4000_0000;
/// The most holders of a file that are named.
const HOLDERS: usize = 8;

pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}

pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

/// Files inherit the access rules of their directory, which [`create_dir`] has set.
pub(crate) fn created_with(options: &mut OpenOptions, _mode: u32) -> &mut OpenOptions {
    options
}

pub(crate) fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Makes a directory. With a `mode` that gives others nothing, it and all below it are its owner's, the administrators' and the
/// system's alone, whatever the directories above say.
pub(crate) fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    if mode & 0o077 != 0 {
        return fs::create_dir(path);
    }
    // Full access, inherited by all below.
    let rules = Descriptor::private("OICI", "FA")?;
    let attributes = rules.attributes();
    let name = wide(path);
    // SAFETY: the name ends with a zero, and both it and the attributes live until the call returns.
    if unsafe { CreateDirectoryW(name.as_ptr(), &raw const attributes) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    OpenOptions::new().access_mode(GENERIC_WRITE).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)?.sync_all()
}

/// Windows refuses while somebody has the target open: it is tried for a moment.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match fs::rename(from, to) {
            Err(error) if is_in_use(&error) && to.is_file() => {
                if begun.elapsed() >= RENAME_WAIT {
                    return Err(held(&error, to));
                }
                std::thread::sleep(RENAME_PAUSE);
            }
            other => return other,
        }
    }
}

/// There are no copies of a process that would keep the lock: it ends with the handle.
pub(crate) fn unlock(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Whether `file` is the one at `path`, which is not followed if it is a link.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let flags = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT;
    let there = OpenOptions::new().access_mode(0).custom_flags(flags).open(path)?;
    Ok(identity(file)? == identity(&there)?)
}

/// The volume and the number of a file on it.
fn identity(file: &File) -> io::Result<(u32, u32, u32)> {
    let mut information = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and the structure lives until the call returns.
    if unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut information) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((information.dwVolumeSerialNumber, information.nFileIndexHigh, information.nFileIndexLow))
}

fn is_in_use(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(i32::cast_unsigned);
    matches!(code, Some(ERROR_ACCESS_DENIED | ERROR_SHARING_VIOLATION))
}

/// The error, with the programs that hold `path` where the system knows them.
fn held(error: &io::Error, path: &Path) -> io::Error {
    let holders = holders(path);
    let by = if holders.is_empty() { "another program".to_owned() } else { holders.join(", ") };
    io::Error::new(error.kind(), format!("{error} It is held open by {by}: close it there and try again"))
}

/// Who holds `path` open, as the Restart Manager tells: name and process ID.
fn holders(path: &Path) -> Vec<String> {
    let Some(session) = Session::start() else { return Vec::new() };
    let name = wide(path);
    let names = [name.as_ptr()];
    // SAFETY: one name, which ends with a zero and lives until the call returns; no applications and no services.
    let registered = unsafe { RmRegisterResources(session.0, 1, names.as_ptr(), 0, null(), 0, null()) };
    if registered != ERROR_SUCCESS {
        return Vec::new();
    }
    let mut found = [RM_PROCESS_INFO::default(); HOLDERS];
    let (mut needed, mut count, mut reasons) = (0, u32::try_from(HOLDERS).unwrap_or(0), 0);
    // SAFETY: `count` is the length of the array; all four places live until the call returns.
    unsafe { RmGetList(session.0, &raw mut needed, &raw mut count, found.as_mut_ptr(), &raw mut reasons) };
    let shown = |process: &RM_PROCESS_INFO| {
        let name = &process.strAppName;
        let end = name.iter().position(|&unit| unit == 0).unwrap_or(name.len());
        let name = OsString::from_wide(&name[..end]).to_string_lossy().into_owned();
        format!("{name} (process {})", process.Process.dwProcessId)
    };
    found.iter().take(count as usize).filter(|process| process.Process.dwProcessId != 0).map(shown).collect()
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

pub(super) fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}
