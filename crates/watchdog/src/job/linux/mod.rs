//! Jobs on Linux: a cgroup v2 and a PID namespace where there are both, one of them where there is one, and tracking by
//! lineage where there is neither.

mod cgroup;
mod counters;
mod cover;
mod host;
mod init;
mod instances;
pub mod procfs;
pub mod ready;
mod spawn;
mod stranded;
mod terminal;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitOptions, pidfd_send_signal, waitid};

use super::spec::{Limits, MARKER};
use super::{Enforced, Exit, Isolation, Job, JobSpec, Process, ProcessId, Proof, Tier, User};
use crate::error::Context as _;
use crate::ladder::{Metric, Steps, Thresholds};
use crate::monitor::Reading;
use crate::registry::Handle;
use crate::{Error, Result};
use cgroup::Cgroup;
pub(crate) use cgroup::processes_of_group;
pub use cgroup::step_aside;
pub use host::Host;
use init::Report;
pub use init::detach_standard_streams;
pub use instances::{Places, instances};
use procfs::Stat;
use spawn::Namespaces;
pub use spawn::{Process as Child, fork, leave, let_go_of_descriptors};
pub use stranded::{Ending, Stranded, Unrecorded, end_descendants, inherit_orphans, is_own, unrecorded};
pub use terminal::{bring_to_front, own_process_group};

/// This program's own file, also when an upgrade has put another in its place.
pub const OWN_EXECUTABLE: &str = "/proc/self/exe";
/// The share of one core that walks through `/proc` may cost for samples.
const WALKING_SHARE: f64 = 0.005;
/// How often a sweep for escapees is repeated while it finds some.
const SWEEPS: u32 = 20;

/// What a hostile workload could reach that runs as `user`, or as estop's own.
pub(super) fn isolation(user: Option<&User>) -> Isolation {
    let own = rustix::process::geteuid().as_raw();
    match user.map_or(own, |user| user.uid) {
        0 => Isolation::Root,
        uid if uid == own => Isolation::SameUid,
        _ => Isolation::SeparateUid,
    }
}

/// A job on Linux.
#[derive(Debug)]
pub struct LinuxJob {
    tier: Tier,
    cgroup: Option<Cgroup>,
    namespaces: Namespaces,
    landlock: bool,
    /// Why nothing can leave the job, if nothing can.
    confined: Option<&'static str>,
    marker: Vec<u8>,
    limits: Limits,
    child: Option<Ended>,
    main: Option<(ProcessId, OwnedFd)>,
    reports: Option<OwnedFd>,
    exit: Option<Exit>,
    /// What the further commands need, where there is no init that starts them.
    commands: Vec<spawn::Plan>,
    /// Those that run, by their number.
    beside: Vec<(usize, OwnedFd)>,
    /// Those that have ended.
    results: VecDeque<(usize, Exit)>,
    cpu: Duration,
    /// The members that the last walk found, and when it was made at which cost.
    known: Vec<ProcessId>,
    walked: Option<(Instant, Duration)>,
}

/// The process that this one is the parent of, and whether it has been reaped.
#[derive(Debug)]
struct Ended {
    id: ProcessId,
    fd: OwnedFd,
    reaped: bool,
}

