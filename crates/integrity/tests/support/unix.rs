//! What a filesystem of Linux has beside contents: modes, owners, extended attributes, symbolic links, names that are bytes.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::Place;

pub fn number_of(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

pub fn beside(path: &Path, meta: &Metadata) -> String {
    let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
    format!("{mode:o} {}:{} {:?}", meta.uid(), meta.gid(), xattr(path))
}

/// Changes what stands beside the content of a file, in one of 256 ways.
pub fn redress(path: &Path, how: u8) {
    fs::set_permissions(path, fs::Permissions::from_mode(u32::from(how) | 0o400)).unwrap();
}

/// From now on the mode of a file binds this test as it binds an ordinary user.
pub fn obey_modes() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    set_capabilities(None, sets).unwrap();
}

pub fn xattr(path: &Path) -> Option<Vec<u8>> {
    let mut buffer = [0; 100];
    let length = rustix::fs::lgetxattr(path, "user.note", &mut buffer[..]).ok()?;
    Some(buffer[..length].to_vec())
}

pub fn set_xattr(path: &Path, value: &[u8]) {
    rustix::fs::setxattr(path, "user.note", value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub fn furnish_specially(place: &Place) {
    let kb = place.kb();
    place.write(OsStr::from_bytes(b"odd/not \xff utf-8\n"), "bytes are names");
    symlink("notes/0/0.md", kb.join("link")).unwrap();
    symlink("/nowhere/at all", kb.join("dangling")).unwrap();
    place.write("annotated", "with an attribute");
    set_xattr(&kb.join("annotated"), b"hello");
    set_xattr(&kb.join("empty"), b"directories too");
    place.write("private", "secret");
    fs::set_permissions(kb.join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    place.write("script", "#!/bin/sh\n");
    fs::set_permissions(kb.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn wreck_specially(place: &Place) {
    let kb = place.kb();
    fs::remove_dir_all(kb.join("odd")).unwrap();
    fs::remove_file(kb.join("link")).unwrap();
    fs::create_dir(kb.join("link")).unwrap();
    place.write("link/inside", "a directory where a link was");
    fs::remove_file(kb.join("script")).unwrap();
    symlink("/etc", kb.join("script")).unwrap();
    set_xattr(&kb.join("annotated"), b"changed");
    fs::set_permissions(kb.join("private"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(&kb, fs::Permissions::from_mode(0o777)).unwrap();
}

/// Nothing keeps a file from being removed here.
pub fn make_removable(_directory: &Path) {}
