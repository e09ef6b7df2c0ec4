//! Whose a directory is, and who may use it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};

use super::tree::stat_of;

/// Whose a directory is, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ownership {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Ownership {
    /// That of `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() })
    }

    /// This user's alone, in the group of the directory above `path`.
    pub(crate) fn private(path: &Path) -> Self {
        let gid = path.parent().and_then(|parent| fs::metadata(parent).ok()).map_or(0, |parent| parent.gid());
        Self { mode: 0o700, uid: user(), gid }
    }

    /// Makes it that of `path`.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        if self.uid != user() {
            chown(path, Some(self.uid), Some(self.gid))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))
    }
}

/// Gives the owner of the directory `path` every permission on it, if that is this user.
pub(crate) fn let_owner_in(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let open = found.mode() & 0o7777 | 0o700;
    if found.uid() != user() || open == found.mode() & 0o7777 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(open))
}

/// How others than this user can use `path` itself; `None` if they can't.
pub(crate) fn exposure(path: &Path) -> io::Result<Option<String>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = stat_of(&open(path, flags, Mode::empty())?)?;
    let exposed = stat.uid != user() || stat.mode & 0o077 != 0;
    let (mode, owner) = (stat.mode, stat.uid);
    Ok(exposed.then(|| format!("its mode is {mode:o} and its owner {owner}; it must be this user's with mode 700")))
}

/// The user this process acts as.
pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}
