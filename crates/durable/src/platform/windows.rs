//! Files as Windows has them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::windows::ffi::OsStrExt as _;
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, CreateDirectoryW, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    GetFileInformationByHandle,
};

use super::access::Descriptor;
use super::holders::{Holder, holders};

/// How long a rename over an open file is tried: virus scanners and indexers let go soon.
const RENAME_WAIT: Duration = Duration::from_secs(2);
/// The pause between two tries.
const RENAME_PAUSE: Duration = Duration::from_millis(10);
/// `GENERIC_WRITE`: what flushing a directory asks for.
const GENERIC_WRITE: u32 = 0x4000_0000;

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
    let shown = |holder: &Holder| format!("{} (process {})", holder.name, holder.pid);
    let holders: Vec<_> = holders(path).iter().map(shown).collect();
    let by = if holders.is_empty() { "another program".to_owned() } else { holders.join(", ") };
    io::Error::new(error.kind(), format!("{error} It is held open by {by}: close it there and try again"))
}

pub(super) fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}
