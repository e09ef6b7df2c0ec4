//! Ending a job whose guardian does not: by its cgroup, by the init of its PID namespace, by the marker of its processes.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, pidfd_send_signal};

use super::cgroup::{self, Cgroup};
use super::procfs::{self, Seen};
use super::stacks;
use crate::Result;
use crate::error::Context as _;
use crate::job::spec::MARKER;
use crate::job::{ProcessId, Proof};
use crate::registry::{CgroupId, Entry};
use crate::stop::Survivor;

/// How long an attempt is repeated that could not look at everything, or not signal it.
const DOUBT_LIMIT: Duration = Duration::from_millis(100);

/// A job that is ended from outside.
#[derive(Debug)]
pub struct Stranded {
    cgroup: Option<Cgroup>,
    init: Option<(ProcessId, OwnedFd)>,
    guardian: Option<ProcessId>,
    main: Option<ProcessId>,
    /// The processes below which others are the job's.
    roots: Vec<ProcessId>,
    marker: Option<Vec<u8>>,
    owner: u32,
    /// Whether the kernel tells of the job's end even when all its lineage is lost: by its cgroup, by the init of its PID
    /// namespace, or because its orphans are this process's children.
    told_by_kernel: bool,
    /// What could not be opened.
    doubt: Option<String>,
}

/// What is left of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
    /// Nothing was found, and this is why that proves nothing.
    Unknown(String),
}

/// How ending a job went.
#[derive(Debug)]
pub struct Ending {
    /// What proves it, or what is left.
    pub proof: Proof,
    /// Why it is not proven though nothing was found.
    pub doubt: Option<String>,
}

impl Stranded {
    /// Opens what `entry` names, as far as it is still that: a cgroup by its inode below estop's own root, processes by
    /// their start time and only those of `owner`, the user whose record it is (root's record may lead anywhere). `alive`
    /// says whether its guardian is.
    pub fn open(entry: &Entry, alive: bool, owner: u32) -> Self {
        let handle = &entry.handle;
        let mut doubts = Vec::new();
        let cgroup = handle.cgroup.as_ref().and_then(|id| {
            open_cgroup(id, owner).unwrap_or_else(|doubt| {
                doubts.push(doubt);
                None
            })
        });
        let init = handle.init.and_then(|id| {
            open_process(id, owner).unwrap_or_else(|error| {
                doubts.push(format!("cannot look at process {}: {error}", id.pid));
                None
            })
        });
        let guardian = alive.then_some(entry.guardian).filter(|id| is(*id, owner));
        let main = handle.main.filter(|id| is(*id, owner));
        let heir = IS_HEIR.load(Ordering::Relaxed).then(|| procfs::identity(std::process::id())).flatten();
        Self {
            cgroup,
            init: init.zip(handle.init).map(|(fd, id)| (id, fd)),
            guardian,
            main,
            roots: guardian.into_iter().chain(main).chain(heir).collect(),
            marker: Some(format!("{MARKER}={}", entry.id).into_bytes()),
            owner,
            told_by_kernel: handle.cgroup.is_some() || handle.init.is_some() || heir.is_some(),
            doubt: doubts.pop(),
        }
    }

