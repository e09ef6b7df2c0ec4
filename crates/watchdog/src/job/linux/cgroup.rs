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

use super::counters::{Lines, io_bytes, number, stalled};
use super::{procfs, ready};
use crate::error::Context as _;
use crate::job::{CPU_WEIGHT_DEFAULT, Enforced, JobSpec, Limits};
use crate::monitor::{Pressure, Reading};
use crate::registry::CgroupId;
use crate::{Error, Result};

/// The group below which all jobs of all instances stand.
pub(super) const ROOT: &str = "estop";
/// The group that this process goes into where its own is to hand controllers on.
const ASIDE: &str = "estop-self";
/// The period of `cpu.max`, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// What cgroup v1 calls the weight of a group that is given none.
const CPU_SHARES_DEFAULT: u64 = 1024;
/// The most processes that the kernel can have (`PID_MAX_LIMIT`).
const PIDS_EVER: u64 = 4 << 20;
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
    cpu_stat: File,
    memory: Option<Memory>,
    pids: Option<Pids>,
    cpu: Option<Cpu>,
    io_stat: Option<File>,
    /// How long its tasks waited for a processor, memory, and input and output.
    pressure: [Option<File>; 3],
    controllers: Vec<PathBuf>,
    /// How many of its processes are estop's own.
    own: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

#[derive(Debug)]
struct Memory {
    group: PathBuf,
    version: Version,
    stat: File,
    swap: Option<File>,
    events: Option<File>,
}

#[derive(Debug)]
struct Cpu {
    group: PathBuf,
    version: Version,
    /// That of v1; that of v2 is the cgroup's own.
    stat: Option<File>,
}

#[derive(Debug)]
struct Pids {
    group: PathBuf,
    current: File,
    events: Option<File>,
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
/// user: a group with processes of its own cannot, so this process goes into one below. Only if it is alone there.
pub fn step_aside() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(root) = place() else { return };
    let Some(base) = root.parent().filter(|base| !base.join(ASIDE).exists()) else { return };
    let alone = fs::read_to_string(base.join("cgroup.procs")).is_ok_and(|members| {
        let own = std::process::id().to_string();
        members.lines().all(|member| member == own)
    });
    let aside = base.join(ASIDE);
    // Where it is not this user's group, or nothing is handed on anyway, all stays as it is.
    if alone && has_controllers(base) && fs::create_dir(&aside).is_ok() {
        let _ = fs::write(aside.join("cgroup.procs"), std::process::id().to_string());
    }
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
        let limited = cgroup.open_controllers(spec).and_then(|()| cgroup.set_limits(&spec.limits).on("limit", &path));
        if let Err(error) = limited {
            cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
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
            cpu_stat: read("cpu.stat")?,
            dir,
            memory: None,
            pids: None,
            cpu: None,
            io_stat: None,
            pressure: ["cpu.pressure", "memory.pressure", "io.pressure"].map(|name| File::open(path.join(name)).ok()),
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
            Some(Pids::open(&path)?)
        } else {
            self.v1_group("pids", spec).map(|group| Pids::open(&group)).transpose()?
        };
        // That of v1 leaves out what is written later than its process asked for it, which is most.
        self.io_stat = File::open(path.join("io.stat")).ok();
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
    pub(super) fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        if let Some(memory) = &self.memory {
            memory.set_max(limits.memory_max)?;
        }
        if let Some(pids) = &self.pids {
            // More than there can be is no limit, and no number that the kernel takes.
            let most = limits.pids_max.map(|max| max.saturating_add(self.own)).filter(|max| *max < PIDS_EVER);
            fs::write(pids.group.join("pids.max"), most.map_or("max".to_owned(), |max| max.to_string()))?;
        }
        self.cpu.as_ref().map_or(Ok(()), |cpu| cpu.set(limits))
    }

    /// Freezes or thaws it. Does not wait.
    pub(super) fn set_frozen(&self, frozen: bool) {
        // A failure shows in the wait for the state, and a kill reaches a running job as well.
        let _ = self.freeze.write_all_at(if frozen { b"1" } else { b"0" }, 0);
    }

    /// Writes to `cgroup.kill` once.
    pub(super) fn kill(&self) {
        // A failure shows in the wait for the cgroup to be empty.
        let _ = self.kill.write_all_at(b"1", 0);
    }

    /// Waits until the kernel calls it frozen, at most `wait`.
    pub(super) fn wait_frozen(&self, wait: Duration) -> bool {
        self.wait_event(b"frozen 1", wait)
    }

    /// Waits until the kernel calls it empty, at most `wait`.
    pub(super) fn wait_empty(&self, wait: Duration) -> bool {
        self.wait_event(b"populated 0", wait)
    }

    /// Waits until a line of `cgroup.events` reads `wanted`. No allocation: it is part of the kill path.
    fn wait_event(&self, wanted: &[u8], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        loop {
            let mut buffer = [0; 256];
            let length = self.events.read_at(&mut buffer, 0).unwrap_or(0);
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
    pub(super) fn read(&self) -> Reading {
        let cpu_stat = Lines::of(&self.cpu_stat);
        let mut reading =
            Reading { cpu: Duration::from_micros(cpu_stat.get(b"usage_usec").unwrap_or(0)), ..Reading::default() };
        if let Some(memory) = &self.memory {
            memory.read(&mut reading);
        }
        if let Some(pids) = &self.pids {
            reading.pids = number(&pids.current).unwrap_or(0).saturating_sub(self.own);
            reading.pids_refused = pids.events.as_ref().and_then(|events| Lines::of(events).get(b"max")).unwrap_or(0);
        }
        reading.io_bytes = self.io_stat.as_ref().and_then(io_bytes);
        reading.throttled = self.cpu.as_ref().and_then(|cpu| cpu.throttled(&cpu_stat));
        let [cpu, memory, io] = self.pressure.each_ref().map(|file| file.as_ref().and_then(stalled));
        reading.pressure = Pressure { cpu, memory, io };
        reading
    }

    /// Removes it, with what is below it.
    pub(super) fn remove(&self) {
        for group in self.controllers.iter().chain([&self.id.path]) {
            remove_tree(group);
            remove_if_last(group);
        }
    }
}

impl Memory {
    fn open(group: &Path, version: Version) -> Result<Self> {
        let stat = group.join("memory.stat");
        let events = group.join(match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        });
        Ok(Self {
            group: group.to_owned(),
            version,
            stat: File::open(&stat).on("open", &stat)?,
            swap: File::open(group.join("memory.swap.current")).ok(),
            events: File::open(events).ok(),
        })
    }

    fn set_max(&self, max: Option<u64>) -> io::Result<()> {
        match self.version {
            Version::V2 => {
                fs::write(self.group.join("memory.max"), max.map_or("max".to_owned(), |max| max.to_string()))?;
                // Swap would only delay the limit. Absent where there is no swap accounting.
                let _ = fs::write(self.group.join("memory.swap.max"), if max.is_some() { "0" } else { "max" });
                Ok(())
            }
            Version::V1 => {
                fs::write(self.group.join("memory.limit_in_bytes"), max.map_or("-1".to_owned(), |max| max.to_string()))
            }
        }
    }

    fn read(&self, reading: &mut Reading) {
        let keys: [&[u8]; 2] = match self.version {
            Version::V1 => [b"total_rss", b"total_shmem"],
            Version::V2 => [b"anon", b"shmem"],
        };
        let stat = Lines::of(&self.stat);
        reading.memory_bytes = keys.iter().filter_map(|key| stat.get(key)).sum();
        reading.swap_bytes = match self.version {
            Version::V1 => stat.get(b"total_swap"),
            Version::V2 => self.swap.as_ref().and_then(number),
        };
        reading.oom_kills = self.events.as_ref().and_then(|events| Lines::of(events).get(b"oom_kill")).unwrap_or(0);
    }
}

