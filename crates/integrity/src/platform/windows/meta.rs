//! Attributes, times, owners and access rules, by handle.

use std::io;

use windows_sys::Wdk::Storage::FileSystem::{FILE_BASIC_INFORMATION, FileBasicInformation};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_ARCHIVE, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_HIDDEN, FILE_ATTRIBUTE_NORMAL,
    FILE_ATTRIBUTE_NOT_CONTENT_INDEXED, FILE_ATTRIBUTE_READONLY, FILE_ATTRIBUTE_SYSTEM,
};

use super::native::{ask, length_of, tell};
use super::privileges::may_restore;
use super::security::{self, OWNERS, RULES};
use super::tree::{AsNative, in_file_time, of_file_time};
use crate::state::{Attribute, CREATED, FileTime, Meta};

/// There is nothing to withhold: no bit of a file gives who runs it the rights of its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Privileges {
    #[default]
    Withhold,
    Restore,
}

impl From<bool> for Privileges {
    fn from(restore: bool) -> Self {
        if restore { Self::Restore } else { Self::Withhold }
    }
}

impl Privileges {
    /// What of `meta` is put back.
    pub(crate) fn allowed(self, meta: &Meta, _directory: bool) -> Meta {
        meta.clone()
    }
}

/// The attributes that are kept. The archive bit is not: the system sets it wherever a file was changed, as by putting it back.
pub(super) const KEPT: u32 =
    FILE_ATTRIBUTE_READONLY | FILE_ATTRIBUTE_HIDDEN | FILE_ATTRIBUTE_SYSTEM | FILE_ATTRIBUTE_NOT_CONTENT_INDEXED;

/// Names of what is kept beside the attributes, in the order of their names.
const OWNER: &[u8] = b"security.owner";
const ACCESS: &[u8] = b"security.rules";

/// What stands beside a file or directory that is made by a transaction in a directory with the metadata `above`: it has the owner and
/// the rules of that.
pub(crate) fn fresh(above: &Meta, _directory: bool, mtime: FileTime) -> Meta {
    let handed_down = |attribute: &&Attribute| [OWNER, ACCESS].contains(&attribute.name.as_slice());
    let attributes = above.attributes.iter().filter(handed_down).cloned().collect();
    Meta { mode: 0, uid: 0, gid: 0, mtime, attributes }
}

/// There are no permission bits here.
pub(crate) fn set_mode(_meta: &mut Meta, _mode: u32) {}

/// Reads when it was created, its owner and its access rules, in order of their names.
pub(crate) fn read_attributes(file: &impl AsNative) -> io::Result<Vec<Attribute>> {
    let created = basic(file)?.CreationTime.to_le_bytes().to_vec();
    let attribute = |name: &[u8], value| Attribute { name: name.to_vec(), value };
    Ok(vec![
        attribute(CREATED, created),
        attribute(OWNER, security::read(file, OWNERS)?),
        attribute(ACCESS, security::read(file, RULES)?),
    ])
}

fn basic(file: &impl AsNative) -> io::Result<FILE_BASIC_INFORMATION> {
    // SAFETY: this is the structure of that class.
    Ok(unsafe { ask(file, FileBasicInformation) }?)
}

fn value<'a>(attributes: &'a [Attribute], name: &[u8]) -> Option<&'a [u8]> {
    attributes.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.value.as_slice())
}

/// Gives an open file or directory the metadata `meta`: owner and rules first, then attributes and times.
///
/// The owner is set where this user may; a failure to is no error.
pub(crate) fn write_meta(file: &impl AsNative, meta: &Meta) -> io::Result<()> {
    give_rights(file, &meta.attributes)?;
    let created = value(&meta.attributes, CREATED).and_then(|bytes| bytes.try_into().ok()).map(i64::from_le_bytes);
    write_basic(file, meta.mode, meta.mtime, created)
}

/// Gives it the owner and the rules among `attributes`.
pub(super) fn give_rights(file: &impl AsNative, attributes: &[Attribute]) -> io::Result<()> {
    if let Some(owner) = value(attributes, OWNER).filter(|_| may_restore())
        && security::read(file, OWNERS)? != owner
    {
        match security::write(file, OWNERS, owner) {
            Err(failed) if !security::is_forbidden(failed) => return Err(failed.into()),
            _ => {}
        }
    }
    match value(attributes, ACCESS) {
        Some(rules) if security::read(file, RULES)? != rules => Ok(security::write(file, RULES, rules)?),
        _ => Ok(()),
    }
}

/// Sets attributes and times; those that are 0 stay as they are.
pub(super) fn write_basic(file: &impl AsNative, mode: u32, mtime: FileTime, created: Option<i64>) -> io::Result<()> {
    let is_directory = basic(file)?.FileAttributes & FILE_ATTRIBUTE_DIRECTORY != 0;
    let attributes = match (is_directory, mode & KEPT) {
        (true, 0) => FILE_ATTRIBUTE_NORMAL,
        (true, kept) => kept,
        (false, kept) => kept | FILE_ATTRIBUTE_ARCHIVE,
    };
    let times = [created.unwrap_or(0), 0, in_file_time(mtime), 0];
    let mut bytes: Vec<u8> = times.into_iter().flat_map(i64::to_le_bytes).collect();
    bytes.extend(attributes.to_le_bytes());
    bytes.resize(length_of::<FILE_BASIC_INFORMATION>() as usize, 0);
    Ok(tell(file, FileBasicInformation, &bytes)?)
}

/// Whether the metadata is the same, apart from an owner that this user can't give, and the time of creation, which not every
/// filesystem keeps as it is told.
pub(crate) fn same_meta(wanted: &Meta, found: &Meta, _symlink: bool) -> bool {
    let compared = |attribute: &&Attribute| match attribute.name.as_slice() {
        CREATED => false,
        OWNER => may_restore(),
        _ => true,
    };
    wanted.mode == found.mode
        && wanted.mtime == found.mtime
        && wanted.attributes.iter().filter(compared).eq(found.attributes.iter().filter(compared))
}

/// What of the metadata is other than wanted, in words.
pub(crate) fn meta_detail(wanted: &Meta, found: &Meta) -> String {
    let mut parts = Vec::new();
    if wanted.mode != found.mode {
        parts.push(format!("its attributes are {:#x}, {:#x} expected", found.mode, wanted.mode));
    }
    if wanted.mtime != found.mtime {
        parts.push("its modification time differs".to_owned());
    }
    for (name, what) in [(OWNER, "its owner differs"), (ACCESS, "its access rules differ")] {
        if value(&wanted.attributes, name) != value(&found.attributes, name) {
            parts.push(what.to_owned());
        }
    }
    if !wanted.streams().eq(found.streams()) {
        parts.push("its streams differ".to_owned());
    }
    parts.join("; ")
}

/// The moment, as the state keeps it, and whether it is known: filesystems without change times answer 0.
pub(super) fn moment(ticks: i64) -> Option<FileTime> {
    (ticks != 0).then(|| of_file_time(ticks))
}
