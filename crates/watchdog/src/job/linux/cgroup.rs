//! One cgroup v2, and the v1 groups that limit and count where a hierarchy is v1.
//!
//! See `Documentation/admin-guide/cgroup-v2.rst` of the Linux sources for the files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::controllers::{Cpu, Io, Memory, Pids, Version};
use super::counters::{Lines, members};
use super::pressure::Waiting;
use super::{procfs, ready};
use crate::error::Context as _;
use crate::job::{Enforced, JobSpec, Limits, Together, Way};
use crate::ladder::Thresholds;
use crate::monitor::Reading;
use crate::registry::CgroupId;
use crate::{Error, Result};

/// The group below which all jobs of all instances stand.
pub(super) const ROOT: &str = "estop";
/// The group that this process goes into where its own is to hand controllers on.
const ASIDE: &str = "estop-self";
/// Why what all jobs may have together cannot be kept.
pub(super) const TOGETHER: &str =
    "only the cgroup controllers `memory`, `cpu` and `pids` keep it; run estop as root, or have them delegated";
/// What `cgroup.events` says of a group that nothing is in.
const EMPTY: &[u8] = b"populated 0";
/// How often a busy `rmdir` is tried again.
const REMOVE_TRIES: u32 = 50;

/// A job's cgroup. All that the kill needs is open.
#[derive(Debug)]
pub(super) struct Cgroup {
    id: CgroupId,
    dir: File,
    kill: File,
    freeze: File,
    events: File,
    members: File,
    stat: Option<File>,
    cpu_stat: File,
    memory: Option<Memory>,
    pids: Option<Pids>,
    cpu: Option<Cpu>,
    io: Option<Io>,
    pressure: Waiting,
    controllers: Vec<PathBuf>,
    /// How many of its processes are estop's own.
    own: u64,
}

/// What a cgroup counts, where it has the controllers for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) io: bool,
    pub(super) swap: bool,
    pub(super) throttled: bool,
}

/// Where the cgroups of this process's jobs are, if there are any. Makes nothing.
///
/// # Errors
/// Why there can be none.
pub(super) fn place() -> std::result::Result<PathBuf, String> {
    let mount = procfs::cgroup_mount(None).ok_or("no cgroup v2 is mounted")?;
    let base = if rustix::process::geteuid().is_root() {
        mount
    } else {
        // A user's service manager may have delegated the group that this process is in.
        let own = procfs::cgroup(std::process::id()).ok_or("this process is in no cgroup v2")?;
        let own = mount.join(own.trim_start_matches('/'));
        // Whoever stepped aside for its jobs stands one level below.
        if own.ends_with(ASIDE) { own.parent().unwrap_or(&own).to_owned() } else { own }
    };
    let root = base.join(ROOT);
    match fs::metadata(&root) {
        // Another user's estop may have made it first.
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => {
            Err(format!("{} belongs to user {}", root.display(), metadata.uid()))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot look at {}: {error}", root.display()))
        }
        _ => Ok(root),
    }
}

/// Lets the group of this process hand its controllers on to those of jobs, where a service manager has delegated it to an ordinary
/// user: a group with processes of its own cannot, so this process goes into one below. Only if it is alone there. Whether it
/// did.
pub fn step_aside() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    let Ok(root) = place() else { return false };
    let Some(base) = root.parent().filter(|base| !base.join(ASIDE).exists()) else { return false };
    let alone = fs::read_to_string(base.join("cgroup.procs")).is_ok_and(|members| {
        let own = std::process::id().to_string();
        members.lines().all(|member| member == own)
    });
    let aside = base.join(ASIDE);
    // Where it is not this user's group, or nothing is handed on anyway, all stays as it is.
    alone
        && has_controllers(base)
        && fs::create_dir(&aside).is_ok()
        && fs::write(aside.join("cgroup.procs"), std::process::id().to_string()).is_ok()
}

fn has_controllers(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.controllers")).is_ok_and(|list| !list.trim().is_empty())
}

