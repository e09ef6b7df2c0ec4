//! The estops of this host that run jobs in cgroups, and where each of them lives: written on the group of its jobs, so that
//! root's `now` finds their guardians and latches too, and gone with the last job.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::cgroup;

/// Where one estop lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Its state directory.
    pub state_dir: PathBuf,
}

const RUN_DIR: &str = "user.estop.run_dir";
const STATE_DIR: &str = "user.estop.state_dir";

impl Places {
    /// Writes them on the group of the jobs of `instance`, if it has one. To be called while a job's own group is in it.
    ///
    /// # Errors
    /// The kernel's answer: before Linux 5.7 groups carry no such attributes.
    pub fn record(&self, instance: &str) -> io::Result<()> {
        let Ok(root) = cgroup::place() else { return Ok(()) };
        let group = cgroup::instance_dir(&root, instance);
        if group.is_dir() {
            setxattr(&group, RUN_DIR, self.run_dir.as_os_str().as_bytes(), XattrFlags::empty())?;
            setxattr(&group, STATE_DIR, self.state_dir.as_os_str().as_bytes(), XattrFlags::empty())?;
        }
        Ok(())
    }

    fn of(group: &Path) -> Option<Self> {
        let path = |name| {
            let mut value = vec![0; libc::PATH_MAX.cast_unsigned() as usize];
            let length = getxattr(group, name, value.as_mut_slice()).ok()?;
            value.truncate(length);
            Some(PathBuf::from(OsString::from_vec(value))).filter(|path| path.is_absolute() && path.is_dir())
        };
        Some(Self { run_dir: path(RUN_DIR)?, state_dir: path(STATE_DIR)? })
    }
}

/// Every estop that has jobs below estop's own root, as far as they have said where they live.
pub fn instances() -> Vec<Places> {
    let Ok(root) = cgroup::place() else { return Vec::new() };
    let groups = std::fs::read_dir(root).into_iter().flatten().flatten();
    groups.filter_map(|group| Places::of(&group.path())).collect()
}
