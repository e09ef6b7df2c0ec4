//! Access lists, and the Data Protection API: what lies in the file is of use to this user on this host alone.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::Path;

use estop_durable::access;
use zeroize::Zeroizing;

use crate::StoreError;

/// `FILE_FLAG_OPEN_REPARSE_POINT`: no link is followed.
const NO_FOLLOW: u32 = 0x0020_0000;

/// Opens a file for reading.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path)
}

/// Makes a file, where nothing may be.
pub(super) fn make(path: &Path) -> io::Result<File> {
    access::create_private(path)
}

/// Who else may reach it, and what to do about that.
pub(super) fn exposure(file: &File, _metadata: &Metadata) -> io::Result<Option<String>> {
    let fault = "make a new key if they may have read it, and take their rights away (icacls FILE /inheritance:r)";
    Ok((!access::is_private(file)?).then(|| format!("others may reach it: {fault}")))
}

/// Keeps the bytes from everybody else.
pub(super) fn wrap(bytes: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    access::protect(bytes).map(Zeroizing::new)
}

/// The bytes as they were wrapped.
pub(super) fn unwrap(path: &Path, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    access::unprotect(&bytes).map(Zeroizing::new).map_err(|error| StoreError::Damaged {
        what: path.display().to_string(),
        detail: format!("it was changed, or made by another user or on another host ({error})"),
    })
}
