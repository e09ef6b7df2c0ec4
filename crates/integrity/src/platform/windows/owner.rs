//! Whose a directory is, and who may use it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ADD_FILE, FILE_ADD_SUBDIRECTORY, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES, READ_CONTROL, WRITE_DAC,
};

use super::meta::{give_rights, read_attributes};
use super::security;
use crate::state::Attribute;

/// What a program needs that puts files into a directory.
pub(super) const TO_USE: u32 = FILE_LIST_DIRECTORY | FILE_ADD_FILE | FILE_ADD_SUBDIRECTORY;

/// Whose a directory is, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ownership(Vec<Attribute>);

impl Ownership {
    /// That of `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let rights = read_attributes(&open(path, READ_CONTROL | FILE_READ_ATTRIBUTES)?)?;
        Ok(Self(rights.into_iter().filter(|attribute| attribute.name.starts_with(b"security.")).collect()))
    }

    /// This user's alone, as directories are made here.
    pub(crate) fn private(_path: &Path) -> Self {
        Self(Vec::new())
    }

    /// Makes it that of `path`.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        give_rights(&open(path, READ_CONTROL | WRITE_DAC | FILE_READ_ATTRIBUTES)?, &self.0)
    }
}

/// Lets this user use the directory `path`, if its rules forbid that and it is this user's.
pub(crate) fn let_owner_in(path: &Path) -> io::Result<()> {
    match open(path, TO_USE) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            security::let_owner_in(&open(path, WRITE_DAC)?)
        }
        other => other.map(drop),
    }
}

/// How others than this user can use `path` itself; `None` if they can't.
pub(crate) fn exposure(path: &Path) -> io::Result<Option<String>> {
    let is_private = estop_durable::access::is_private(&open(path, READ_CONTROL)?)?;
    let detail = "its access rules must name nobody but this user, the administrators and the system";
    Ok((!is_private).then(|| detail.to_owned()))
}

fn open(path: &Path, access: u32) -> io::Result<File> {
    let flags = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT;
    OpenOptions::new().access_mode(access).custom_flags(flags).open(path)
}
