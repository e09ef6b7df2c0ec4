//! What contains a workload's whole process tree.
//!
//! [`JobObjectManager`] is the face; behind it stands one platform's [`Job`]: on Linux a cgroup, a PID namespace, or
//! both, and where there is neither, tracking by lineage and marker.

mod manager;
mod spec;

#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(windows)]
pub mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux as platform;
#[cfg(windows)]
pub(crate) use windows as platform;

use std::time::Duration;

pub use manager::JobObjectManager;
pub use spec::{
    Bytes, CPU_WEIGHT_DEFAULT, CPU_WEIGHTS, Containment, JobSpec, Limits, Program, SecretFile, Together, User,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ladder::Thresholds;
use crate::monitor::Reading;
use crate::stop::Survivor;

/// POSIX's number of the signal that asks for an end, by which all platforms are asked.
pub(crate) const TERMINATE: i32 = 15;
/// The one that cannot be refused.
pub(crate) const KILL: i32 = 9;

/// How strong a containment is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Subreaper, pidfds and a sweep: best effort.
    Tracked,
    /// A PID namespace, ended by its init.
    Namespace,
    /// A cgroup v2 or a Job Object: the kernel ends the whole tree.
    Kernel,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tracked => "tracked",
            Self::Namespace => "namespace",
            Self::Kernel => "kernel",
        })
    }
}

/// What a hostile workload could still reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// It runs under another user than estop.
    SeparateUid,
    /// It runs under estop's own user.
    SameUid,
    /// It runs as root.
    Root,
}

/// What a hostile workload could do to its guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Stop or kill its guardian.
    Signal,
    /// Trace its guardian, read and write its memory, take its descriptors.
    Ptrace,
    /// Change its guardian's priority, processors and limits.
    Renice,
    /// Have its guardian chosen where memory runs out.
    OomScore,
    /// Leave its cgroup, and with it the limits that the kernel enforces.
    LeaveCgroup,
    /// Write to estop's state and run directories.
    State,
}

/// A process, named so that a reused PID is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its process ID.
    pub pid: u32,
    /// When it was started: in clock ticks since boot on Linux, in 100 ns since 1601 on Windows.
    pub start_time: u64,
}

/// One process of a job, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Which process.
    pub id: ProcessId,
    /// Its parent's process ID.
    pub parent: u32,
    /// Its command name.
    pub command: String,
    /// Its arguments, separated by spaces, shortened.
    pub arguments: String,
    /// Its state, as `/proc` names it.
    pub state: char,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Files and sockets that it has open, as far as they were looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
}

/// How a job's main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}

/// What a job answers about its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Whether nothing of the job is left.
    pub empty: bool,
    /// What proves it.
    pub by: Vec<String>,
    /// What is left.
    pub survivors: Vec<Survivor>,
}

/// A way to slow a job down, and in what its measure is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Cores that it gets at most.
    Cpu,
    /// Bytes of memory beyond which it is kept waiting.
    Memory,
    /// Bytes a second, read and written each, on each device that it has used.
    Io,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];
}

/// How many descriptors wake a guardian up when its job changes.
pub const DESCRIPTORS: usize = 12;

/// The places of those that tell of limits: of refusals, and of pressures.
pub const PLACES_OF_LIMITS: std::ops::Range<usize> = DESCRIPTORS - 9..DESCRIPTORS;

/// Which of them did, the first being the lowest bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    all: u16,
    faulty: u16,
}

impl Woken {
    /// Adds the one at this place; whether it tells of a fault.
    pub fn by(&mut self, place: usize, fault: bool) {
        self.all |= 1 << place;
        self.faulty |= u16::from(fault) << place;
    }

    /// Whether the one at this place did.
    pub fn has(self, place: usize) -> bool {
        self.all & (1 << place) != 0
    }

    /// Whether it told of a fault.
    pub fn is_faulty(self, place: usize) -> bool {
        self.faulty & (1 << place) != 0
    }
}

/// What one platform offers for one job. Everything that the kill needs was opened when the job was made.
pub trait Job {
    /// How strong the containment is.
    fn tier(&self) -> Tier;

    /// What of its guard a hostile workload could reach, as far as is known.
    fn reachable(&self) -> Vec<Reach>;

    /// Which limits the kernel enforces by itself.
    fn enforced(&self) -> Enforced;

    /// Starts the program inside the job: it never runs an instruction outside.
    ///
    /// # Errors
    /// If it cannot be contained or executed.
    fn spawn(&mut self, spec: &JobSpec) -> crate::Result<()>;

    /// The main process, as far as the platform knows it by now.
    fn main(&self) -> Option<ProcessId>;