    /// A job of which only the cgroup is known; `None` if that has gone.
    ///
    /// # Errors
    /// Why it cannot be opened.
    fn of_cgroup(path: &Path) -> std::result::Result<Option<Self>, String> {
        let metadata = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| format!("cannot look at {}: {error}", path.display()))?,
        };
        let owner = metadata.uid();
        let Some(cgroup) = open_cgroup(&CgroupId { path: path.to_owned(), inode: metadata.ino() }, owner)? else {
            return Ok(None);
        };
        let id = path.file_name().and_then(|name| name.to_str()?.rsplit_once('.'));
        let marker = id.map(|(_, id)| format!("{MARKER}={id}").into_bytes());
        let (init, guardian, main, roots, doubt) = (None, None, None, Vec::new(), None);
        Ok(Some(Self { cgroup: Some(cgroup), init, guardian, main, roots, marker, owner, told_by_kernel: true, doubt }))
    }

    /// How many processes it has. Reads nothing that a process could hold up.
    pub fn count(&self) -> u64 {
        self.cgroup.as_ref().map_or_else(|| self.lineage().found.len(), |cgroup| cgroup.processes().len()) as u64
    }

    /// Whether the kernel calls its cgroup empty, or that has gone.
    fn has_empty_cgroup(&self) -> bool {
        self.cgroup.as_ref().is_none_or(|cgroup| cgroup.wait_empty(Duration::ZERO) || has_gone(cgroup.id()))
    }

    /// Whether it is certain that nothing is left.
    pub fn is_over(&self) -> bool {
        self.look() == Left::Nothing
    }

    /// Freezes, kills until it is empty or `limit` is over, and proves it.
    pub fn end(&self, limit: Duration) -> Ending {
        let started = Instant::now();
        if let Some(cgroup) = &self.cgroup {
            cgroup.set_frozen(true);
            cgroup.wait_frozen(Duration::from_millis(100));
        }
        loop {
            let fault = self.kill();
            let left = self.wait(Duration::from_millis(10));
            // Trying again helps against a process that is slow to end, but not against a want of descriptors.
            let hopeless = fault.is_some() || matches!(left, Left::Unknown(_));
            let limit = if hopeless { limit.min(DOUBT_LIMIT) } else { limit };
            if left == Left::Nothing || started.elapsed() >= limit {
                return self.prove(left, fault);
            }
        }
    }

    /// Lets the guardian run again if it is stopped: there is nothing left for it to guard, and somebody waits for its end.
    pub fn wake_guardian(&self) {
        let Some(id) = self.guardian else { return };
        let stopped = procfs::stat(id.pid).is_some_and(|stat| stat.id == id && matches!(stat.state, 'T' | 't'));
        if let Some(fd) = procfs::open(id).filter(|_| stopped) {
            // It may have ended meanwhile.
            let _ = pidfd_send_signal(fd, Signal::CONT);
        }
    }

    /// Removes its cgroup and those groups of `entry` beside it that are its own, once they are empty.
    pub fn release(&self, entry: Option<&Entry>) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        let Some(entry) = entry else { return };
        for group in entry.handle.controllers.iter().filter(|group| is_own_group(group, entry, self.owner)) {
            // The kernel refuses while there is something in it.
            let _ = std::fs::remove_dir(group);
            cgroup::remove_if_last(group);
        }
    }

    /// Kills what it finds. What kept it from that, if anything did.
    fn kill(&self) -> Option<std::io::Error> {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        if let Some((_, init)) = &self.init {
            let _ = pidfd_send_signal(init.as_fd(), Signal::KILL);
        }
        let mut fault = None;
        // By lineage first: an environment cannot be read while its process holds on to its memory.
        for seen in [Self::lineage, Self::bearers] {
            for stat in seen(self).found {
                match procfs::open_exactly(stat.id) {
                    // It may have ended meanwhile, which is what was wanted.
                    Ok(fd) => drop(fd.map(|fd| pidfd_send_signal(&fd, Signal::KILL))),
                    Err(error) => fault = Some(error),
                }
            }
        }
        fault
    }

    fn wait(&self, wait: Duration) -> Left {
        let deadline = Instant::now() + wait;
        loop {
            let left = self.look();
            if left == Left::Nothing || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn look(&self) -> Left {
        if !self.has_empty_cgroup() {
            return Left::Something;
        }
        // First what no process can hold up: reading environments is not.
        let init_ended = self.init.as_ref().map_or(Ok(true), |(id, _)| has_ended(*id));
        if matches!(init_ended, Ok(false)) {
            return Left::Something;
        }
        let seen = self.members();
        if !seen.found.is_empty() {
            return Left::Something;
        }
        if let Err(error) = init_ended {
            return Left::Unknown(format!("cannot look at its init: {error}"));
        }
        if let Some(fault) = seen.fault {
            return Left::Unknown(format!("cannot look at every process: {fault}"));
        }
        if let Some(doubt) = &self.doubt {
            return Left::Unknown(doubt.clone());
        }
        let reaper_lives = self.guardian.is_some_and(|id| has_ended(id).is_ok_and(|ended| !ended));
        if self.told_by_kernel || reaper_lives {
            return Left::Nothing;
        }
        Left::Unknown(
            "its guardian has ended, and without a cgroup or a PID namespace nobody else knows what it left".to_owned(),
        )
    }

    fn prove(&self, left: Left, fault: Option<std::io::Error>) -> Ending {
        let mut survivors: Vec<_> = self.members().found.iter().map(procfs::survivor).collect();
        stacks::tell(&mut survivors, stacks::by_thread);
        let mut by = Vec::new();
        let empty = left == Left::Nothing;
        if empty {
            by.extend(self.cgroup.as_ref().map(|_| "cgroup.events populated 0".to_owned()));
            by.extend(self.init.as_ref().map(|_| "pid namespace ended".to_owned()));
            by.push("sweep by lineage and marker found nothing".to_owned());
        }
        let doubt = match left {
            Left::Unknown(doubt) => Some(doubt),
            Left::Something => fault.map(|error| format!("not every process could be signalled: {error}")),
            Left::Nothing => None,
        };
        Ending { proof: Proof { empty, by, survivors }, doubt }
    }

    fn members(&self) -> Seen {
        let (lineage, bearers) = (self.lineage(), self.bearers());
        let inside = self.cgroup.as_ref().map(Cgroup::processes).unwrap_or_default();
        let mut found: Vec<_> = inside.into_iter().filter_map(procfs::stat).collect();
        found.extend(lineage.found.into_iter().chain(bearers.found));
        found.retain(|stat| !stat.is_dead());
        found.sort_by_key(|stat| stat.id.pid);
        found.dedup_by_key(|stat| stat.id.pid);
        Seen { found, fault: lineage.fault.or(bearers.fault) }
    }

    /// What is below the guardian, the main process or the init.
    fn lineage(&self) -> Seen {
        let init = self.init.as_ref().map(|(id, _)| *id);
        let same = |id: &ProcessId| procfs::identity(id.pid) == Some(*id);
        let roots: Vec<ProcessId> = self.roots.iter().copied().chain(init).filter(same).collect();
        if roots.is_empty() {
            return Seen::default();
        }
        let below = |roots: &mut dyn Iterator<Item = &ProcessId>| {
            let roots: Vec<u32> = roots.map(|id| id.pid).collect();
            match self.guardian {
                // The copies that write for it are none of the job's.
                Some(guardian) => procfs::guarded_below(&roots, guardian.pid),
                None => procfs::below(&roots),
            }
        };
        let mut seen = below(&mut roots.iter());
        // A root that ended during the walk may have given its PID, and with it its children, to another.
        if !roots.iter().all(same) {
            seen = below(&mut roots.iter().filter(|id| same(id)));
        }
        let main = self.main.and_then(|id| procfs::stat(id.pid).filter(|stat| stat.id == id && !stat.is_dead()));
        seen.found.extend(main);
        self.of_owner(seen)
    }

    fn bearers(&self) -> Seen {
        self.of_owner(self.marker.as_ref().map(|marker| procfs::bearing(marker)).unwrap_or_default())
    }

    fn of_owner(&self, mut seen: Seen) -> Seen {
        let fault = &mut seen.fault;
        seen.found.retain(|stat| {
            belongs_to(stat.id.pid, self.owner).unwrap_or_else(|error| {
                *fault = Some(error);
                false
            })
        });
        seen
    }
}

/// The cgroup `id` of a job of `owner`; `None` if it has gone, and with it all that was in it.
fn open_cgroup(id: &CgroupId, owner: u32) -> std::result::Result<Option<Cgroup>, String> {
    let opened = cgroup::place().and_then(|root| Cgroup::open(&root, id).map_err(|error| error.to_string()));
    match opened {
        Ok(cgroup) if owner == 0 || owned_by(&id.path, owner) => Ok(Some(cgroup)),
        // Looked at once more: what has just been removed has no user either.
        Ok(_) if has_gone(id) => Ok(None),
        Ok(_) => Err(format!("{} is not of the user whose record names it", id.path.display())),
        Err(_) if has_gone(id) => Ok(None),
        Err(doubt) => Err(doubt),
    }
}

/// Whether a cgroup is no more, or another one stands at its place. One is removed only when nothing is in it.
fn has_gone(id: &CgroupId) -> bool {
    match std::fs::symlink_metadata(&id.path) {
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        Ok(metadata) => metadata.ino() != id.inode,
    }
}

/// The process `id` of `owner`; `None` if it has ended or is not theirs.
fn open_process(id: ProcessId, owner: u32) -> std::io::Result<Option<OwnedFd>> {
    Ok(if belongs_to(id.pid, owner)? { procfs::open_exactly(id)? } else { None })
}

/// Whether `id` lives and is `owner`'s.
fn is(id: ProcessId, owner: u32) -> bool {
    procfs::identity(id.pid) == Some(id) && belongs_to(id.pid, owner).unwrap_or(false)
}

/// Whether `group` is one that the job of `entry` made for itself in a v1 hierarchy, and not a place that its record, which
/// `owner` could write, just names.
fn is_own_group(group: &Path, entry: &Entry, owner: u32) -> bool {
    let tail: PathBuf = [cgroup::ROOT, &entry.instance, &format!("{}.{}", entry.name, entry.id)].iter().collect();
    let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let in_hierarchy = ["memory", "pids", "cpu"]
        .iter()
        .filter_map(|controller| procfs::cgroup_mount(Some(controller)))
        .any(|mount| group.strip_prefix(mount).is_ok_and(plain));
    plain(&tail) && tail.iter().count() == 3 && in_hierarchy && group.ends_with(&tail) && owned_by(group, owner)
}

/// Whether this process inherits what a guardian leaves.
static IS_HEIR: AtomicBool = AtomicBool::new(false);

/// Makes this process the heir of what the guardian of a tracked job leaves behind when it dies.
///
/// # Errors
/// The kernel's answer.
pub fn inherit_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).doing("become the reaper of orphans")?;
    IS_HEIR.store(true, Ordering::Relaxed);
    Ok(())
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
fn has_ended(id: ProcessId) -> std::io::Result<bool> {
    Ok(procfs::look(id.pid)?.is_none_or(|stat| stat.id != id || stat.is_dead()))
}