impl LinuxJob {
    /// Makes the job for `spec`, empty.
    ///
    /// # Errors
    /// [`Error::TierTooLow`], or what the kernel answers.
    pub fn create(spec: &JobSpec) -> Result<Self> {
        let host = Host::probe();
        let containment = &spec.containment;
        let cgroup_root = if containment.cgroup { host.cgroup_root.clone().ok() } else { None };
        let pid = containment.pid_namespace && host.namespaces.is_ok();
        let namespaces = Namespaces {
            pid,
            mount: host.namespaces.is_ok(),
            user: host.needs_user_namespace() && host.namespaces.is_ok(),
        };
        let tier = match (&cgroup_root, pid) {
            (Some(_), _) => Tier::Kernel,
            (None, true) => Tier::Namespace,
            (None, false) => Tier::Tracked,
        };
        if let Some(required) = containment.require_tier.filter(|required| tier < *required) {
            return Err(Error::TierTooLow { offered: tier, required, reason: host.why_not(required, containment) });
        }
        // A PID namespace has an init, which is estop's.
        let cgroup = cgroup_root.map(|root| Cgroup::create(&root, spec, u64::from(pid))).transpose()?;
        // Whoever could write to another cgroup is kept out of it by Landlock, if by nothing else.
        let own_uid = rustix::process::geteuid().as_raw();
        let separate = spec.program.user.as_ref().is_some_and(|user| user.uid != own_uid && user.uid != 0);
        let may_leave = cgroup.is_some() && !separate;
        // Without a PID namespace it can name its guardian: then Landlock keeps it from signalling that.
        let landlock = (may_leave || !pid) && containment.landlock && host.landlock > 0;
        let confined = match (pid, cgroup.is_some() && separate && own_uid == 0) {
            (true, _) => Some("leaving prevented: pid namespace"),
            (_, true) => Some("leaving prevented: cgroup owned by root"),
            _ if cgroup.is_some() && landlock && procfs::cgroups_lie_below_sys() => Some("leaving prevented: landlock"),
            _ => None,
        };
        if tier == Tier::Tracked {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .doing("become the reaper of orphans")?;
        }
        Ok(Self {
            tier,
            cgroup,
            namespaces,
            landlock,
            confined,
            marker: format!("{MARKER}={}", spec.id).into_bytes(),
            limits: spec.limits,
            child: None,
            main: None,
            reports: None,
            exit: None,
            commands: Vec::new(),
            beside: Vec::new(),
            results: VecDeque::new(),
            cpu: Duration::ZERO,
            known: Vec::new(),
            walked: None,
        })
    }

    /// The processes below this one, or below the job's init.
    fn descendants(&self) -> Vec<Stat> {
        // A process that was reaped has given its PID away: what is below that PID then is not ours.
        match self.child.as_ref().filter(|child| !child.reaped) {
            Some(child) if self.namespaces.pid => procfs::descendants(&[child.id.pid]),
            None if self.namespaces.pid => Vec::new(),
            // Where the job has no cgroup, all children of the guardian are the job's.
            _ if self.cgroup.is_none() => procfs::descendants(&[std::process::id()]),
            Some(child) => {
                let mut found = procfs::descendants(&[child.id.pid]);
                found.extend(procfs::stat(child.id.pid).filter(|stat| stat.id == child.id && !stat.is_dead()));
                found
            }
            None => Vec::new(),
        }
    }

    fn members(&self) -> Vec<Stat> {
        match &self.cgroup {
            Some(cgroup) => {
                let init = self.child.as_ref().filter(|_| self.namespaces.pid).map(|child| child.id.pid);
                cgroup.processes().into_iter().filter(|pid| Some(*pid) != init).filter_map(procfs::stat).collect()
            }
            None => self.descendants(),
        }
    }

    /// The members for a sample. A walk through `/proc` costs as much as the host has processes, so it is made as often as it
    /// may cost; in between, those that are known are looked at.
    fn sampled(&mut self) -> Vec<Stat> {
        let due = self.walked.is_none_or(|(at, cost)| at.elapsed() >= cost.div_f64(WALKING_SHARE));
        if due {
            let before = Instant::now();
            let members = self.descendants();
            self.walked = Some((Instant::now(), before.elapsed()));
            self.known = members.iter().map(|stat| stat.id).collect();
            return members;
        }
        let alive = |id: &ProcessId| procfs::stat(id.pid).filter(|stat| stat.id == *id && !stat.is_dead());
        self.known.iter().filter_map(alive).collect()
    }

