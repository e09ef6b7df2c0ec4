//! Holes in files. See "Sparse Files" in the Windows documentation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OPEN_REPARSE_POINT;
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::{
    FILE_ALLOCATED_RANGE_BUFFER, FILE_ZERO_DATA_INFORMATION, FSCTL_QUERY_ALLOCATED_RANGES, FSCTL_SET_SPARSE,
    FSCTL_SET_ZERO_DATA,
};

use crate::job::windows::object::check;

/// Opens a log that another process writes, to cut it.
pub(in crate::guardian) fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(path)
}

/// Where the first data is, behind the hole that an earlier guardian made.
pub(in crate::guardian) fn first_data(file: &File) -> u64 {
    let asked = FILE_ALLOCATED_RANGE_BUFFER { FileOffset: 0, Length: i64::MAX };
    let mut first = FILE_ALLOCATED_RANGE_BUFFER::default();
    let mut length = 0;
    // There may be more ranges than the one that is asked for: then the call fails, and has filled that one.
    // SAFETY: both structures have the lengths that are given, and they live until the call returns.
    unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            FSCTL_QUERY_ALLOCATED_RANGES,
            (&raw const asked).cast(),
            size_of_val(&asked) as u32,
            (&raw mut first).cast(),
            size_of_val(&first) as u32,
            &raw mut length,
            null_mut(),
        )
    };
    u64::try_from(first.FileOffset).unwrap_or(0)
}

/// Gives what stands before `begin` back to the filesystem; the length stays.
pub(in crate::guardian) fn give_back(file: &File, begin: u64) -> io::Result<()> {
    let (handle, mut length) = (file.as_raw_handle(), 0);
    // SAFETY: the handle is open; nothing is given and nothing is asked for.
    check(unsafe { DeviceIoControl(handle, FSCTL_SET_SPARSE, null(), 0, null_mut(), 0, &raw mut length, null_mut()) })?;
    let zero = FILE_ZERO_DATA_INFORMATION { FileOffset: 0, BeyondFinalZero: i64::try_from(begin).unwrap_or(i64::MAX) };
    let size = size_of_val(&zero) as u32;
    // SAFETY: the structure has the length that is given, and lives until the call returns.
    check(unsafe {
        DeviceIoControl(
            handle,
            FSCTL_SET_ZERO_DATA,
            (&raw const zero).cast(),
            size,
            null_mut(),
            0,
            &raw mut length,
            null_mut(),
        )
    })
}
