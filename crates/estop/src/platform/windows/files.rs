//! Files and what stands beside their content.

use std::fs::File;
use std::io;
use std::os::windows::ffi::OsStrExt as _;
use std::os::windows::fs::MetadataExt as _;
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Storage::FileSystem::{GetVolumeInformationW, GetVolumePathNameW};

/// The longest path that the system takes without a prefix, in units of UTF-16, with its end.
const ROOM: usize = 261;

/// Takes `size` bytes of the disk for `file`.
///
/// # Errors
/// If there is no room for them.
pub(crate) fn reserve(file: &File, size: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0xe5), size), &mut &*file).map(drop)
}

/// Files are whose their directory's access rules say.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn give_like(_file: &File, _parent: &Path) -> io::Result<()> {
    Ok(())
}

/// The volume that `path`, or what is there of it, lies on.
pub(crate) fn filesystem(path: &Path) -> Option<u64> {
    let handle = path.ancestors().find_map(|ancestor| winapi_util::Handle::from_path_any(ancestor).ok())?;
    winapi_util::file::information(handle).ok().map(|found| found.volume_serial_number())
}

/// The type of the filesystem that `path` is on, as the system names it.
pub(crate) fn filesystem_type(path: &Path) -> String {
    const UNKNOWN: &str = "an unknown filesystem";
    let name: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    let (mut volume, mut kind) = ([0; ROOM], [0; ROOM]);
    let room = u32::try_from(ROOM).unwrap_or(0);
    // SAFETY: the name ends with a zero, and the place has the room that is given.
    if unsafe { GetVolumePathNameW(name.as_ptr(), volume.as_mut_ptr(), room) } == 0 {
        return UNKNOWN.to_owned();
    }
    // SAFETY: the volume's name ends with a zero, and the one place that is asked for has the room that is given.
    let told = unsafe {
        GetVolumeInformationW(
            volume.as_ptr(),
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            null_mut(),
            kind.as_mut_ptr(),
            room,
        )
    };
    let length = kind.iter().position(|unit| *unit == 0).unwrap_or(0);
    if told == 0 || length == 0 { UNKNOWN.to_owned() } else { String::from_utf16_lossy(&kind[..length]) }
}

/// Symbolic links need a privilege here: the file is there a second time instead.
///
/// # Errors
/// The system's answer.
pub(crate) fn link(target: &str, link: &Path) -> io::Result<()> {
    std::fs::copy(link.with_file_name("").join(target), link).map(drop)
}

/// What a snapshot keeps of the file at `path` beside its content, as text.
///
/// # Errors
/// If it cannot be looked at.
pub(crate) fn attributes(path: &Path) -> io::Result<String> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(format!("{:x} {}", metadata.file_attributes(), metadata.last_write_time()))
}
