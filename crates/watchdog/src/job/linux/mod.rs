//! Jobs on Linux: a cgroup v2 and a PID namespace where there are both, one of them where there is one, and tracking by
//! lineage where there is neither.

mod cgroup;
pub mod clock;
mod confinement;
mod controllers;
mod counters;
mod cover;
mod host;
mod init;
mod instances;
pub mod kmsg;
mod members;
mod pinned;
mod pressure;
pub mod procfs;
pub mod ready;
mod refuse;
mod sample;
mod spawn;
mod stacks;
mod stranded;
mod terminal;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, pidfd_send_signal, waitid};

use super::spec::{Limits, MARKER};
use super::{
    DESCRIPTORS, Enforced, Exit, Isolation, Job, JobSpec, PLACES_OF_LIMITS, Process, ProcessId, Proof, Reach, Tier,
    Together, User, Way, Woken,
};
use crate::error::Context as _;
use crate::ladder::Thresholds;
use crate::monitor::{PRESSURES, Reading};
use crate::registry::Handle;
use crate::{Error, Result};
use cgroup::Cgroup;
pub(crate) use cgroup::processes_of_group;
pub use cgroup::step_aside;
use confinement::Confinement;
pub use host::Host;
use init::Report;
pub use init::detach_standard_streams;
pub use instances::{Places, instances};
use members::{Children, signal_exactly};
pub use pinned::Pinned;
pub use pressure::Trigger;
use pressure::{Triggers, Waiting};
use procfs::Seen;
pub(crate) use spawn::END_OF_COPY;
use spawn::Namespaces;
pub use spawn::{Process as Child, copy, forbid_tracing, leave, let_go_of_descriptors};
pub use stranded::{Ending, Stranded, Unrecorded, end_descendants, inherit_orphans, is_own, unrecorded};
pub use terminal::{bring_to_front, own_process_group};

/// This program's own file, also when an upgrade has put another in its place.
pub const OWN_EXECUTABLE: &str = "/proc/self/exe";

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
    /// Whether a new process is put into the cgroup before it begins, because it cannot be made in it.
    moves: bool,
    namespaces: Namespaces,
    confinement: Confinement,
    reachable: Vec<Reach>,
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
    host: Waiting,
    triggers: Triggers,
    /// Copies of this process that wait for the kernel.
    slowing: Vec<Child>,
    /// The process that holds it: in a copy of that too, which looks for it.
    holder: u32,
    /// Where it is tracked by lineage.
    children: Option<Children>,
    /// When the pressures were read last that nothing asks for.
    pressed: Option<Instant>,
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
        if let Some(limit) = spec.together.as_ref().and_then(Together::first).filter(|_| cgroup_root.is_none()) {
            return Err(Error::Unenforceable { limit, reason: cgroup::TOGETHER });
        }
        // A PID namespace has an init, which is estop's.
        let cgroup = cgroup_root.map(|root| Cgroup::create(&root, spec, u64::from(pid))).transpose()?;
        let confinement = Confinement::of(spec, &host, cgroup.is_some(), pid);
        let leaving_prevented = cgroup.is_some() && confinement.keeps_in_cgroup();
        let confined = match (pid, confinement.is_of_another_user()) {
            (true, _) => Some("leaving prevented: pid namespace"),
            (_, true) if cgroup.is_some() => Some("leaving prevented: cgroup owned by root"),
            _ if leaving_prevented => Some("leaving prevented: landlock and seccomp"),
            _ => None,
        };
        if tier == Tier::Tracked {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .doing("become the reaper of orphans")?;
        }
        Ok(Self {
            tier,
            reachable: confinement.reachable(cgroup.is_some(), namespaces),
            cgroup,
            moves: false,
            namespaces,
            confinement,
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
            host: Waiting::of_host(),
            triggers: Triggers::default(),
            slowing: Vec::new(),
            holder: std::process::id(),
            children: (tier == Tier::Tracked).then(Children::open).flatten(),
            pressed: None,
        })
    }

    /// Where a new process is made.
    fn born_in(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup.as_ref().filter(|_| !self.moves).map(Cgroup::dir)
    }

    /// Puts the new process `pid`, which has not begun, where it was not made.
    fn adopt(&self, pid: u32) -> io::Result<()> {
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        if self.moves {
            cgroup.enter(pid)?;
        }
        cgroup.adopt(pid)
    }

    fn start(&self, spec: &JobSpec) -> Result<Option<spawn::Started>> {
        spawn::spawn(spec, self.namespaces, self.confinement, self.born_in(), |pid| self.adopt(pid))
    }

    fn reap_child(&mut self) -> bool {
        let Some(child) = &mut self.child else { return true };
        if child.reaped {
            return true;
        }
        let Some(reaped) = reap(&child.fd) else { return false };
        child.reaped = true;
        if !self.namespaces.pid {
            self.exit = reaped.exit().or(self.exit);
        }
        true
    }

    /// Reaps the further commands that are children of this process.
    fn reap_beside(&mut self) {
        let results = &mut self.results;
        self.beside.retain(|(number, fd)| {
            let Some(reaped) = reap(fd) else { return true };
            results.push_back((*number, reaped.exit().unwrap_or(Exit { code: None, signal: None })));
            false
        });
    }

    /// Reaps the orphans that a subreaper inherits. Whether no child is left at all, beside copies of this process: the kernel
    /// speaks of those only to who asks for them.
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
}

