//! A limit on processes around the whole test, set before the first animal is let in.

use std::path::{Path, PathBuf};

/// Enough for the largest animal, and far from what would take the machine.
const MOST: u32 = 7000;

/// A cgroup that this process is in, with all that it starts. Gone with it.
pub(crate) struct Cage {
    above: PathBuf,
    group: PathBuf,
}

impl Cage {
    /// Goes into one where the host has the controller `pids`; else lowers this user's own limit, which root does not have.
    pub(crate) fn enter() -> Option<Self> {
        let Some(above) = own_group() else {
            assert!(!rustix::process::geteuid().is_root(), "nothing here limits the processes of root");
            let limit = rustix::process::Rlimit { current: Some(MOST.into()), maximum: Some(MOST.into()) };
            rustix::process::setrlimit(rustix::process::Resource::Nproc, limit).unwrap();
            return None;
        };
        let group = above.join(format!("zoo-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let cage = Self { above, group };
        std::fs::write(cage.group.join("pids.max"), MOST.to_string()).unwrap();
        join(&cage.group);
        Some(cage)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        join(&self.above);
        for _ in 0..1000 {
            match std::fs::remove_dir(&self.group) {
                // Until the last of its processes was reaped.
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }
}

fn join(group: &Path) {
    std::fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// The group of this process in the hierarchy that limits processes, if it may make others below it.
fn own_group() -> Option<PathBuf> {
    use estop_watchdog::job::linux::procfs::{cgroup, cgroup_mount, own_v1_path};

    let inside = |mount: PathBuf, path: &str| mount.join(path.trim_start_matches('/'));
    let first = cgroup_mount(Some("pids")).zip(own_v1_path("pids")).map(|(mount, path)| inside(mount, &path));
    let second = cgroup_mount(None).zip(cgroup(std::process::id())).map(|(mount, path)| inside(mount, &path));
    let offers = |group: &PathBuf| {
        let probe = group.join(format!("zoo-probe-{}", std::process::id()));
        let made = std::fs::create_dir(&probe).is_ok();
        let limits = probe.join("pids.max").exists();
        if made {
            std::fs::remove_dir(&probe).unwrap();
        }
        made && limits
    };
    first.filter(offers).or_else(|| second.filter(offers))
}
