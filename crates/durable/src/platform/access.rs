//! Who may use what on Windows: users by their SIDs, security descriptors as everything that is made for estop alone has them, and
//! what only this user can read wherever it lies.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{ERROR_SUCCESS, GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::Cryptography::{
    CRYPT_INTEGER_BLOB, CRYPTPROTECT_LOCAL_MACHINE, CRYPTPROTECT_UI_FORBIDDEN, CryptProtectData, CryptUnprotectData,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACL, DACL_SECURITY_INFORMATION, GetAce, GetTokenInformation, INHERIT_ONLY_ACE,
    OWNER_SECURITY_INFORMATION, PSID, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{CREATE_NEW, CreateFileW, FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_READ};
use windows_sys::Win32::System::SystemServices::{ACCESS_ALLOWED_ACE_TYPE, ACCESS_DENIED_ACE_TYPE};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::privileges::is_administrator;
use super::windows::wide;

/// The administrators.
const ADMINISTRATORS: &str = "S-1-5-32-544";
/// The system itself.
const SYSTEM: &str = "S-1-5-18";

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
    text_of(sid)
}

/// Makes a file, where nothing may be, that only this user and those who may do everything anyway can use.
///
/// # Errors
/// The system's answer.
pub fn create_private(path: &Path) -> io::Result<File> {
    let rules = Descriptor::private("", "FA")?;
    let attributes = rules.attributes();
    let name = wide(path);
    // SAFETY: the name ends with a zero, and both it and the attributes live until the call returns.
    let handle = unsafe {
        CreateFileW(
            name.as_ptr(),
            GENERIC_READ | GENERIC_WRITE,
            FILE_SHARE_READ,
            &raw const attributes,
            CREATE_NEW,
            FILE_FLAG_OPEN_REPARSE_POINT,
            null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it for us alone.
    Ok(File::from(unsafe { OwnedHandle::from_raw_handle(handle) }))
}

/// Whether an open file or directory belongs to this user, or to those who may do everything anyway.
///
/// # Errors
/// The system's answer.
pub fn is_own(file: &File) -> io::Result<bool> {
    let (owner, _, _descriptor) = rules_of(file)?;
    is_trusted(owner)
}

/// Whether an open file belongs to this user and gives nobody any access but this user and those who may do everything anyway.
///
/// # Errors
/// The system's answer.
pub fn is_private(file: &File) -> io::Result<bool> {
    let (owner, list, _descriptor) = rules_of(file)?;
    // Without a list, everybody may do everything.
    if list.is_null() || !is_trusted(owner)? {
        return Ok(false);
    }
    // SAFETY: the list stands in the descriptor, which is alive.
    let count = unsafe { (*list).AceCount };
    for number in 0..u32::from(count) {
        let mut entry = null_mut();
        // SAFETY: the list is alive, and so is the place; the entry that is answered stands in the list.
        if unsafe { GetAce(list, number, &raw mut entry) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
        // SAFETY: every entry begins with this header.
        let header = unsafe { (*entry).Header };
        let is_denial = u32::from(header.AceType) == ACCESS_DENIED_ACE_TYPE;
        if is_denial || u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0 {
            continue;
        }
        // SAFETY: entries that allow have the SID there; where another kind has something else, it is the wrong SID at most.
        let sid = unsafe { (&raw mut (*entry).SidStart).cast() };
        if u32::from(header.AceType) != ACCESS_ALLOWED_ACE_TYPE || !is_trusted(sid)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_trusted(sid: PSID) -> io::Result<bool> {
    let text = text_of(sid)?;
    Ok([ADMINISTRATORS, SYSTEM].contains(&text.as_str()) || text == own_sid()?)
}

/// Keeps `bytes` so that only this user on this host gets them back (DPAPI). An administrator's, or the system's, any of them gets
/// back, for a service is the system's and the prompt an administrator's: from others it is then kept by the rules of the file that
/// it is in.
///
/// # Errors
/// The system's answer.
pub fn protect(bytes: &[u8]) -> io::Result<Vec<u8>> {
    transform(bytes, |from, to| {
        let scope = if is_administrator() { CRYPTPROTECT_LOCAL_MACHINE } else { 0 };
        // SAFETY: both places live until the call returns; nothing else is given.
        unsafe { CryptProtectData(from, null(), null(), null(), null(), CRYPTPROTECT_UI_FORBIDDEN | scope, to) }
    })
}

/// Gives back what [`protect`] has kept. The caller wipes it.
///
/// # Errors
/// If it was changed, or kept by another user or on another host.
pub fn unprotect(bytes: &[u8]) -> io::Result<Vec<u8>> {
    transform(bytes, |from, to| {
        // SAFETY: both places live until the call returns; nothing else is given or asked for.
        unsafe { CryptUnprotectData(from, null_mut(), null(), null(), null(), CRYPTPROTECT_UI_FORBIDDEN, to) }
    })
}

fn transform(
    bytes: &[u8],
    call: impl FnOnce(*const CRYPT_INTEGER_BLOB, *mut CRYPT_INTEGER_BLOB) -> i32,
) -> io::Result<Vec<u8>> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let from = CRYPT_INTEGER_BLOB { cbData: length, pbData: bytes.as_ptr().cast_mut() };
    let mut to = CRYPT_INTEGER_BLOB::default();
    if call(&raw const from, &raw mut to) == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has allocated so many bytes there.
    let made = unsafe { std::slice::from_raw_parts_mut(to.pbData, to.cbData as usize) };
    let copy = made.to_vec();
    // It may be a secret.
    for byte in made {
        // SAFETY: a reference is a valid place to write to.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    // SAFETY: the system has allocated it so that it is freed this way, and nobody else does.
    unsafe { LocalFree(to.pbData.cast()) };
    Ok(copy)
}

/// Owner and list of access rules; both stand in the descriptor.
fn rules_of(file: &File) -> io::Result<(PSID, *mut ACL, Descriptor)> {
    let (mut owner, mut list, mut descriptor) = (null_mut(), null_mut(), null_mut());
    // SAFETY: the handle is open, and the places that are asked for live until the call returns.
    let answer = unsafe {
        GetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            &raw mut owner,
            null_mut(),
            &raw mut list,
            null_mut(),
            &raw mut descriptor,
        )
    };
    if answer != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(answer.cast_signed()));
    }
    Ok((owner, list, Descriptor(descriptor)))
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
    /// For what only this user, the administrators and the system may use, whatever stands above it: `rights` for each of them,
    /// handed down as `inheritance` says, both in the Security Descriptor Definition Language.
    ///
    /// # Errors
    /// The system's answer: the words are none of that language.
    pub fn private(inheritance: &str, rights: &str) -> io::Result<Self> {
        let own = own_sid()?;
        let rule = |sid: &str| format!("(A;{inheritance};{rights};;;{sid})");
        let text = format!("D:P{}{}{}", rule(&own), rule(ADMINISTRATORS), rule(SYSTEM));
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