impl Job for LinuxJob {
    fn tier(&self) -> Tier {
        self.tier
    }

    fn reachable(&self) -> Vec<Reach> {
        self.reachable.clone()
    }

    fn enforced(&self) -> Enforced {
        self.cgroup.as_ref().map(Cgroup::enforced).unwrap_or_default()
    }

    fn spawn(&mut self, spec: &JobSpec) -> Result<()> {
        let gone = || Error::Containment("the new process ended at once".to_owned());
        let mut started = self.start(spec)?;
        if started.is_none() && self.cgroup.is_some() {
            self.moves = true;
            started = self.start(spec)?;
        }
        let started = started.ok_or_else(gone)?;
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
            self.commands = spawn::commands(spec, self.namespaces, self.confinement)?;
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
        let child = spawn::beside(plan, self.born_in(), main.as_fd(), |pid| self.adopt(pid))?;
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
            let Seen { found: mut running, fault } = self.below();
            running.retain(|stat| !matches!(stat.state, 'T' | 't'));
            if running.is_empty() && fault.is_none() {
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
            if let Some(children) = &self.children {
                children.kill();
            }
            // All of them at once, as long as there are descriptors for it.
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
                None => ready::pause(left.min(Duration::from_micros(200))),
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
            // What could not be looked at may be one of them.
            empty &= escaped.found.is_empty() && escaped.fault.is_none();
            by.push("sweep by lineage and marker found nothing".to_owned());
            survivors.extend(escaped.found.iter().map(procfs::survivor));
        }
        survivors.dedup_by_key(|survivor| survivor.pid);
        stacks::tell(&mut survivors, stacks::by_copy);
        Proof { empty, by: if empty { by } else { Vec::new() }, survivors }
    }

    fn count(&mut self) -> u64 {
        self.cgroup.as_ref().map_or_else(|| self.descendants().len() as u64, Cgroup::count)
    }

    fn rehearse(&mut self) {
        // Elsewhere there is nothing that a rehearsal could get ready: the kill walks through `/proc`, or ends a process of its own.
        let Some(cgroup) = &self.cgroup else { return };
        cgroup.count();
        cgroup.set_frozen(true);
        cgroup.wait_frozen(Duration::ZERO);
        // Not the kill itself: since Linux 6.14 a group that was killed once counts that, and a process that is cloned into it by one
        // whose own group has another count is killed at birth (`cgroup_post_fork` in the kernel's `kernel/cgroup/cgroup.c`).
        cgroup.set_frozen(false);
        self.wait_empty(Duration::ZERO);
    }

    fn read(&mut self, thresholds: &Thresholds) -> Reading {
        self.sample(thresholds)
    }

    fn processes(&self, limit: usize) -> Vec<Process> {
        self.members().iter().take(limit).map(procfs::process).collect()
    }

    fn census(&self, limit: usize) -> (Vec<Process>, u64) {
        self.listed(limit)
    }

    fn set_limits(&mut self, limits: &Limits) -> io::Result<()> {
        self.limits = *limits;
        self.cgroup.as_mut().map_or(Ok(()), |cgroup| cgroup.set_limits(limits))
    }

