//! What an administrator or a service may do beyond the access rules, as root may on Linux. It has to be asked for.

use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{ERROR_SUCCESS, GetLastError, LUID};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_BACKUP_NAME, SE_DEBUG_NAME,
    SE_PRIVILEGE_ENABLED, SE_RESTORE_NAME, TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows_sys::Win32::UI::Shell::IsUserAnAdmin;
use windows_sys::core::PCWSTR;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Read every file.
    Backup,
    /// Write every file, and give it to anybody.
    Restore,
    /// Open every process.
    Debug,
}

/// Whether this process has an administrator's rights, or is the system's own.
pub fn is_administrator() -> bool {
    // SAFETY: takes nothing.
    unsafe { IsUserAnAdmin() != 0 }
}

/// Asks for a privilege, for the whole process. Whether it has it.
///
/// # Errors
/// The system's answer, where it gives none of both.
pub fn enable(privilege: Privilege) -> io::Result<bool> {
    let name: PCWSTR = match privilege {
        Privilege::Backup => SE_BACKUP_NAME,
        Privilege::Restore => SE_RESTORE_NAME,
        Privilege::Debug => SE_DEBUG_NAME,
    };
    let mut token = null_mut();
    // SAFETY: the pseudo handle of this process needs no closing, and the place lives until the call returns.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened it for us alone.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut luid = LUID::default();
    // SAFETY: the name is a constant that ends with a zero, and the place lives until the call returns.
    if unsafe { LookupPrivilegeValueW(null(), name, &raw mut luid) } == 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = LUID_AND_ATTRIBUTES { Luid: luid, Attributes: SE_PRIVILEGE_ENABLED };
    let wanted = TOKEN_PRIVILEGES { PrivilegeCount: 1, Privileges: [wanted] };
    // SAFETY: the structure lives until the call returns; what was before is not asked for.
    let adjusted =
        unsafe { AdjustTokenPrivileges(token.as_raw_handle(), 0, &raw const wanted, 0, null_mut(), null_mut()) };
    // It succeeds too where the process lacks the privilege, and tells that only so.
    // SAFETY: reads a number of this thread.
    Ok(adjusted != 0 && unsafe { GetLastError() } == ERROR_SUCCESS)
}
