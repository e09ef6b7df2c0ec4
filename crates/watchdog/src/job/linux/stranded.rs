//! Ending a job whose guardian does not: by its cgroup, by the init of its PID namespace, by the marker of its processes.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, pidfd_send_signal};

use super::cgroup::{self, Cgroup};
use super::procfs::{self, Stat};
use crate::Result;
use crate::error::Context as _;
use crate::job::spec::MARKER;
use crate::job::{ProcessId, Proof};
use crate::registry::{CgroupId, Handle};
use crate::stop::Survivor;

/// A job that is ended from outside.
#[derive(Debug)]
pub struct Stranded {
    cgroup: Option<Cgroup>,
    init: Option<(ProcessId, OwnedFd)>,
    roots: Vec<(ProcessId, OwnedFd)>,
    marker: Option<Vec<u8>>,
    owner: u32,
}

impl Stranded {
    /// Opens what `handle` names, as far as it is still that: a cgroup by its inode below estop's own root, processes by
    /// their start time and only those of `owner`, the user whose record it is (root's record may lead anywhere).
    pub fn open(handle: &Handle, id: &str, guardian: Option<ProcessId>, owner: u32) -> Self {
        let open = |id: &ProcessId| procfs::open(*id).filter(|_| belongs_to(id.pid, owner)).map(|fd| (*id, fd));
        let cgroup =
            handle.cgroup.as_ref().zip(cgroup::root().ok()).and_then(|(id, root)| Cgroup::open(&root, id).ok());
        Self {
            cgroup: cgroup.filter(|cgroup| owner == 0 || owned_by(&cgroup.id().path, owner)),
            init: handle.init.as_ref().and_then(open),
            roots: [guardian, handle.main].iter().flatten().filter_map(open).collect(),
            marker: Some(format!("{MARKER}={id}").into_bytes()),
            owner,
        }
    }

    /// A job of which only the cgroup is known.
    pub fn of_cgroup(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::symlink_metadata(path).ok()?;
        let id = CgroupId { path: path.to_owned(), inode: metadata.ino() };
        let cgroup = Cgroup::open(&cgroup::root().ok()?, &id).ok()?;
        let marker = path.file_name()?.to_str()?.rsplit_once('.').map(|(_, id)| format!("{MARKER}={id}").into_bytes());
        Some(Self { cgroup: Some(cgroup), init: None, roots: Vec::new(), marker, owner: metadata.uid() })
    }

    /// How many processes it has.
    pub fn count(&self) -> u64 {
        self.members().len() as u64
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.cgroup.as_ref().is_none_or(|cgroup| cgroup.wait_empty(Duration::ZERO))
            && self.init.as_ref().is_none_or(|(id, _)| has_ended(*id))
            && self.members().is_empty()
    }

    /// Freezes, kills until it is empty or `limit` is over, and proves it.
    pub fn end(&self, limit: Duration) -> Proof {
        let started = Instant::now();
        if let Some(cgroup) = &self.cgroup {
            cgroup.set_frozen(true);
            cgroup.wait_frozen(Duration::from_millis(100));
        }
        loop {
            self.kill();
            if self.wait_empty(Duration::from_millis(10)) || started.elapsed() >= limit {
                return self.prove();
            }
        }
    }

    /// Removes its cgroup, once it is empty.
    pub fn release(&self, controllers: &[PathBuf]) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        for group in controllers {
            let _ = std::fs::remove_dir(group);
            cgroup::remove_if_last(group);
        }
    }

    fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        if let Some((_, init)) = &self.init {
            let _ = pidfd_send_signal(init.as_fd(), Signal::KILL);
        }
        for stat in self.outside() {
            if let Some(fd) = procfs::open(stat.id) {
                let _ = pidfd_send_signal(&fd, Signal::KILL);
            }
        }
    }

    fn wait_empty(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        while !self.is_empty() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn prove(&self) -> Proof {
        let survivors: Vec<_> = self.members().iter().map(procfs::survivor).collect();
        let empty = self.is_empty();
        let mut by = Vec::new();
        if empty {
            by.extend(self.cgroup.as_ref().map(|_| "cgroup.events populated 0".to_owned()));
            by.extend(self.init.as_ref().map(|_| "pid namespace ended".to_owned()));
            by.push("sweep by lineage and marker found nothing".to_owned());
        }
        Proof { empty, by, survivors }
    }

    fn members(&self) -> Vec<Stat> {
        let mut found: Vec<Stat> = self
            .cgroup
            .as_ref()
            .map(Cgroup::processes)
            .unwrap_or_default()
            .into_iter()
            .filter_map(procfs::stat)
            .collect();
        found.extend(self.init.as_ref().map(|(id, _)| procfs::descendants(&[id.pid])).unwrap_or_default());
        found.extend(self.outside());
        found.retain(|stat| !stat.is_dead());
        found.sort_by_key(|stat| stat.id.pid);
        found.dedup_by_key(|stat| stat.id.pid);
        found
    }

    /// By lineage from the guardian and the main process, and by marker.
    fn outside(&self) -> Vec<Stat> {
        let roots: Vec<u32> =
            self.roots.iter().filter(|(id, _)| procfs::identity(id.pid) == Some(*id)).map(|(id, _)| id.pid).collect();
        let mut found = if roots.is_empty() { Vec::new() } else { procfs::descendants(&roots) };
        if let Some(marker) = &self.marker {
            found.extend(procfs::marked(marker));
        }
        found.retain(|stat| belongs_to(stat.id.pid, self.owner));
        found
    }
}

/// Makes this process the heir of what the guardian of a tracked job leaves behind when it dies.
///
/// # Errors
/// The kernel's answer.
pub fn inherit_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).doing("become the reaper of orphans")
}

/// Ends everything below this process, which has inherited it, and answers what is left after `limit`.
pub fn end_descendants(limit: Duration) -> Vec<Survivor> {
    let deadline = Instant::now() + limit;
    loop {
        // What has ended and is not reaped would hide its own children.
        while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        let left = procfs::descendants(&[std::process::id()]);
        if left.is_empty() || Instant::now() >= deadline {
            return left.iter().map(procfs::survivor).collect();
        }
        for fd in left.iter().filter_map(|stat| procfs::open(stat.id)) {
            // It may have ended meanwhile, which is what was wanted.
            let _ = pidfd_send_signal(&fd, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the process has ended, reaped or not.
fn has_ended(id: ProcessId) -> bool {
    procfs::stat(id.pid).is_none_or(|stat| stat.id != id || stat.is_dead())
}

/// Whether a record of `owner` may lead to the process `pid`.
fn belongs_to(pid: u32, owner: u32) -> bool {
    owner == 0 || owned_by(Path::new(&format!("/proc/{pid}")), owner)
}

fn owned_by(path: &Path, owner: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.uid() == owner)
}

/// The cgroups of jobs below estop's own root: of `instance`, or of all.
pub fn cgroups_below_root(instance: Option<&str>) -> (PathBuf, Vec<PathBuf>) {
    let Ok(root) = cgroup::root() else { return (PathBuf::from("no cgroup v2"), Vec::new()) };
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
    };
    let searched = instance.map_or_else(|| root.clone(), |instance| cgroup::instance_dir(&root, instance));
    let jobs = match instance {
        Some(_) => list(&searched),
        None => list(&root).iter().flat_map(|dir| list(dir)).collect(),
    };
    (searched, jobs)
}
