//! What a job is to be: the program, its limits and how it is contained.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Enforced, Tier};
use crate::ladder::{Metric, Step, Steps, Thresholds};

/// A string of the operating system, which need not be Unicode: its bytes on Unix, its UTF-16 in little endian on Windows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// As the operating system's string.
    pub fn to_os_string(&self) -> OsString {
        #[cfg(unix)]
        return std::os::unix::ffi::OsStringExt::from_vec(self.0.clone());
        #[cfg(windows)]
        {
            let units: Vec<u16> = self.0.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            std::os::windows::ffi::OsStringExt::from_wide(&units)
        }
    }
}

impl<T: Into<OsString>> From<T> for Bytes {
    fn from(text: T) -> Self {
        let text: OsString = text.into();
        #[cfg(unix)]
        return Self(std::os::unix::ffi::OsStringExt::into_vec(text));
        #[cfg(windows)]
        Self(std::os::windows::ffi::OsStrExt::encode_wide(text.as_os_str()).flat_map(u16::to_le_bytes).collect())
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_os_string())
    }
}

/// Another user to run as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary group IDs.
    pub groups: Vec<u32>,
}

/// What to run.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The command and its arguments.
    pub argv: Vec<Bytes>,
    /// The whole environment. May hold secrets: not shown by `Debug`.
    pub environment: Vec<(Bytes, Bytes)>,
    /// Where it starts; the guardian's own directory if absent.
    pub directory: Option<PathBuf>,
    /// The user it runs as; estop's own if absent.
    pub user: Option<User>,
    /// Put it into this process group, so that it shares the caller's terminal. Without one it gets a session of its own.
    pub process_group: Option<u32>,
    /// Signals that it ignores from the start, as the caller does.
    pub ignored_signals: Vec<i32>,
    /// Further commands that are run inside the job when they are called for, by their number: to ask it to end, say. They get
    /// estop's own environment: that of the program may hold secrets, and is kept by nobody.
    #[serde(default)]
    pub commands: Vec<Vec<Bytes>>,
    /// Its `oom_score_adj`, where it is not to be this process's own.
    #[serde(default)]
    pub oom_score: Option<String>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("argv", &self.argv).field("user", &self.user).finish_non_exhaustive()
    }
}

/// A secret that is put into a file of the workload's own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// The file's name in the directory of secrets.
    pub file: String,
    /// The secret's name, for whoever replaces the file.
    pub secret: String,
    /// Its content.
    pub value: Vec<u8>,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretFile({})", self.file)
    }
}

/// What a `cpu_weight` may be.
pub const CPU_WEIGHTS: RangeInclusive<u32> = 1..=10_000;
/// The `cpu_weight` of a job that is given none.
pub const CPU_WEIGHT_DEFAULT: u32 = 100;
/// Where the monitor enforces a rate, measuring is not exact to the last tick.
const RATE_TOLERANCE: f64 = 1.05;

/// The limits of a job. What the kernel cannot enforce here is enforced by the monitor; what neither can, is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_max: Option<u64>,
    /// Cores: 1.0 is one core.
    pub cpu_max: Option<f64>,
    /// Processes and threads.
    pub pids_max: Option<u64>,
    /// Run time.
    pub time_max: Option<Duration>,
    /// Memory of each process, in bytes.
    #[serde(default)]
    pub process_memory_max: Option<u64>,
    /// The share of the processors that it has where several jobs want them, against that of the others: one of
    /// [`CPU_WEIGHTS`]. Those without one have [`CPU_WEIGHT_DEFAULT`].
    #[serde(default)]
    pub cpu_weight: Option<u32>,
    /// CPU time of all its processes together.
    #[serde(default)]
    pub cpu_time_max: Option<Duration>,
    /// Bytes read and written in a second, on all volumes together.
    #[serde(default)]
    pub io_max: Option<u64>,
}

