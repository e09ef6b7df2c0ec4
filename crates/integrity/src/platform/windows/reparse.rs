//! What stands for another name: symbolic links, junctions, mounted volumes. Each is kept as it stands, and never followed.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle as _};
use std::ptr::{null, null_mut};

use windows_sys::Wdk::Storage::FileSystem::{FileAttributeTagInformation, NtFsControlFile};
use windows_sys::Win32::Storage::FileSystem::FILE_ATTRIBUTE_TAG_INFO;
use windows_sys::Win32::System::Ioctl::{FSCTL_GET_REPARSE_POINT, FSCTL_SET_REPARSE_POINT};

use super::native::{Failed, ask, bytes_of, check, nothing, place};

/// The longest that the system takes.
const LONGEST: usize = 16 * 1024;
/// The bit of a tag that says: another name is meant.
const NAME_SURROGATE: u32 = 0x2000_0000;
/// Tag, length and a reserved field stand before the data.
const HEADER: usize = 8;

/// Whether an open file that has a reparse point stands for another name. The other kinds belong to a driver, which makes a plain file
/// of it for who asks.
pub(super) fn is_link(file: &impl AsHandle) -> io::Result<bool> {
    // SAFETY: this is the structure of that class.
    let tag: FILE_ATTRIBUTE_TAG_INFO = unsafe { ask(file, FileAttributeTagInformation) }?;
    Ok(tag.ReparseTag & NAME_SURROGATE != 0)
}

/// The whole of it: tag, length, data.
pub(super) fn read(file: &impl AsHandle) -> io::Result<Vec<u8>> {
    let mut buffer = place(LONGEST);
    control(file, FSCTL_GET_REPARSE_POINT, &[], &mut buffer)?;
    let bytes = bytes_of(&buffer);
    let length = HEADER + usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
    Ok(bytes[..length.min(LONGEST)].to_vec())
}

/// Makes an open, empty file or directory what `whole` says.
pub(super) fn write(file: &impl AsHandle, whole: &[u8]) -> io::Result<()> {
    Ok(control(file, FSCTL_SET_REPARSE_POINT, whole, &mut [])?)
}

fn control(file: &impl AsHandle, code: u32, from: &[u8], to: &mut [u64]) -> Result<(), Failed> {
    let mut answer = nothing();
    let (given, room) = (u32::try_from(from.len()).unwrap_or(0), u32::try_from(size_of_val(to)).unwrap_or(0));
    // SAFETY: both places have the lengths that are given and live until the call returns, which it does when it is done: the handle
    // was opened for that.
    check(unsafe {
        NtFsControlFile(
            file.as_handle().as_raw_handle(),
            null_mut(),
            None,
            null(),
            &raw mut answer,
            code,
            from.as_ptr().cast(),
            given,
            to.as_mut_ptr().cast(),
            room,
        )
    })
}