    fn slow(&mut self, way: Way, to: Option<f64>) -> io::Result<()> {
        let cgroup = self.cgroup.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        if way != Way::Memory || to.is_none() || !cgroup.slows_memory() {
            return cgroup.slow(&self.limits, way, to);
        }
        // The kernel takes back what is beyond the bound before it answers, which can take long: a copy of this process waits for it.
        self.slowing.retain(|child| reap(&child.fd).is_none());
        match copy()? {
            None => {
                let_go_of_descriptors();
                leave(i32::from(cgroup.slow(&self.limits, way, to).is_err()))
            }
            Some(child) => self.slowing.push(child),
        }
        Ok(())
    }

    fn listen(&mut self, thresholds: &Thresholds) {
        self.triggers = Triggers::set(thresholds, self.cgroup.as_ref().map(|cgroup| cgroup.id().path.as_path()));
    }

    fn woken(&mut self, by: Woken) -> bool {
        for place in (0..PRESSURES.len()).filter(|place| by.has(FIRST_TRIGGER + place)) {
            self.triggers.fired(place, by.is_faulty(FIRST_TRIGGER + place));
        }
        if let Some(cgroup) = self.cgroup.as_ref().filter(|_| by.has(PLACES_OF_LIMITS.start)) {
            cgroup.hear();
        }
        // A line in the kernel's log is most often about somebody else.
        let logged = by.has(LOG) && self.cgroup.as_mut().is_some_and(Cgroup::hear_log);
        logged || PLACES_OF_LIMITS.into_iter().any(|place| place != LOG && by.has(place))
    }

    fn unenforceable(&self, limits: &Limits, thresholds: &Thresholds) -> Option<(&'static str, &'static str)> {
        if limits.cpu_weight.is_some() && !self.enforced().cpu_weight {
            let reason = "only the cgroup controller `cpu` does; run estop as root, or have it delegated";
            return Some(("cpu_weight", reason));
        }
        self.unobservable(thresholds)
    }

    fn release(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    fn descriptors(&self) -> [Option<(BorrowedFd<'_>, bool)>; DESCRIPTORS] {
        // Each is left out once it has said its last word, or it would wake the guardian for ever.
        let child = self.child.as_ref().filter(|child| !child.reaped).map(|child| (child.fd.as_fd(), false));
        let reports = self.reports.as_ref().filter(|_| child.is_some()).map(|fd| (fd.as_fd(), false));
        let events = self.cgroup.as_ref().map(|cgroup| (cgroup.events(), true));
        let [memory, pids, log] = self.cgroup.as_ref().map(Cgroup::refusals).unwrap_or_default();
        let mut all = [None; DESCRIPTORS];
        all[..FIRST_TRIGGER].copy_from_slice(&[child, reports, events, memory, pids, log]);
        for (place, trigger) in all[FIRST_TRIGGER..].iter_mut().zip(self.triggers.descriptors()) {
            *place = trigger.map(|fd| (fd, true));
        }
        all
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

/// The place of the first trigger among a job's descriptors. Before it stand those of the refusals.
const FIRST_TRIGGER: usize = DESCRIPTORS - PRESSURES.len();

/// The place of the kernel's log.
const LOG: usize = FIRST_TRIGGER - 1;

/// The process ID of the process that `fd` stands for.
fn pid_of(fd: &OwnedFd) -> Option<u32> {
    use std::os::fd::AsRawFd as _;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

/// A child that has ended.
#[derive(Clone, Copy, Debug)]
pub enum Reaped {
    /// So.
    As(Exit),
    /// Somebody else has reaped it: nobody knows how.
    Elsewhere,
}

impl Reaped {
    /// How it ended, if that is known.
    pub fn exit(self) -> Option<Exit> {
        match self {
            Self::As(exit) => Some(exit),
            Self::Elsewhere => None,
        }
    }
}

/// Waits for the child of this process that `fd` stands for, be it a copy of this process too.
fn wait_for(fd: &OwnedFd, options: WaitIdOptions) -> rustix::io::Result<Option<WaitIdStatus>> {
    waitid(WaitId::PidFd(fd.as_fd()), options | WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned()))
}

/// Reaps the child of this process that `fd` stands for, if it has ended.
pub fn reap(fd: &OwnedFd) -> Option<Reaped> {
    match wait_for(fd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(Some(status)) => Some(Reaped::As(Exit { code: status.exit_status(), signal: status.terminating_signal() })),
        Err(rustix::io::Errno::CHILD) => Some(Reaped::Elsewhere),
        _ => None,
    }
}