/// Whether a group can hand controllers on: one with processes of its own would become the root of a threaded subtree instead, in
/// which no process can be started. The root of the hierarchy, which has no type, can do both.
fn may_hand_on(group: &Path) -> bool {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    members.trim().is_empty() || !group.join("cgroup.type").exists()
}

/// Where this process can make cgroups for jobs, as it has tried with one that is gone again: whatever is tried at the place
/// itself, another estop's last job may just be taking away.
///
/// # Errors
/// Why it cannot.
pub(super) fn root() -> std::result::Result<PathBuf, String> {
    let root = place()?;
    let own = procfs::identity(std::process::id()).ok_or("/proc does not show this process")?;
    let trial = root.with_file_name(format!("{ROOT}-{}-{}", own.pid, own.start_time));
    fs::create_dir(&trial).map_err(|error| format!("cannot create {}: {error}", trial.display()))?;
    let missing = ["cgroup.kill", "cgroup.freeze"].into_iter().find(|file| !trial.join(file).exists());
    let _ = fs::remove_dir(&trial);
    missing.map_or(Ok(root), |file| Err(format!("the kernel has no {file}")))
}

/// Makes the job's group in that of its `instance`, whose last job may just be taking that and the level above away.
fn create_group(instance: &Path, spec: &JobSpec) -> io::Result<PathBuf> {
    const TRIES: u32 = 100;
    let group = instance.join(format!("{}.{}", spec.name, spec.id));
    let mut tries = 0;
    loop {
        tries += 1;
        match fs::create_dir_all(instance).and_then(|()| fs::create_dir(&group)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
            made => return made.map(|()| group),
        }
    }
}

/// The group of all jobs of `instance` below `root`.
pub(super) fn instance_dir(root: &Path, instance: &str) -> PathBuf {
    root.join(instance)
}

