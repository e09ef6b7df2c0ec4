//! Files as Windows has them.

use std::ffi::{OsString, c_void};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{GetTokenInformation, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, CreateDirectoryW, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    GetFileInformationByHandle,
};
use windows_sys::Win32::System::RestartManager::{
    CCH_RM_SESSION_KEY, RM_PROCESS_INFO, RmEndSession, RmGetList, RmRegisterResources, RmStartSession,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

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
    // Protected; full access, inherited by all below, for this user, the administrators and the system.
    let rules = Descriptor::of(&format!("D:P(A;OICI;FA;;;{})(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)", own_sid()?))?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
        lpSecurityDescriptor: rules.0,
        bInheritHandle: 0,
    };
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

/// This process's user, as security descriptors name it.
fn own_sid() -> io::Result<String> {
    let mut token = null_mut();
    // SAFETY: the pseudo handle of this process needs no closing, and the place lives until the call returns.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened it for us alone.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    // Aligned for the structure that stands at its beginning, with room for the longest SID behind it.
    let mut buffer = [0_u64; 32];
    let mut length = u32::try_from(size_of_val(&buffer)).unwrap_or(0);
    let place = buffer.as_mut_ptr().cast();
    // SAFETY: the place has the length that is given, and lives until the call returns.
    if unsafe { GetTokenInformation(token.as_raw_handle(), TokenUser, place, length, &raw mut length) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has written that structure to the beginning of the buffer, which is aligned for it.
    let sid = unsafe { (*place.cast::<TOKEN_USER>()).User.Sid };
    let mut text = null_mut();
    // SAFETY: the SID stands in the buffer, and the place lives until the call returns.
    if unsafe { ConvertSidToStringSidW(sid, &raw mut text) } == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut units = Vec::new();
    // SAFETY: the text ends with a zero, and nothing behind that is read.
    while let unit @ 1.. = unsafe { *text.add(units.len()) } {
        units.push(unit);
    }
    // SAFETY: the system has allocated it so that it is freed this way, and nobody else does.
    unsafe { LocalFree(text.cast()) };
    Ok(String::from_utf16_lossy(&units))
}

/// A security descriptor of the system's.
struct Descriptor(*mut c_void);

impl Descriptor {
    fn of(text: &str) -> io::Result<Self> {
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut descriptor = null_mut();
        // SAFETY: the text ends with a zero, and both places live until the call returns. The length is not asked for.
        let made = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                null_mut(),
            )
        };
        if made == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(descriptor)) }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the system has allocated it so that it is freed this way, and nobody else does.
        unsafe { LocalFree(self.0) };
    }
}

fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}
