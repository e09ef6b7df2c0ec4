//! Owners and access rules, as the system keeps them with a file.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle as _};

use estop_durable::access::Descriptor;
use windows_sys::Wdk::Storage::FileSystem::{NtQuerySecurityObject, NtSetSecurityObject};
use windows_sys::Win32::Foundation::{
    STATUS_ACCESS_DENIED, STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_OWNER, STATUS_PRIVILEGE_NOT_HELD,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GROUP_SECURITY_INFORMATION, OWNER_SECURITY_INFORMATION, SE_DACL_AUTO_INHERIT_REQ,
    SE_DACL_AUTO_INHERITED,
};

use super::native::{Failed, bytes_of, check, place};

/// Where the control bits stand in a descriptor (`SECURITY_DESCRIPTOR_RELATIVE`).
const CONTROL: usize = 2;

/// Owner and group.
pub(super) const OWNERS: u32 = OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION;
/// Who may do what.
pub(super) const RULES: u32 = DACL_SECURITY_INFORMATION;

/// What `parts` of an open file's descriptor say, in one piece ("self-relative").
pub(super) fn read(file: &impl AsHandle, parts: u32) -> io::Result<Vec<u8>> {
    let mut buffer = place(512);
    loop {
        let room = u32::try_from(size_of_val(buffer.as_slice())).unwrap_or(0);
        let mut needed = 0;
        let handle = file.as_handle().as_raw_handle();
        // SAFETY: the place has that length, and both live until the call returns.
        let status = unsafe { NtQuerySecurityObject(handle, parts, buffer.as_mut_ptr().cast(), room, &raw mut needed) };
        match check(status) {
            Ok(()) => return Ok(cut(bytes_of(&buffer), needed)),
            Err(Failed(STATUS_BUFFER_TOO_SMALL)) if needed > room => buffer = place(needed as usize),
            Err(failed) => return Err(failed.into()),
        }
    }
}

fn cut(bytes: &[u8], length: u32) -> Vec<u8> {
    bytes[..bytes.len().min(length as usize)].to_vec()
}

/// Gives an open file the `parts` that `descriptor` holds, which [`read`] has given.
pub(super) fn write(file: &impl AsHandle, parts: u32, descriptor: &[u8]) -> Result<(), Failed> {
    let mut buffer = place(descriptor.len());
    for (at, chunk) in descriptor.chunks(size_of::<u64>()).enumerate() {
        let mut eight = [0; size_of::<u64>()];
        eight[..chunk.len()].copy_from_slice(chunk);
        buffer[at] = u64::from_le_bytes(eight);
    }
    // That the rules were handed down by a directory is taken over only if it is asked for.
    if descriptor
        .get(CONTROL..CONTROL + 2)
        .is_some_and(|bits| u16::from_le_bytes([bits[0], bits[1]]) & SE_DACL_AUTO_INHERITED != 0)
    {
        buffer[0] |= u64::from(SE_DACL_AUTO_INHERIT_REQ) << (8 * CONTROL);
    }
    // SAFETY: the buffer holds a descriptor of the system's own and lives until the call returns.
    check(unsafe { NtSetSecurityObject(file.as_handle().as_raw_handle(), parts, buffer.as_mut_ptr().cast()) })
}

/// Only an administrator gives files to others.
pub(super) fn is_forbidden(failed: Failed) -> bool {
    matches!(failed.0, STATUS_ACCESS_DENIED | STATUS_INVALID_OWNER | STATUS_PRIVILEGE_NOT_HELD)
}

/// Lets this user, and who may do everything anyway, do everything with what is open for that.
pub(super) fn let_owner_in(file: &impl AsHandle) -> io::Result<()> {
    let rules = Descriptor::private("OICI", "FA")?;
    let descriptor = rules.attributes().lpSecurityDescriptor;
    // SAFETY: the descriptor lives until the call returns.
    Ok(check(unsafe { NtSetSecurityObject(file.as_handle().as_raw_handle(), RULES, descriptor) })?)
}