    fn reap_child(&mut self) -> bool {
        let Some(child) = &mut self.child else { return true };
        if child.reaped {
            return true;
        }
        let status = match waitid(WaitId::PidFd(child.fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => status,
            // Somebody else has reaped it: how it ended is not known, but it has.
            Err(rustix::io::Errno::CHILD) => {
                child.reaped = true;
                return true;
            }
            _ => return false,
        };
        child.reaped = true;
        if !self.namespaces.pid {
            self.exit = Some(Exit { code: status.exit_status(), signal: status.terminating_signal() });
        }
        true
    }

    /// Reaps the further commands that are children of this process.
    fn reap_beside(&mut self) {
        let results = &mut self.results;
        self.beside.retain(|(number, fd)| {
            let exit = match waitid(WaitId::PidFd(fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(Some(status)) => Exit { code: status.exit_status(), signal: status.terminating_signal() },
                // Somebody else has reaped it.
                Err(rustix::io::Errno::CHILD) => Exit { code: None, signal: None },
                _ => return true,
            };
            results.push_back((*number, exit));
            false
        });
    }

    /// Reaps the orphans that a subreaper inherits. Whether no child is left at all.
    fn reap_orphans(&mut self) -> bool {
        // Those whose exit is to be kept first, by their descriptors.
        self.reap_beside();
        if !self.reap_child() {
            return false;
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(errno) => return errno == rustix::io::Errno::CHILD,
            }
        }
    }

    /// What was found outside the job by lineage or marker.
    fn escapees(&self) -> Vec<Stat> {
        let members: Vec<u32> = self.cgroup.as_ref().map(Cgroup::processes).unwrap_or_default();
        let mut found = self.descendants();
        found.extend(procfs::marked(&self.marker));
        found.retain(|stat| !members.contains(&stat.id.pid));
        found.sort_by_key(|stat| stat.id.pid);
        found.dedup_by_key(|stat| stat.id.pid);
        found
    }

    /// Ends what left the job, until a look finds nothing.
    fn sweep(&self) -> Vec<Stat> {
        let mut found = self.escapees();
        for _ in 0..SWEEPS {
            if found.is_empty() {
                break;
            }
            for stat in &found {
                signal_exactly(stat.id, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(2));
            found = self.escapees();
        }
        found
    }
}

/// Signals the process `id`, and no other that was given its PID.
fn signal_exactly(id: ProcessId, signal: Signal) {
    if let Some(fd) = procfs::open(id) {
        // It may have ended meanwhile, which is what was wanted.
        let _ = pidfd_send_signal(&fd, signal);
    }
}

impl Job for LinuxJob {
    fn tier(&self) -> Tier {
        self.tier
    }

    fn enforced(&self) -> Enforced {
        self.cgroup.as_ref().map(Cgroup::enforced).unwrap_or_default()
    }

    fn spawn(&mut self, spec: &JobSpec) -> Result<()> {
        let cgroup = self.cgroup.as_ref();
        let started = spawn::spawn(spec, self.namespaces, self.landlock, cgroup.map(Cgroup::dir), |pid| {
            cgroup.map_or(Ok(()), |cgroup| cgroup.adopt(pid))
        })?;
        let gone = || Error::Containment("the new process ended at once".to_owned());
        let id = procfs::identity(started.child.pid).ok_or_else(gone)?;
        let main = match started.main {
            Some(fd) => pid_of(&fd).and_then(procfs::identity).map(|id| (id, fd)),
            None => Some((id, started.child.fd.try_clone().doing("copy a descriptor")?)),
        };
        // A program that has ended already has no identity left; its exit is still to be reported.
        self.main = main;
        self.child = Some(Ended { id, fd: started.child.fd, reaped: false });
        self.reports = started.reports;
        if !self.namespaces.pid {
            self.commands = spawn::commands(spec, self.namespaces, self.landlock)?;
        }
        Ok(())
    }

    fn main(&self) -> Option<ProcessId> {
        self.main.as_ref().map(|(id, _)| *id)
    }

    fn reap(&mut self) -> Option<Exit> {
        while let Some(report) = self.reports.as_ref().and_then(init::receive) {
            match report {
                Report::Main(exit) => self.exit = Some(exit),
                Report::Command(number, exit) => self.results.push_back((number, exit)),
            }
        }
        self.reap_child();
        self.reap_beside();
        if self.tier == Tier::Tracked {
            self.reap_orphans();
        }
        self.exit
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let (_, fd) = self.main.as_ref().ok_or_else(gone)?;
        let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(pidfd_send_signal(fd, signal)?)
    }

    fn signal_all(&self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        for stat in self.members() {
            signal_exactly(stat.id, signal);
        }
    }

    fn holds(&self, pid: u32) -> bool {
        match &self.cgroup {
            Some(cgroup) => cgroup.processes().contains(&pid),
            None => self.descendants().iter().any(|stat| stat.id.pid == pid),
        }
    }

    fn run(&mut self, command: usize) -> io::Result<()> {
        if let Some(init) = self.reports.as_ref() {
            return init::ask_to_run(init, command);
        }
        let (_, main) = self.main.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        let plan = self.commands.get(command).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let cgroup = self.cgroup.as_ref();
        let child = spawn::beside(plan, cgroup.map(Cgroup::dir), main.as_fd(), |pid| {
            cgroup.map_or(Ok(()), |cgroup| cgroup.adopt(pid))
        })?;
        self.beside.push((command, child.fd));
        Ok(())
    }

    fn take_result(&mut self) -> Option<(usize, Exit)> {
        self.results.pop_front()
    }

    fn freeze(&mut self, wait: Duration) -> bool {
        if let Some(cgroup) = &self.cgroup {
            cgroup.set_frozen(true);
            return cgroup.wait_frozen(wait);
        }
        let deadline = Instant::now() + wait;
        loop {
            let running: Vec<Stat> =
                self.descendants().into_iter().filter(|stat| !matches!(stat.state, 'T' | 't')).collect();
            if running.is_empty() {
                return true;
            }
            for stat in &running {
                signal_exactly(stat.id, Signal::STOP);
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    fn thaw(&mut self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.set_frozen(false),
            None => self.descendants().iter().for_each(|stat| signal_exactly(stat.id, Signal::CONT)),
        }
    }

    fn kill(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        if let Some(child) = self.child.as_ref().filter(|child| !child.reaped) {
            let _ = pidfd_send_signal(&child.fd, Signal::KILL);
        }
        if self.tier == Tier::Tracked {
            for stat in self.descendants() {
                signal_exactly(stat.id, Signal::KILL);
            }
        }
    }

    fn wait_empty(&mut self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        loop {
            let ended = if self.tier == Tier::Tracked { self.reap_orphans() } else { self.reap_child() };
            // Read in any case: a change that is not read wakes the guardian again and again.
            let unpopulated = self.cgroup.as_ref().is_none_or(|cgroup| cgroup.wait_empty(Duration::ZERO));
            if ended && unpopulated {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            match self.child.as_ref().filter(|child| !child.reaped) {
                Some(child) => drop(ready::readable(&child.fd, left.min(Duration::from_millis(1)))),
                None => std::thread::sleep(left.min(Duration::from_micros(200))),
            }
        }
    }

    fn prove(&mut self) -> Proof {
        let mut by = Vec::new();
        let mut survivors = Vec::new();
        let mut empty = self.is_empty();
        if empty {
            by.extend(self.cgroup.as_ref().map(|_| "cgroup.events populated 0".to_owned()));
            by.extend(self.namespaces.pid.then(|| "pid namespace ended".to_owned()));
            by.extend(
                (self.tier == Tier::Tracked).then(|| "the reaper of all its orphans has no child left".to_owned()),
            );
        } else {
            survivors.extend(self.members().iter().map(procfs::survivor));
        }
        if let Some(reason) = self.confined {
            by.push(reason.to_owned());
        } else {
            let escaped = self.sweep();
            if escaped.is_empty() {
                by.push("sweep by lineage and marker found nothing".to_owned());
            } else {
                empty = false;
                survivors.extend(escaped.iter().map(procfs::survivor));
            }
        }
        survivors.dedup_by_key(|survivor| survivor.pid);
        Proof { empty, by: if empty { by } else { Vec::new() }, survivors }
    }

    fn count(&mut self) -> u64 {
        self.members().len() as u64
    }

    fn read(&mut self, thresholds: &Thresholds) -> Reading {
        let process_steps = &thresholds.process_memory;
        if let Some(cgroup) = &self.cgroup {
            let mut reading = cgroup.read();
            let enforced = cgroup.enforced();
            if !enforced.pids {
                // The job's init is ours, not the workload's.
                reading.pids = (cgroup.processes().len() as u64).saturating_sub(self.namespaces.pid.into());
            }
            if !enforced.memory {
                reading.memory_bytes = memory_of(&self.members(), self.limits.memory_max);
            }
            if !process_steps.is_empty() {
                reading.process_memory_bytes = largest_of(&self.members(), process_steps);
            }
            if !thresholds.open_files.is_empty() {
                reading.open_files = Some(open_files_of(&self.members()));
            }
            return reading;
        }
        let members = self.sampled();
        let init = self.child.as_ref().filter(|_| self.namespaces.pid).and_then(|child| procfs::stat(child.id.pid));
        let own = if init.is_none() { procfs::stat(std::process::id()) } else { None };
        let ticks: u64 = members.iter().chain(&init).chain(&own).map(|stat| stat.ticks).sum();
        // A process whose parent does not wait for it takes its time with it: what was seen stays counted.
        self.cpu = self.cpu.max(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()));
        Reading {
            cpu: self.cpu,
            memory_bytes: memory_of(&members, self.limits.memory_max),
            process_memory_bytes: largest_of(&members, process_steps),
            open_files: (!thresholds.open_files.is_empty()).then(|| open_files_of(&members)),
            pids: members.len() as u64,
            ..Reading::default()
        }
    }

    fn processes(&self, limit: usize) -> Vec<Process> {
        self.members().iter().take(limit).map(procfs::process).collect()
    }

    fn set_limits(&mut self, limits: &Limits) -> io::Result<()> {
        self.limits = *limits;
        self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.set_limits(limits))
    }

    fn unenforceable(&self, limits: &Limits, thresholds: &Thresholds) -> Option<(&'static str, &'static str)> {
        if limits.cpu_weight.is_some() && !self.enforced().cpu_weight {
            let reason = "only the cgroup controller `cpu` does; run estop as root, or have it delegated";
            return Some(("cpu_weight", reason));
        }
        let read = self.cgroup.as_ref().map(Cgroup::read).unwrap_or_default();
        let watched = |metric: &Metric| !thresholds.of(*metric).is_empty();
        Metric::ALL.into_iter().filter(watched).find_map(|metric| {
            let (observed, reason) = match metric {
                Metric::Io => (
                    read.io_bytes.is_some(),
                    "only the cgroup v2 controller `io` counts it; run estop as root where the hierarchy is v2 alone, or have it delegated",
                ),
                Metric::Swap => (read.swap_bytes.is_some(), "only the cgroup controller `memory` counts it"),
                Metric::CpuThrottled => (read.throttled.is_some(), "only the cgroup controller `cpu` counts it"),
                Metric::CpuPressure => (read.pressure.cpu.is_some(), PRESSURE),
                Metric::MemoryPressure => (read.pressure.memory.is_some(), PRESSURE),
                Metric::IoPressure => (read.pressure.io.is_some(), PRESSURE),
                _ => (true, ""),
            };
            (!observed).then(|| (limit_of(metric), reason))
        })
    }

    fn release(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    fn descriptors(&self) -> [Option<(BorrowedFd<'_>, bool)>; 3] {
        // Each is left out once it has said its last word, or it would wake the guardian for ever.
        let child = self.child.as_ref().filter(|child| !child.reaped).map(|child| (child.fd.as_fd(), false));
        let reports = self.reports.as_ref().filter(|_| child.is_some()).map(|fd| (fd.as_fd(), false));
        [child, reports, self.cgroup.as_ref().map(|cgroup| (cgroup.events(), true))]
    }

    fn handle(&self) -> Handle {
        Handle {
            cgroup: self.cgroup.as_ref().map(|cgroup| cgroup.id().clone()),
            controllers: self.cgroup.as_ref().map(|cgroup| cgroup.controllers().to_vec()).unwrap_or_default(),
            init: self.child.as_ref().filter(|_| self.namespaces.pid).map(|child| child.id),
            main: self.main(),
            object: None,
        }
    }
}

const PRESSURE: &str = "only a cgroup v2 counts it, of a kernel with pressure stall information (`psi=1`)";

/// What cannot be enforced where `metric` cannot be observed.
fn limit_of(metric: Metric) -> &'static str {
    if metric == Metric::Io { "io_max" } else { metric.key() }
}

/// How many descriptors `members` have open, as far as they let themselves be looked at.
fn open_files_of(members: &[Stat]) -> u64 {
    members.iter().map(|stat| procfs::open_files(stat.id.pid).unwrap_or(0)).sum()
}

/// Memory of the largest of `members` in bytes. Resident memory counts pages of files too, so it can only be too high: the
/// exact figure, which costs more, is read where it would reach one of `steps`.
fn largest_of(members: &[Stat], steps: &Steps) -> u64 {
    let page = rustix::param::page_size() as u64;
    #[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 bytes is enough")]
    let matters = |resident: u64| steps.next_above(0.0).is_some_and(|lowest| resident as f64 >= lowest);
    let memory = |stat: &Stat| match stat.resident * page {
        resident if matters(resident) => procfs::undroppable_memory(stat.id.pid).unwrap_or(resident),
        resident => resident,
    };
    members.iter().map(memory).max().unwrap_or(0)
}

/// The process ID of the process that `fd` stands for.
fn pid_of(fd: &OwnedFd) -> Option<u32> {
    use std::os::fd::AsRawFd as _;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

/// Memory of `members` in bytes. Resident memory counts shared pages once for each process, so it can only be too high: the
/// exact figure, which costs more, is read where it matters.
fn memory_of(members: &[Stat], limit: Option<u64>) -> u64 {
    let resident: u64 = members.iter().map(|stat| stat.resident).sum::<u64>() * rustix::param::page_size() as u64;
    if limit.is_none_or(|limit| resident < limit / 2) {
        return resident;
    }
    members.iter().filter_map(|stat| procfs::proportional_memory(stat.id.pid)).sum()
}
