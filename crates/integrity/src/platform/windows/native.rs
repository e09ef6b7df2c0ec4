//! The calls of the native interface: opening by a name relative to an open directory, and what is asked of or told to a handle.
//!
//! See "`NtCreateFile`", "`NtQueryInformationFile`" and "`NtSetInformationFile`" in the Windows driver documentation.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle as _, BorrowedHandle, FromRawHandle as _, OwnedHandle};
use std::ptr::{null, null_mut};

use estop_durable::access::Descriptor;
use windows_sys::Wdk::Foundation::OBJECT_ATTRIBUTES;
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_CREATE, FILE_DIRECTORY_FILE, FILE_INFORMATION_CLASS, FILE_NON_DIRECTORY_FILE, FILE_OPEN,
    FILE_OPEN_FOR_BACKUP_INTENT, FILE_OPEN_REPARSE_POINT, FILE_OVERWRITE_IF, FILE_SYNCHRONOUS_IO_NONALERT,
    NtCreateFile, NtQueryInformationFile, NtSetInformationFile,
};
use windows_sys::Win32::Foundation::{
    ERROR_DELETE_PENDING, NTSTATUS, OBJ_CASE_INSENSITIVE, RtlNtStatusToDosError, STATUS_BUFFER_OVERFLOW,
    STATUS_DELETE_PENDING, STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_INFO_CLASS, STATUS_INVALID_PARAMETER,
    STATUS_NOT_IMPLEMENTED, STATUS_NOT_SUPPORTED, UNICODE_STRING,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, SYNCHRONIZE,
};
use windows_sys::Win32::System::IO::{IO_STATUS_BLOCK, IO_STATUS_BLOCK_0};

/// Everybody else may go on with the file.
pub(super) const SHARE_ALL: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// What is to be opened or made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Whatever is there; a link itself.
    Any,
    /// A directory that is there.
    Directory,
    /// A file that is not there yet.
    NewFile,
    /// A directory that is not there yet.
    NewDirectory,
    /// A stream, which is emptied if it is there and made if not.
    Stream,
}

/// A status that is no success, by itself: errors of the standard library know only the Win32 ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed(pub(super) NTSTATUS);

impl Failed {
    /// The filesystem, or the system, has no such thing.
    pub(super) fn is_unsupported(self) -> bool {
        matches!(
            self.0,
            STATUS_INVALID_DEVICE_REQUEST
                | STATUS_INVALID_INFO_CLASS
                | STATUS_INVALID_PARAMETER
                | STATUS_NOT_IMPLEMENTED
                | STATUS_NOT_SUPPORTED
        )
    }
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        // By itself it would be told as a denied access.
        if failed.0 == STATUS_DELETE_PENDING {
            return Self::from_raw_os_error(ERROR_DELETE_PENDING.cast_signed());
        }
        // SAFETY: a plain translation of numbers.
        Self::from_raw_os_error(unsafe { RtlNtStatusToDosError(failed.0) }.cast_signed())
    }
}

pub(super) fn check(status: NTSTATUS) -> Result<(), Failed> {
    if status >= 0 { Ok(()) } else { Err(Failed(status)) }
}

/// Opens or makes `name` in the open directory `dir` (the empty name: that itself; `:x`: a stream of it), with `access`.
/// What is made is this user's alone.
pub(super) fn open_at(dir: BorrowedHandle<'_>, name: &[u16], access: u32, wanted: Wanted) -> io::Result<OwnedHandle> {
    open_shared(dir, name, access, wanted, SHARE_ALL)
}