impl Cgroup {
    /// Makes an empty cgroup for `spec` below `root` and sets its limits, in which `own` processes of estop's do not count.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn create(root: &Path, spec: &JobSpec, own: u64) -> Result<Self> {
        let instance = instance_dir(root, &spec.instance);
        let path = create_group(&instance, spec).on("create a cgroup in", &instance)?;
        // Each level hands the controllers on. Where they belong to v1, or may not be had, the kernel refuses.
        for level in [root.parent().unwrap_or(root), root, &instance] {
            if !may_hand_on(level) {
                break;
            }
            for controller in ["+memory", "+pids", "+cpu", "+io"] {
                let _ = fs::write(level.join("cgroup.subtree_control"), controller);
            }
        }
        let mut cgroup = Self { own, ..Self::open_dir(&path)? };
        let limited = cgroup.open_controllers(spec).and_then(|()| cgroup.limit(spec));
        if let Err(error) = limited {
            cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    fn limit(&mut self, spec: &JobSpec) -> Result<()> {
        if let Some(together) = &spec.together {
            self.limit_together(together)?;
        }
        let path = self.id.path.clone();
        self.set_limits(&spec.limits).on("limit", &path)
    }

    /// Sets what all jobs of the instance may have together, by the group that they are all in. It goes with the last of them.
    fn limit_together(&self, together: &Together) -> Result<()> {
        let Together { memory_max, cpu_max, pids_max } = *together;
        let controllers = self.memory.is_some() && self.cpu.is_some() && self.pids.is_some();
        if let Some(limit) = together.first().filter(|_| !controllers) {
            return Err(Error::Unenforceable { limit, reason: TOGETHER });
        }
        let of_all = |set: std::result::Result<(), io::Error>| set.on("limit all jobs of", &self.id.path);
        // Of a sum nobody counts who is in it: the jobs' own first processes are in it too.
        of_all(self.pids.as_ref().map_or(Ok(()), |pids| pids.above().set_max(pids_max)))?;
        of_all(self.memory.as_ref().map_or(Ok(()), |memory| memory.above().set_max(memory_max)))?;
        let share = Limits { cpu_max, ..Limits::default() };
        of_all(self.cpu.as_ref().map_or(Ok(()), |cpu| cpu.above().set(&share)))
    }

    /// Opens the cgroup named by `id` to end what is in it, if it is still that one and below `root`.
    ///
    /// # Errors
    /// [`Error::Record`] if it is another one, or elsewhere; [`Error::Io`] if it is gone.
    pub(super) fn open(root: &Path, id: &CgroupId) -> Result<Self> {
        let refuse = |detail: &str| Error::Record { path: id.path.clone(), detail: detail.to_owned() };
        let below = id.path.strip_prefix(root).map_err(|_| refuse("it is not below estop's own root"))?;
        if below.components().count() != 2
            || !below.components().all(|part| matches!(part, std::path::Component::Normal(_)))
        {
            return Err(refuse("it is not a job's cgroup"));
        }
        let cgroup = Self::open_dir(&id.path)?;
        if cgroup.id != *id {
            return Err(refuse("it is another cgroup at the same place"));
        }
        Ok(cgroup)
    }

    fn open_dir(path: &Path) -> Result<Self> {
        let dir = File::open(path).on("open", path)?;
        let inode = dir.metadata().on("look at", path)?.ino();
        let write = |name: &str| OpenOptions::new().write(true).open(path.join(name)).on("open", &path.join(name));
        let read = |name: &str| File::open(path.join(name)).on("open", &path.join(name));
        Ok(Self {
            id: CgroupId { path: path.to_owned(), inode },
            kill: write("cgroup.kill")?,
            freeze: write("cgroup.freeze")?,
            events: read("cgroup.events")?,
            members: read("cgroup.procs")?,
            stat: read("cgroup.stat").ok(),
            cpu_stat: read("cpu.stat")?,
            dir,
            memory: None,
            pids: None,
            cpu: None,
            io: None,
            pressure: Waiting::of_group(path),
            controllers: Vec::new(),
            own: 0,
        })
    }

    /// Finds each controller in this hierarchy or in a v1 one. One that is nowhere is left to the monitor.
    fn open_controllers(&mut self, spec: &JobSpec) -> Result<()> {
        let path = self.id.path.clone();
        self.memory = if path.join("memory.stat").exists() {
            Some(Memory::open(&path, Version::V2)?)
        } else {
            self.v1_group("memory", spec).map(|group| Memory::open(&group, Version::V1)).transpose()?
        };
        self.pids = if path.join("pids.current").exists() {
            Some(Pids::open(&path, Version::V2)?)
        } else {
            self.v1_group("pids", spec).map(|group| Pids::open(&group, Version::V1)).transpose()?
        };
        // That of v1 leaves out what is written later than its process asked for it, which is most.
        self.io = Io::open(&path);
        self.cpu = if path.join("cpu.max").exists() {
            Some(Cpu::open(path, Version::V2))
        } else {
            self.v1_group("cpu", spec).map(|group| Cpu::open(group, Version::V1))
        };
        Ok(())
    }

    /// A group of this job's own in the v1 hierarchy of `controller`, below the one that this process is in.
    fn v1_group(&mut self, controller: &str, spec: &JobSpec) -> Option<PathBuf> {
        let mount = procfs::cgroup_mount(Some(controller))?;
        let own = procfs::own_v1_path(controller)?;
        let instance = instance_dir(&mount.join(own.trim_start_matches('/')).join(ROOT), &spec.instance);
        let group = create_group(&instance, spec).ok()?;
        self.controllers.push(group.clone());
        Some(group)
    }

    /// Names it for another process.
    pub(super) fn id(&self) -> &CgroupId {
        &self.id
    }

    /// The v1 groups beside it.
    pub(super) fn controllers(&self) -> &[PathBuf] {
        &self.controllers
    }

    /// The directory, to start a process in it.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The file that signals when it becomes empty.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Which limits the kernel enforces in it.
    pub(super) fn enforced(&self) -> Enforced {
        Enforced {
            memory: self.memory.is_some(),
            cpu: self.cpu.is_some(),
            pids: self.pids.is_some(),
            cpu_weight: self.cpu.is_some(),
            // A limit of one process, and one on devices without their numbers, cgroups do not have.
            process_memory: false,
            io: false,
        }
    }

    /// Puts the new process `pid`, which has not begun to run the program, into it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn enter(&self, pid: u32) -> io::Result<()> {
        fs::write(self.id.path.join("cgroup.procs"), pid.to_string())
    }