impl Limits {
    /// The first limit that is zero, with which nothing could run: its name.
    pub fn zero(&self) -> Option<&'static str> {
        let zero = [
            ("memory_max", self.memory_max == Some(0)),
            ("cpu_max", self.cpu_max.is_some_and(|cores| cores <= 0.0)),
            ("pids_max", self.pids_max == Some(0)),
            ("time_max", self.time_max.is_some_and(|time| time.is_zero())),
            ("process_memory_max", self.process_memory_max == Some(0)),
            ("cpu_weight", self.cpu_weight == Some(0)),
            ("cpu_time_max", self.cpu_time_max.is_some_and(|time| time.is_zero())),
            ("io_max", self.io_max == Some(0)),
        ];
        zero.into_iter().find_map(|(name, zero)| zero.then_some(name))
    }

    /// The first of the limits that a kernel can enforce and this one does not: its name.
    pub(crate) fn left_to_the_monitor(&self, enforced: Enforced) -> Option<&'static str> {
        let left = [
            ("memory_max", self.memory_max.is_some() && !enforced.memory),
            ("cpu_max", self.cpu_max.is_some() && !enforced.cpu),
            ("pids_max", self.pids_max.is_some() && !enforced.pids),
            ("process_memory_max", self.process_memory_max.is_some() && !enforced.process_memory),
            ("io_max", self.io_max.is_some() && !enforced.io),
        ];
        left.into_iter().find_map(|(name, left)| left.then_some(name))
    }

    /// `thresholds` with the limits on top of them, and shares of the limits turned into values. A rate that the kernel enforces
    /// slows the job down and is never breached.
    pub(crate) fn on_top_of(&self, thresholds: &Thresholds, enforced: Enforced) -> Thresholds {
        let mut thresholds = *thresholds;
        for metric in Metric::ALL {
            let limit = self.of(metric);
            let top = match metric {
                // The limit itself may be used up; the one that would exceed it is the breach.
                Metric::Pids => limit.map(|pids| pids + 1.0),
                Metric::Cpu => limit.filter(|_| !enforced.cpu).map(|rate| rate * RATE_TOLERANCE),
                Metric::Io => limit.filter(|_| !enforced.io).map(|rate| rate * RATE_TOLERANCE),
                _ => limit,
            };
            let steps = thresholds.of_mut(metric);
            *steps = Steps { max: top.map(Step::at), ..steps.resolved(limit) };
        }
        thresholds
    }

    /// The limit on `metric`, in its unit.
    fn of(&self, metric: Metric) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 is enough")]
        let whole = |number: u64| number as f64;
        let seconds = |time: Duration| time.as_secs_f64();
        match metric {
            Metric::Memory => self.memory_max.map(whole),
            Metric::Cpu => self.cpu_max,
            Metric::Pids => self.pids_max.map(whole),
            Metric::Time => self.time_max.map(seconds),
            Metric::ProcessMemory => self.process_memory_max.map(whole),
            Metric::CpuTime => self.cpu_time_max.map(seconds),
            Metric::Io => self.io_max.map(whole),
            _ => None,
        }
    }
}

/// What all jobs of one instance may have together. Only the kernel can keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Together {
    /// The most memory, in bytes.
    pub memory_max: Option<u64>,
    /// The largest share of the processors, in cores.
    pub cpu_max: Option<f64>,
    /// The most processes and threads.
    pub pids_max: Option<u64>,
}

impl Together {
    /// The first that is set.
    pub fn first(&self) -> Option<&'static str> {
        let set = [
            ("together.memory_max", self.memory_max.is_some()),
            ("together.cpu_max", self.cpu_max.is_some()),
            ("together.pids_max", self.pids_max.is_some()),
        ];
        set.into_iter().find_map(|(name, set)| set.then_some(name))
    }
}

/// How the program is contained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own that a person can lift")]
pub struct Containment {
    /// Refuse to run with less than this.
    pub require_tier: Option<Tier>,
    /// Refuse to run where the kernel does not enforce a limit that a kernel can.
    #[serde(default)]
    pub enforce_by_kernel: bool,
    /// Use a cgroup where there is one.
    pub cgroup: bool,
    /// Use a PID namespace where there is one.
    pub pid_namespace: bool,
    /// Let it gain privileges, as `sudo` does.
    pub new_privileges: bool,
    /// Keep it by Landlock and seccomp from leaving its cgroup and from its guardian, where nothing else does.
    pub landlock: bool,
    /// Directories that it must not see.
    pub cover: Vec<PathBuf>,
}

impl Default for Containment {
    fn default() -> Self {
        Self {
            require_tier: None,
            enforce_by_kernel: false,
            cgroup: true,
            pid_namespace: true,
            new_privileges: false,
            landlock: true,
            cover: Vec::new(),
        }
    }
}