/// As [`open_at`]; others may have it open only as `share` says.
pub(super) fn open_shared(
    dir: BorrowedHandle<'_>,
    name: &[u16],
    access: u32,
    wanted: Wanted,
    share: u32,
) -> io::Result<OwnedHandle> {
    let is_new = matches!(wanted, Wanted::NewFile | Wanted::NewDirectory);
    let rules = if is_new { Some(Descriptor::private("OICI", "FA")?) } else { None };
    let attributes = rules.as_ref().map(Descriptor::attributes);
    let bytes = u16::try_from(size_of_val(name)).map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let text = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: name.as_ptr().cast_mut() };
    let object = OBJECT_ATTRIBUTES {
        Length: length_of::<OBJECT_ATTRIBUTES>(),
        RootDirectory: dir.as_raw_handle(),
        ObjectName: &raw const text,
        Attributes: OBJ_CASE_INSENSITIVE,
        SecurityDescriptor: attributes.map_or(null(), |attributes| attributes.lpSecurityDescriptor.cast_const().cast()),
        SecurityQualityOfService: null(),
    };
    let kind = match wanted {
        Wanted::Any => 0,
        Wanted::Directory | Wanted::NewDirectory => FILE_DIRECTORY_FILE,
        Wanted::NewFile | Wanted::Stream => FILE_NON_DIRECTORY_FILE,
    };
    let disposition = match wanted {
        Wanted::Any | Wanted::Directory => FILE_OPEN,
        Wanted::NewFile | Wanted::NewDirectory => FILE_CREATE,
        Wanted::Stream => FILE_OVERWRITE_IF,
    };
    let (mut handle, mut answer) = (null_mut(), nothing());
    // SAFETY: the name and the descriptor, to which the attributes point, and the places for the answers live until the call returns.
    let status = unsafe {
        NtCreateFile(
            &raw mut handle,
            access | SYNCHRONIZE,
            &raw const object,
            &raw mut answer,
            null(),
            FILE_ATTRIBUTE_NORMAL,
            share,
            disposition,
            kind | FILE_SYNCHRONOUS_IO_NONALERT | FILE_OPEN_FOR_BACKUP_INTENT | FILE_OPEN_REPARSE_POINT,
            null(),
            0,
        )
    };
    check(status)?;
    // SAFETY: the call has just opened it for us alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Asks for a structure of `class`, which may be followed by more than there is room for.
///
/// # Safety
/// The system must write a `T` for that class.
pub(super) unsafe fn ask<T: Default>(file: &impl AsHandle, class: FILE_INFORMATION_CLASS) -> Result<T, Failed> {
    let (mut value, mut answer) = (T::default(), nothing());
    let handle = file.as_handle().as_raw_handle();
    // SAFETY: the place has the length that is given, and both live until the call returns.
    let status =
        unsafe { NtQueryInformationFile(handle, &raw mut answer, (&raw mut value).cast(), length_of::<T>(), class) };
    // A warning: what stands behind the structure (a name) is cut off.
    if status == STATUS_BUFFER_OVERFLOW { Ok(value) } else { check(status).map(|()| value) }
}

/// Tells `bytes`, which hold the structure of `class`.
pub(super) fn tell(file: &impl AsHandle, class: FILE_INFORMATION_CLASS, bytes: &[u8]) -> Result<(), Failed> {
    let mut answer = nothing();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let handle = file.as_handle().as_raw_handle();
    // SAFETY: the bytes have that length, and both places live until the call returns.
    check(unsafe { NtSetInformationFile(handle, &raw mut answer, bytes.as_ptr().cast::<c_void>(), length, class) })
}

pub(super) fn nothing() -> IO_STATUS_BLOCK {
    IO_STATUS_BLOCK { Anonymous: IO_STATUS_BLOCK_0 { Status: 0 }, Information: 0 }
}

/// The length of a structure, as the system takes it.
pub(super) fn length_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(0)
}

/// A place of so many bytes, aligned for every structure.
pub(super) fn place(bytes: usize) -> Vec<u64> {
    vec![0; bytes.div_ceil(size_of::<u64>())]
}

/// The bytes of such a place.
pub(super) fn bytes_of(place: &[u64]) -> &[u8] {
    // SAFETY: any 64-bit numbers are eight times as many bytes.
    unsafe { std::slice::from_raw_parts(place.as_ptr().cast(), size_of_val(place)) }
}

/// The number that stands at `at`, as the system writes numbers.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The `length` bytes at `at`, as the units of a name.
pub(super) fn units(bytes: &[u8], at: usize, length: usize) -> Option<Vec<u16>> {
    let name = bytes.get(at..at.checked_add(length)?)?;
    Some(name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
}