    /// How the main process ended, if it did. Also takes note of what else has ended.
    fn reap(&mut self) -> Option<Exit>;

    /// Sends a signal to the main process.
    ///
    /// # Errors
    /// The operating system's answer.
    fn signal(&self, signal: i32) -> std::io::Result<()>;

    /// Sends a signal to every process of the job.
    fn signal_all(&self, signal: i32);

    /// Whether the process `pid` is in it.
    fn holds(&self, pid: u32) -> bool;

    /// Starts the further command of this number inside the job.
    ///
    /// # Errors
    /// If there is none, or it cannot be started.
    fn run(&mut self, command: usize) -> std::io::Result<()>;

    /// A further command that has ended since the last call, and how.
    fn take_result(&mut self) -> Option<(usize, Exit)>;

    /// Stops all processes from running; waits at most `wait` for it. Returns whether the kernel said that they are.
    fn freeze(&mut self, wait: Duration) -> bool;

    /// Lets them run again.
    fn thaw(&mut self);

    /// One round of the kernel's kill. To be repeated until [`Job::is_empty`].
    fn kill(&mut self);

    /// Waits at most `wait` for the job to be empty. Returns whether it is.
    fn wait_empty(&mut self, wait: Duration) -> bool;

    /// Whether the job is empty now.
    fn is_empty(&mut self) -> bool {
        self.wait_empty(Duration::ZERO)
    }

    /// Looks for what is left, inside and outside, and says what proves that nothing is. Ends what it finds outside.
    fn prove(&mut self) -> Proof;

    /// Goes through what a kill does while the job is still empty: what the kernel and this program need for it is in memory then.
    fn rehearse(&mut self) {}

    /// How many processes there are.
    fn count(&mut self) -> u64;

    /// Reads the job's resources. What is dear to read is left out where no step of `thresholds` is on it.
    fn read(&mut self, thresholds: &Thresholds) -> Reading;

    /// The processes there are, at most `limit`, without their arguments.
    fn processes(&self, limit: usize) -> Vec<Process>;

    /// As [`Job::processes`], and how many more there are.
    fn census(&self, limit: usize) -> (Vec<Process>, u64) {
        let mut all = self.processes(usize::MAX);
        let omitted = all.len().saturating_sub(limit) as u64;
        all.truncate(limit);
        (all, omitted)
    }

    /// Changes the limits that the kernel enforces.
    ///
    /// # Errors
    /// The operating system's answer.
    fn set_limits(&mut self, limits: &Limits) -> std::io::Result<()>;

    /// Slows it down in one way, or in that way no longer. A change of its limits ends all of them.
    ///
    /// # Errors
    /// [`std::io::ErrorKind::Unsupported`] where that way is not to be had; else the operating system's answer.
    fn slow(&mut self, way: Way, to: Option<f64>) -> std::io::Result<()>;

    /// Has the kernel tell by itself when one of `thresholds` is reached, as far as it can.
    fn listen(&mut self, thresholds: &Thresholds);

    /// Takes note of which of [`Job::descriptors`] have woken the guardian. Whether one of them tells of a limit of this job.
    fn woken(&mut self, by: Woken) -> bool;

    /// The first of the `limits` in force that the kernel does not enforce here and the monitor cannot by `thresholds`: its
    /// name, and why.
    fn unenforceable(&self, limits: &Limits, thresholds: &Thresholds) -> Option<(&'static str, &'static str)>;

    /// Removes what the job left in the system, after it was proven empty.
    fn release(&mut self);

    /// What wakes a guardian up when the job changes: each with whether it signals by priority data.
    #[cfg(unix)]
    fn descriptors(&self) -> [Option<(std::os::fd::BorrowedFd<'_>, bool)>; DESCRIPTORS];

    /// The main process, to be waited for until it was reaped.
    #[cfg(windows)]
    fn main_handle(&self) -> Option<std::os::windows::io::BorrowedHandle<'_>>;
    /// What another process needs to end this job when its guardian cannot.
    fn handle(&self) -> crate::registry::Handle;
}

/// Which limits the kernel enforces by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is about a limit of its own")]
pub struct Enforced {
    /// `memory_max`.
    pub memory: bool,
    /// `cpu_max`.
    pub cpu: bool,
    /// `pids_max`.
    pub pids: bool,
    /// `process_memory_max`.
    #[serde(default)]
    pub process_memory: bool,
    /// `cpu_weight`. Not on Windows while the job has a `cpu_max`, in place of which it stands there.
    #[serde(default)]
    pub cpu_weight: bool,
    /// `io_max`.
    #[serde(default)]
    pub io: bool,
}
