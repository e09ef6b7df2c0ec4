//! A cgroup of the test's own, gone with all that is in it, whatever becomes of the test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static MADE: AtomicU32 = AtomicU32::new(0);

/// A cgroup right below the root of the host's cgroup v2.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" cgroup2 ")).and_then(|line| line.split(' ').nth(1));
        let name = format!("test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let group = Path::new(mount.expect("no cgroup v2 is mounted")).join(name);
        std::fs::create_dir(&group).unwrap();
        Self(group)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Hands it over as a service manager does: processes in it and groups below it are `user`'s to manage, its limits are not.
    pub(crate) fn delegate(&self, user: u32) {
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            std::os::unix::fs::chown(self.0.join(file), Some(user), Some(user)).unwrap();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        remove(&self.0);
    }
}

fn remove(group: &Path) {
    for inner in std::fs::read_dir(group).into_iter().flatten().flatten().filter(|inner| inner.path().is_dir()) {
        remove(&inner.path());
    }
    for _ in 0..1000 {
        match std::fs::remove_dir(group) {
            // Until the last of its processes was reaped.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}