/// Whether a record of `owner` may lead to the process `pid`.
fn belongs_to(pid: u32, owner: u32) -> std::io::Result<bool> {
    Ok(owner == 0 || procfs::user(pid)? == Some(owner))
}

fn owned_by(path: &Path, owner: u32) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.uid() == owner)
}

/// The jobs that no record leads to.
#[derive(Debug, Default)]
pub struct Unrecorded {
    /// Where they were looked for.
    pub searched: Vec<String>,
    /// What was found, with the names of the jobs.
    pub found: Vec<(String, Stranded)>,
    /// Why that may not be all.
    pub doubts: Vec<String>,
}

/// Looks for jobs by the cgroups below estop's own root: of `instance`, or of all; those whose names are `wanted`. Of those that
/// are `settled`, since their guardians have proven them empty, only those that are not empty again: to prove it takes a look at
/// every process of the host.
pub fn unrecorded(instance: Option<&str>, wanted: &dyn Fn(&str) -> bool, settled: &[PathBuf]) -> Unrecorded {
    let groups = cgroups_below_root(instance);
    let searched = vec![groups.searched.display().to_string()];
    let mut unrecorded = Unrecorded { searched, doubts: groups.doubts, ..Unrecorded::default() };
    for path in groups.found {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = file_name.rsplit_once('.').map_or(file_name.as_str(), |(name, _)| name).to_owned();
        match wanted(&name).then(|| Stranded::of_cgroup(&path)) {
            Some(Ok(Some(stranded))) if settled.contains(&path) && stranded.has_empty_cgroup() => {}
            Some(Ok(Some(stranded))) => unrecorded.found.push((name, stranded)),
            Some(Err(doubt)) => unrecorded.doubts.push(format!("{name}: {doubt}")),
            Some(Ok(None)) | None => {}
        }
    }
    unrecorded
}

