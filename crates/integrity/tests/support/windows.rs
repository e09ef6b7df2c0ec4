//! What a filesystem of Windows has beside contents: attributes, access rules, streams, names without regard to case, names that are
//! not Unicode, reserved or long.

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::windows::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{DACL_SECURITY_INFORMATION, OWNER_SECURITY_INFORMATION};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_ARCHIVE, FILE_ATTRIBUTE_HIDDEN, FILE_ATTRIBUTE_NORMAL, FILE_ATTRIBUTE_READONLY,
    FILE_ATTRIBUTE_SYSTEM, SetFileAttributesW,
};

use super::Place;

fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

pub fn number_of(path: &Path) -> u64 {
    winapi_util::file::information(winapi_util::Handle::from_path(path).unwrap()).unwrap().file_index()
}

pub fn beside(path: &Path, meta: &Metadata) -> String {
    let attributes = meta.file_attributes() & !(FILE_ATTRIBUTE_ARCHIVE | FILE_ATTRIBUTE_NORMAL);
    format!("{attributes:#x} {} {:?}", rules_of(path), stream(path))
}

/// Owner and access rules, as text.
fn rules_of(path: &Path) -> String {
    let (mut descriptor, mut text) = (null_mut(), null_mut());
    let parts = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    // SAFETY: the name ends with a zero, and the place lives until the call returns; nothing else is asked for.
    let found = unsafe {
        GetNamedSecurityInfoW(
            wide(path).as_ptr(),
            SE_FILE_OBJECT,
            parts,
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut descriptor,
        )
    };
    assert_eq!(found, ERROR_SUCCESS, "{}", path.display());
    // SAFETY: the descriptor is the system's own, and the place lives until the call returns.
    let told = unsafe {
        ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor,
            SDDL_REVISION_1,
            parts,
            &raw mut text,
            null_mut(),
        )
    };
    assert_ne!(told, 0, "{}", path.display());
    let mut units = Vec::new();
    // SAFETY: the text ends with a zero, and nothing behind that is read.
    while let unit @ 1.. = unsafe { *text.add(units.len()) } {
        units.push(unit);
    }
    // SAFETY: both were allocated by the system so that they are freed this way.
    unsafe { LocalFree(text.cast()) };
    // SAFETY: as above.
    unsafe { LocalFree(descriptor) };
    String::from_utf16(&units).unwrap()
}

fn beside_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(":note");
    name.into()
}

pub fn stream(path: &Path) -> Option<Vec<u8>> {
    fs::read(beside_name(path)).ok()
}

/// Writes a stream beside the content; `false` where there are none. Wine makes a file of that name instead.
pub fn set_stream(path: &Path, value: &[u8]) -> bool {
    let written = fs::write(beside_name(path), value).is_ok();
    let listed = |entry: fs::DirEntry| entry.file_name().as_encoded_bytes().contains(&b':');
    let has_streams = written && !fs::read_dir(path.parent().unwrap()).unwrap().flatten().any(listed);
    if written && !has_streams {
        fs::remove_file(beside_name(path)).unwrap();
    }
    if !has_streams {
        eprintln!("SKIPPED: no streams here, so none were kept");
    }
    has_streams
}

pub fn set_attributes(path: &Path, attributes: u32) {
    // SAFETY: the name ends with a zero.
    assert_ne!(unsafe { SetFileAttributesW(wide(path).as_ptr(), attributes) }, 0, "{}", path.display());
}

/// Changes what stands beside the content of a file, in one of four ways.
pub fn redress(path: &Path, how: u8) {
    let hidden = if how & 1 == 1 { FILE_ATTRIBUTE_HIDDEN } else { 0 };
    let system = if how & 2 == 2 { FILE_ATTRIBUTE_SYSTEM } else { 0 };
    set_attributes(path, FILE_ATTRIBUTE_ARCHIVE | hidden | system);
}

/// The directory by a path that reaches names of any length and kind.
pub fn verbatim(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap()
}

fn deep(kb: &Path) -> PathBuf {
    (0..12).fold(verbatim(kb).join("deep"), |path, number| path.join(format!("{number}-{}", "x".repeat(30))))
}

/// A name in which a half of a character stands alone.
fn odd(kb: &Path) -> PathBuf {
    verbatim(kb).join(OsString::from_wide(&[0x6F, 0xD800, 0x64]))
}

pub fn furnish_specially(place: &Place) {
    let kb = place.kb();
    for name in ["CON", "nul.txt", "ends with a dot.", "ends with a space "] {
        fs::write(verbatim(&kb).join(name), "no name is special").unwrap();
    }
    fs::create_dir_all(deep(&kb)).unwrap();
    fs::write(deep(&kb).join("note"), "far down").unwrap();
    if let Err(error) = fs::write(odd(&kb), "not unicode") {
        eprintln!("SKIPPED: a name that is not Unicode can't be made here ({error})");
    }
    place.write("ÄRGER.md", "ümlaut");
    place.write("Case.md", "as it was spelled");
    place.write("Folder/inside", "as it was spelled");
    place.write("hidden", "x");
    set_attributes(&kb.join("hidden"), FILE_ATTRIBUTE_HIDDEN | FILE_ATTRIBUTE_SYSTEM);
    place.write("read-only", "x");
    set_attributes(&kb.join("read-only"), FILE_ATTRIBUTE_READONLY);
    place.write("read-only too", "x");
    set_attributes(&kb.join("read-only too"), FILE_ATTRIBUTE_READONLY);
    estop_durable::access::create_private(&kb.join("private")).unwrap();
    place.write("annotated", "with a stream");
    set_stream(&kb.join("annotated"), b"hello");
    set_stream(&kb.join("empty"), b"directories too");
}

pub fn wreck_specially(place: &Place) {
    let kb = place.kb();
    fs::remove_file(verbatim(&kb).join("CON")).unwrap();
    fs::write(verbatim(&kb).join("nul.txt"), "shredded").unwrap();
    fs::remove_dir_all(verbatim(&kb).join("deep")).unwrap();
    let _ = fs::remove_file(odd(&kb));
    fs::rename(kb.join("Case.md"), kb.join("CASE.MD")).unwrap();
    fs::write(kb.join("CASE.MD"), "shouted").unwrap();
    fs::rename(kb.join("Folder"), kb.join("FOLDER")).unwrap();
    set_attributes(&kb.join("hidden"), FILE_ATTRIBUTE_NORMAL);
    set_attributes(&kb.join("read-only"), FILE_ATTRIBUTE_NORMAL);
    place.write("read-only", "shredded");
    set_attributes(&kb.join("read-only"), FILE_ATTRIBUTE_READONLY);
    set_attributes(&kb.join("read-only too"), FILE_ATTRIBUTE_NORMAL);
    fs::remove_file(kb.join("read-only too")).unwrap();
    fs::remove_file(kb.join("private")).unwrap();
    place.write("private", "");
    if set_stream(&kb.join("annotated"), b"changed") {
        fs::write(kb.join("RANSOM.txt:hidden"), "a new stream").unwrap();
    }
}

/// What is read-only cannot be removed.
pub fn make_removable(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            make_removable(&path);
        } else if entry.metadata().is_ok_and(|found| found.permissions().readonly()) {
            set_attributes(&path, FILE_ATTRIBUTE_NORMAL);
        }
    }
}