    /// Puts the new process `pid`, which has not begun to run the program, into the v1 groups.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn adopt(&self, pid: u32) -> io::Result<()> {
        self.controllers.iter().try_for_each(|group| fs::write(group.join("cgroup.procs"), pid.to_string()))
    }

    /// Sets the limits that are given, and lifts those that are not.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn set_limits(&mut self, limits: &Limits) -> io::Result<()> {
        if let Some(memory) = &self.memory {
            memory.set_max(limits.memory_max)?;
            memory.slow(None)?;
        }
        if let Some(pids) = &mut self.pids {
            pids.set_max(limits.pids_max.map(|max| max.saturating_add(self.own)))?;
        }
        if let Some(io) = self.io.as_mut().filter(|io| io.slowed()) {
            io.slow(None)?;
        }
        self.cpu.as_ref().map_or(Ok(()), |cpu| cpu.set(limits))
    }

    /// Freezes or thaws it. Does not wait.
    pub(super) fn set_frozen(&self, frozen: bool) {
        // A failure shows in the wait for the state, and a kill reaches a running job as well.
        let _ = rustix::io::pwrite(&self.freeze, if frozen { b"1" } else { b"0" }, 0);
    }

    /// Writes to `cgroup.kill` once.
    pub(super) fn kill(&self) {
        // A failure shows in the wait for the cgroup to be empty, and an interruption is over by the next round.
        let _ = rustix::io::pwrite(&self.kill, b"1", 0);
    }

    /// How many of the workload's processes are in it. From open files; no allocation. Those in groups below it, which nobody but the
    /// workload makes, are counted with their threads.
    pub(super) fn count(&self) -> u64 {
        let nested = self.stat.as_ref().and_then(|stat| Lines::of(stat).get(b"nr_descendants")).unwrap_or(0) > 0;
        let all = match &self.pids {
            Some(pids) if nested => pids.count(),
            None if nested => self.processes().len() as u64,
            _ => 0,
        };
        members(&self.members).max(all).saturating_sub(self.own)
    }

    /// Waits until the kernel calls it frozen, at most `wait`.
    pub(super) fn wait_frozen(&self, wait: Duration) -> bool {
        self.wait_event(b"frozen 1", wait)
    }

    /// Waits until the kernel calls it empty, at most `wait`.
    pub(super) fn wait_empty(&self, wait: Duration) -> bool {
        self.wait_event(EMPTY, wait)
    }

    /// Waits until a line of `cgroup.events` reads `wanted`. No allocation: it is part of the kill path.
    fn wait_event(&self, wanted: &[u8], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        loop {
            let mut buffer = [0; 256];
            let length = match self.events.read_at(&mut buffer, 0) {
                Ok(length) => length,
                // It was removed, which is possible only while nothing is in it.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return wanted == EMPTY,
                Err(_) => 0,
            };
            if buffer[..length].split(|&byte| byte == b'\n').any(|line| line == wanted) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // The kernel signals at most one change in 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV), so this looks by itself too.
            let step = left.min(Duration::from_millis(1));
            ready::any(&mut [PollFd::new(&self.events, PollFlags::PRI)], step);
        }
    }

    /// The processes in it and below it, without those that are already exiting.
    pub(super) fn processes(&self) -> Vec<u32> {
        processes_of_group(&self.id.path)
    }

    /// Reads its counters. From open files; no allocation.
    pub(super) fn read(&mut self, thresholds: &Thresholds) -> Reading {
        let cpu_stat = Lines::of(&self.cpu_stat);
        let mut reading =
            Reading { cpu: Duration::from_micros(cpu_stat.get(b"usage_usec").unwrap_or(0)), ..Reading::default() };
        if let Some(memory) = &mut self.memory {
            memory.read(&mut reading, &thresholds.memory);
        }
        if let Some(pids) = &self.pids {
            pids.read(&mut reading);
            reading.pids = reading.pids.saturating_sub(self.own);
        }
        reading.io_bytes = self.io.as_ref().and_then(Io::bytes);
        reading.throttled = self.cpu.as_ref().and_then(|cpu| cpu.throttled(&cpu_stat));
        reading
    }

    /// What it counts beside what every cgroup does.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            io: self.io.as_ref().is_some_and(|io| io.bytes().is_some()),
            swap: self.memory.as_ref().is_some_and(Memory::counts_swap),
            throttled: self.cpu.as_ref().and_then(|cpu| cpu.throttled(&Lines::of(&self.cpu_stat))).is_some(),
        }
    }

    /// How long its tasks waited for a processor, memory, and input and output.
    pub(super) fn pressure(&self) -> &Waiting {
        &self.pressure
    }

    /// Slows it down in one way, or in that way no longer.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where it has no controller for that, or one of v1; else the kernel's answer.
    pub(super) fn slow(&mut self, limits: &Limits, way: Way, to: Option<f64>) -> io::Result<()> {
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        match way {
            Way::Cpu => {
                let cpu_max = to.map_or(limits.cpu_max, |to| Some(limits.cpu_max.map_or(to, |cores| cores.min(to))));
                self.cpu.as_ref().ok_or_else(unsupported)?.set(&Limits { cpu_max, ..*limits })
            }
            Way::Memory => self.memory.as_ref().ok_or_else(unsupported)?.slow(to),
            Way::Io => self.io.as_mut().ok_or_else(unsupported)?.slow(to),
        }
    }

    /// Whether what asks for more memory than it is to have can be kept waiting.
    pub(super) fn slows_memory(&self) -> bool {
        self.memory.as_ref().is_some_and(Memory::slows)
    }

    /// What signals when the kernel has ended a process for lack of memory, or refused a new one, and the log in which it says
    /// the latter; each with whether it does so by priority data.
    pub(super) fn refusals(&self) -> [Option<(BorrowedFd<'_>, bool)>; 3] {
        let log = self.pids.as_ref().and_then(Pids::log).map(|log| (log, false));
        [self.memory.as_ref().and_then(Memory::refusals), self.pids.as_ref().and_then(Pids::refusals), log]
    }

    /// Hears that the kernel has logged something. Whether it has refused a process here.
    pub(super) fn hear_log(&mut self) -> bool {
        self.pids.as_mut().is_some_and(Pids::hear_log)
    }

    /// Hears what the others signalled.
    pub(super) fn hear(&self) {
        if let Some(memory) = &self.memory {
            memory.hear();
        }
    }

    /// Removes it, with what is below it.
    pub(super) fn remove(&self) {
        for group in self.controllers.iter().chain([&self.id.path]) {
            remove_tree(group);
            remove_if_last(group);
        }
    }
}

/// The processes in the cgroup at `path` and below it.
pub(crate) fn processes_of_group(path: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    collect_processes(path, &mut found, 0);
    found
}

/// `cgroup.procs` lists exiting tasks as 0: those are left out, since signalling 0 would reach our own group.
fn collect_processes(path: &Path, found: &mut Vec<u32>, depth: u32) {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid > 1));
    for_each_subgroup(path, depth, |below, depth| collect_processes(below, found, depth));
}

fn remove_tree(path: &Path) {
    for_each_subgroup(path, 0, |below, _| remove_tree(below));
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(path) {
            // The last task may still be on its way out of a group that is already called empty.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(2)),
            _ => return,
        }
    }
}

/// The instance's group and estop's root go with their last job; the kernel refuses while there are others.
pub(super) fn remove_if_last(group: &Path) {
    for above in group.ancestors().skip(1).take(2) {
        if fs::remove_dir(above).is_err() {
            break;
        }
    }
}

fn for_each_subgroup(path: &Path, depth: u32, mut each: impl FnMut(&Path, u32)) {
    // Deeper than a workload could sensibly make them; a bound for a hostile one.
    const DEEPEST: u32 = 64;
    if depth >= DEEPEST {
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each(&entry.path(), depth + 1);
        }
    }
}