/// Whether a record is this user's.
pub fn is_own(owner: u32) -> bool {
    owner == rustix::process::geteuid().as_raw()
}

/// The cgroups of jobs below estop's own root, of `instance` or of all, and what could not be looked through.
#[derive(Debug, Default)]
struct Groups {
    searched: PathBuf,
    found: Vec<PathBuf>,
    /// Why that may not be all.
    doubts: Vec<String>,
}

/// Looks for the cgroups of jobs below estop's own root: of `instance`, or of all.
fn cgroups_below_root(instance: Option<&str>) -> Groups {
    let Ok(root) = cgroup::place() else {
        // A host without them has no jobs in them; one that cannot be asked might.
        let doubts =
            std::fs::read("/proc/self/mountinfo").err().map(|error| format!("cannot look for cgroups: {error}"));
        return Groups { searched: "no cgroup v2".into(), doubts: doubts.into_iter().collect(), ..Groups::default() };
    };
    let searched = instance.map_or_else(|| root.clone(), |instance| cgroup::instance_dir(&root, instance));
    let mut groups = Groups { searched: searched.clone(), ..Groups::default() };
    let above = if instance.is_some() { vec![searched] } else { groups.list(&root) };
    for dir in above {
        let jobs = groups.list(&dir);
        groups.found.extend(jobs);
    }
    groups
}

impl Groups {
    fn list(&mut self, dir: &Path) -> Vec<PathBuf> {
        let list = || -> std::io::Result<Vec<PathBuf>> {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                found.extend(entry.file_type()?.is_dir().then(|| entry.path()));
            }
            Ok(found)
        };
        match list() {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.doubts.push(format!("cannot list {}: {error}", dir.display()));
                Vec::new()
            }
        }
    }
}