/// A job to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job's name.
    pub name: String,
    /// An identifier that no other job ever had. Stands in the environment of every process of the job, as `ESTOP_JOB`.
    pub id: String,
    /// Which estop it belongs to: names the group of its jobs in the system.
    pub instance: String,
    /// What to run.
    pub program: Program,
    /// Its limits.
    pub limits: Limits,
    /// What all jobs of its instance may have together; `None` of one that has no say in it, and leaves that as it is.
    #[serde(default)]
    pub together: Option<Together>,
    /// How it is contained.
    pub containment: Containment,
    /// Whether somebody counts what it writes to its standard output and error.
    #[serde(default)]
    pub output_counted: bool,
    /// The directory of its secret files, if it has any. It stays visible inside a covered directory.
    pub secrets_dir: Option<PathBuf>,
}

/// The variable that marks every process of a job.
pub(super) const MARKER: &str = "ESTOP_JOB";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all() -> Limits {
        Limits {
            memory_max: Some(1000),
            cpu_max: Some(2.0),
            pids_max: Some(10),
            time_max: Some(Duration::from_secs(20)),
            process_memory_max: Some(100),
            cpu_weight: Some(50),
            cpu_time_max: Some(Duration::from_secs(5)),
            io_max: Some(4000),
        }
    }

    #[test]
    fn limits_stand_on_top_of_the_ladder() {
        let at = |stop: f64| Steps { stop: Some(stop.into()), warn: Some(1.0.into()), ..Steps::default() };
        let half = Steps { warn: Some(Step { of_max: true, ..Step::at(0.5) }), ..Steps::default() };
        let ladder = Thresholds { memory: at(900.0), process_memory: half, ..Thresholds::default() };
        let thresholds = all().on_top_of(&ladder, Enforced::default());
        assert_eq!(thresholds.memory, Steps { max: Some(1000.0.into()), ..at(900.0) });
        assert_eq!(thresholds.process_memory.warn, Some(50.0.into()));
        let tops = [Metric::ProcessMemory, Metric::Pids, Metric::Time, Metric::CpuTime, Metric::Cpu, Metric::Io]
            .map(|metric| thresholds.of(metric).max.unwrap().at);
        assert_eq!(format!("{tops:?}"), "[100.0, 11.0, 20.0, 5.0, 2.1, 4200.0]");
        let none = Limits::default().on_top_of(&ladder, Enforced::default());
        assert_eq!((none.memory, none.process_memory), (at(900.0), Steps::default()), "a share of no limit is none");
    }

    /// A rate that the kernel keeps is never exceeded; what it refuses beyond a limit is a breach.
    #[test]
    fn a_rate_that_the_kernel_enforces_is_not_watched() {
        let enforced =
            Enforced { memory: true, cpu: true, pids: true, process_memory: true, cpu_weight: true, io: true };
        let thresholds = all().on_top_of(&Thresholds::default(), enforced);
        assert_eq!((thresholds.cpu.max, thresholds.io.max), (None, None));
        assert_eq!((thresholds.memory.max, thresholds.process_memory.max), (Some(1000.0.into()), Some(100.0.into())));
        assert_eq!(thresholds.cpu_time.max, Some(5.0.into()), "nothing but the monitor counts it");
    }

    #[test]
    fn each_limit_of_zero_is_named() {
        assert_eq!(all().zero(), None);
        let zero = |change: fn(&mut Limits)| {
            let mut limits = all();
            change(&mut limits);
            limits.zero()
        };
        assert_eq!(zero(|limits| limits.process_memory_max = Some(0)), Some("process_memory_max"));
        assert_eq!(zero(|limits| limits.cpu_weight = Some(0)), Some("cpu_weight"));
        assert_eq!(zero(|limits| limits.cpu_time_max = Some(Duration::ZERO)), Some("cpu_time_max"));
        assert_eq!(zero(|limits| limits.io_max = Some(0)), Some("io_max"));
    }

    /// Those that an older guardian or brain wrote.
    #[test]
    fn limits_without_the_newer_ones_are_read() {
        let old = r#"{"memory_max":1,"cpu_max":null,"pids_max":null,"time_max":null}"#;
        assert_eq!(serde_json::from_str::<Limits>(old).unwrap(), Limits { memory_max: Some(1), ..Limits::default() });
        let enforced: Enforced = serde_json::from_str(r#"{"memory":true,"cpu":true,"pids":true}"#).unwrap();
        assert!(enforced.pids && !enforced.io);
    }
}