impl Cpu {
    fn open(group: PathBuf, version: Version) -> Self {
        let stat = if version == Version::V1 { File::open(group.join("cpu.stat")).ok() } else { None };
        Self { group, version, stat }
    }

    /// For how long its share was used up; `own` is the cgroup's `cpu.stat`.
    fn throttled(&self, own: &Lines) -> Option<Duration> {
        match self.version {
            Version::V1 => Lines::of(self.stat.as_ref()?).get(b"throttled_time").map(Duration::from_nanos),
            Version::V2 => own.get(b"throttled_usec").map(Duration::from_micros),
        }
    }

    fn set(&self, limits: &Limits) -> io::Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a number of cores times the period"
        )]
        let quota = limits.cpu_max.map(|cores| ((cores * CPU_PERIOD as f64) as u64).max(1000));
        let weight = limits.cpu_weight.unwrap_or(CPU_WEIGHT_DEFAULT);
        let write = |file: &str, text: String| fs::write(self.group.join(file), text);
        match self.version {
            Version::V2 => {
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                write("cpu.max", format!("{quota} {CPU_PERIOD}"))?;
                write("cpu.weight", weight.to_string())
            }
            Version::V1 => {
                write("cpu.cfs_period_us", CPU_PERIOD.to_string())?;
                write("cpu.cfs_quota_us", quota.map_or("-1".to_owned(), |quota| quota.to_string()))?;
                write("cpu.shares", shares_of(weight).to_string())
            }
        }
    }
}

/// A weight as cgroup v1 counts it, whose least is 2.
fn shares_of(weight: u32) -> u64 {
    (u64::from(weight) * CPU_SHARES_DEFAULT / u64::from(CPU_WEIGHT_DEFAULT)).max(2)
}

impl Pids {
    fn open(group: &Path) -> Result<Self> {
        let current = group.join("pids.current");
        Ok(Self {
            group: group.to_owned(),
            current: File::open(&current).on("open", &current)?,
            events: File::open(group.join("pids.events")).ok(),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_keeps_its_proportion_in_v1() {
        assert_eq!([1, 10, 50, 100, 200, 10_000].map(shares_of), [10, 102, 512, 1024, 2048, 102_400]);
    }
}
