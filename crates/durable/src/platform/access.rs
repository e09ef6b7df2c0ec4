//! Who may use what on Windows: users by their SIDs, and security descriptors, as everything that is made for estop alone has them.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, OWNER_SECURITY_INFORMATION, PSID, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// The administrators.
const ADMINISTRATORS: &str = "S-1-5-32-544";
/// The system itself.
const SYSTEM: &str = "S-1-5-18";

/// This process's user, as security descriptors name it.
///
/// # Errors
/// The system's answer.
pub fn own_sid() -> io::Result<String> {
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
    text_of(sid)
}

/// Whether an open file or directory belongs to this user, or to those who may do everything anyway.
///
/// # Errors
/// The system's answer.
pub fn is_own(file: &File) -> io::Result<bool> {
    let (mut owner, mut descriptor) = (null_mut(), null_mut());
    // SAFETY: the handle is open, and the two places that are asked for live until the call returns.
    let answer = unsafe {
        GetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &raw mut owner,
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut descriptor,
        )
    };
    if answer != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(answer.cast_signed()));
    }
    // It is freed when it goes, and the owner stands in it.
    let _descriptor = Descriptor(descriptor);
    let owner = text_of(owner)?;
    Ok([ADMINISTRATORS, SYSTEM].contains(&owner.as_str()) || owner == own_sid()?)
}

/// A SID as text.
fn text_of(sid: PSID) -> io::Result<String> {
    let mut text = null_mut();
    // SAFETY: the caller has the SID from the system, and the place lives until the call returns.
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
#[derive(Debug)]
pub struct Descriptor(*mut c_void);

impl Descriptor {
    /// What `text` says in the Security Descriptor Definition Language.
    ///
    /// # Errors
    /// If it says nothing that the system understands.
    pub fn of(text: &str) -> io::Result<Self> {
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

    /// For a call that makes something. What it makes is not handed down to processes.
    pub fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
            lpSecurityDescriptor: self.0,
            bInheritHandle: 0,
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the system has allocated it so that it is freed this way, and nobody else does.
        unsafe { LocalFree(self.0) };
    }
}
