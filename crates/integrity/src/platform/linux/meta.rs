//! Modes, owners, times and extended attributes, by descriptor.

use std::io;

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, futimens, utimensat,
};
use rustix::io::Errno;

use super::owner::user;
use super::tree::{AsNative, stat_of};
use crate::state::{Attribute, FileTime, Meta};

/// Whether set-uid and set-gid bits and file capabilities are restored. They are withheld unless somebody asks: a
/// hostile program could have planted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Privileges {
    #[default]
    Withhold,
    Restore,
}

const CAPABILITY: &[u8] = b"security.capability";
const SET_ID_BITS: u32 = 0o6000;
/// The kernel's limit on the list of names and on a value.
const ATTRIBUTE_LIMIT: usize = 64 * 1024;

impl From<bool> for Privileges {
    fn from(restore: bool) -> Self {
        if restore { Self::Restore } else { Self::Withhold }
    }
}

impl Privileges {
    /// What of `meta` is put back. On a directory the set-gid bit gives nobody a right: it hands the group down.
    pub(crate) fn allowed(self, meta: &Meta, directory: bool) -> Meta {
        let mut allowed = meta.clone();
        if self == Self::Withhold && !directory {
            allowed.mode &= !SET_ID_BITS;
            allowed.attributes.retain(|attribute| attribute.name != CAPABILITY);
        }
        allowed
    }
}

/// What stands beside a file or directory that is made by a transaction in a directory with the metadata `above`: it belongs to whom
/// that belongs to, and whoever may use that may use it.
pub(crate) fn fresh(above: &Meta, directory: bool, mtime: FileTime) -> Meta {
    let mode = if directory { above.mode & 0o2777 | 0o700 } else { above.mode & 0o666 | 0o600 };
    Meta { mode, uid: above.uid, gid: above.gid, mtime, attributes: Vec::new() }
}

/// Gives it these permission bits in place of what said before who may use it.
pub(crate) fn set_mode(meta: &mut Meta, mode: u32) {
    meta.mode = mode & 0o777;
    meta.attributes.retain(|attribute| attribute.name != b"system.posix_acl_access");
}

/// The attributes that are kept: the user's, access control lists, and file capabilities.
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name == CAPABILITY
}

/// Reads the extended attributes that are kept, in order of their names. None where the filesystem has none.
pub(crate) fn read_attributes(file: &impl AsNative) -> io::Result<Vec<Attribute>> {
    let names = match grow(|buffer| flistxattr(file, buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        match grow(|buffer| fgetxattr(file, name, buffer)) {
            Ok(value) => attributes.push(Attribute { name: name.to_vec(), value }),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    attributes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(attributes)
}

/// Reads into a small buffer, and into the largest one if that is too small.
fn grow(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; ATTRIBUTE_LIMIT];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}

/// Gives an open file or directory the metadata `meta`: attributes first, since the mode may forbid them, times last.
///
/// The owner is set where this user may; a failure to is no error.
pub(crate) fn write_meta(file: &impl AsNative, meta: &Meta) -> io::Result<()> {
    write_attributes(file, meta)?;
    let now = stat_of(file)?;
    if (now.uid, now.gid) != (meta.uid, meta.gid) {
        let owned = fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        ignore_forbidden(owned)?;
    }
    fchmod(file, Mode::from_raw_mode(meta.mode))?;
    Ok(futimens(file, &times(meta.mtime))?)
}

/// Gives the symbolic link `name` in `dir` the owner and time of `meta`.
pub(super) fn write_symlink_meta(dir: &impl AsNative, name: &[u8], meta: &Meta) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    ignore_forbidden(chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    Ok(utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn write_attributes(file: &impl AsNative, meta: &Meta) -> io::Result<()> {
    let there = read_attributes(file)?;
    for attribute in &meta.attributes {
        if !there.contains(attribute) {
            fsetxattr(file, attribute.name.as_slice(), &attribute.value, XattrFlags::empty())?;
        }
    }
    for attribute in there {
        if !meta.attributes.iter().any(|wanted| wanted.name == attribute.name) {
            fremovexattr(file, attribute.name.as_slice())?;
        }
    }
    Ok(())
}

fn ignore_forbidden(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::PERM) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn times(mtime: FileTime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

/// Whether the metadata is the same, apart from an owner that this user can't give, and the mode of a symbolic link, which has none.
pub(crate) fn same_meta(wanted: &Meta, found: &Meta, symlink: bool) -> bool {
    let same_owner = (wanted.uid, wanted.gid) == (found.uid, found.gid) || user() != 0;
    same_owner
        && (wanted.mode == found.mode || symlink)
        && wanted.mtime == found.mtime
        && wanted.attributes == found.attributes
}

/// What of the metadata is other than wanted, in words.
pub(crate) fn meta_detail(wanted: &Meta, found: &Meta) -> String {
    let mut parts = Vec::new();
    if wanted.mode != found.mode {
        parts.push(format!("its mode is {:o}, {:o} expected", found.mode, wanted.mode));
    }
    if (wanted.uid, wanted.gid) != (found.uid, found.gid) {
        parts.push(format!("its owner is {}:{}, {}:{} expected", found.uid, found.gid, wanted.uid, wanted.gid));
    }
    if wanted.mtime != found.mtime {
        parts.push("its modification time differs".to_owned());
    }
    if wanted.attributes != found.attributes {
        parts.push("its extended attributes differ".to_owned());
    }
    parts.join("; ")
}
