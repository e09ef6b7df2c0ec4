//! `[workload.NAME]`: a program that estop runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use estop_watchdog::guardian::{OnBrainLoss, OnBreach};
use estop_watchdog::job::Tier;
use estop_watchdog::ladder::{Steps, Thresholds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::health::Check;
use super::rung::Rung;
use super::stop::StopStep;
use super::units::{Command, Count, CpuPercent, Percent, Period, Size, Unit};

/// A program that estop runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own in the file")]
pub struct Workload {
    /// The program and its arguments. A program without a slash is looked for in PATH, one with a slash is relative to `directory`.
    pub command: Command,
    /// Where it starts. Default: the folder of the configuration file.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Variables added to its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The user it runs as, by name or number. Default: estop's own.
    #[serde(default)]
    pub user: Option<String>,
    /// The most memory the whole tree may have.
    #[serde(default)]
    pub memory_max: Option<Size>,
    /// The largest share of the processors, in percent of one core.
    #[serde(default)]
    pub cpu_max: Option<CpuPercent>,
    /// The most processes and threads.
    #[serde(default)]
    pub pids_max: Option<u64>,
    /// The longest time it may run.
    #[serde(default)]
    pub time_max: Option<Period>,
    /// The most memory each of its processes may have.
    #[serde(default)]
    pub process_memory_max: Option<Size>,
    /// Its share of the processors where several workloads want them, against theirs: 1 to 10000. One that is given none has 100.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10000))]
    pub cpu_weight: Option<u32>,
    /// The most processor time of the whole tree.
    #[serde(default)]
    pub cpu_time_max: Option<Period>,
    /// The most it may read and write in a second.
    #[serde(default)]
    pub io_max: Option<Size>,
    /// How it is asked to end, step by step, before it is killed. Default: SIGTERM (on Windows Ctrl-Break and `WM_CLOSE`), and `grace`.
    #[serde(default)]
    pub stop: Vec<StopStep>,
    /// How long a step of a stop waits that does not say how long.
    #[serde(default = "Workload::default_grace")]
    pub grace: Period,
    /// What happens when a limit is reached.
    #[serde(default)]
    pub on_breach: OnBreach,
    /// The weakest containment it may run in; less is refused.
    #[serde(default)]
    pub require_tier: Option<Tier>,
    /// Who has to enforce its limits.
    #[serde(default)]
    pub enforce: Enforce,
    /// The stores it writes. They are frozen with it while a snapshot is made.
    #[serde(default)]
    pub stores: Vec<String>,
    /// The stores that are rolled back on a `CRITICAL_STOP` of it.
    #[serde(default)]
    pub protect: Vec<String>,
    /// Secrets given in its environment: variable = name of the secret.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Secrets given as files in the folder that `$ESTOP_SECRETS_DIR` names, replaced when rotated: file = name of the secret.
    #[serde(default)]
    pub secret_files: BTreeMap<String, String>,
    /// Whether it may be frozen. Set it to false for a program that holds locks others wait for.
    #[serde(default = "yes")]
    pub freezable: bool,
    /// The longest time it is held frozen before it is stopped.
    #[serde(default = "Workload::default_freeze_max")]
    pub freeze_max: Period,
    /// How long it stays frozen when a limit has frozen it, before it is let run on. Default: until somebody thaws it.
    #[serde(default)]
    pub thaw_after: Option<Period>,
    /// How often it is let run on by `thaw_after`; frozen once more it stays so.
    #[serde(default = "Workload::default_thaw_max")]
    pub thaw_max: u32,
    /// The time between two looks at what it uses.
    #[serde(default = "Workload::default_sample_interval")]
    pub sample_interval: Period,
    /// How long a kill waits for the look at the processes that goes to the critical-failure log. 0: it does not look.
    #[serde(default = "Workload::default_evidence_max")]
    pub evidence_max: Period,
    /// How much of its output is kept: about so much of the newest.
    #[serde(default = "Workload::default_log_max")]
    pub log_max: Size,
    /// For how long its output is kept. Default: until there is too much of it.
    #[serde(default)]
    pub log_age_max: Option<Period>,
    /// Whether it is started again when it ends. Never after a `CRITICAL_STOP`.
    #[serde(default)]
    pub restart: Restart,
    /// How often it is started again within `restart_window`; beyond that it is latched.
    #[serde(default = "Workload::default_restart_max")]
    pub restart_max: u32,
    /// Over how long its restarts are counted.
    #[serde(default = "Workload::default_restart_window")]
    pub restart_window: Period,
    /// The workloads that must be ready before it is started, and that are stopped after it.
    #[serde(default)]
    pub needs: Vec<String>,
    /// How it is found out that it is ready to work. Default: it is as soon as it runs.
    #[serde(default)]
    pub ready: Option<Check>,
    /// How it is found out that it still works; if it does not, it is stopped, and started again as after a failure.
    #[serde(default)]
    pub alive: Option<Check>,
    /// What its guardian does when the daemon is gone for longer than `brain_loss_grace`.
    #[serde(default)]
    pub on_brain_loss: OnBrainLoss,
    /// How long the daemon may be gone before `on_brain_loss` applies.
    #[serde(default = "Workload::default_brain_loss_grace")]
    pub brain_loss_grace: Period,
    /// At which values it is warned about, throttled, frozen and stopped.
    #[serde(default)]
    pub limits: Limits,
    /// Whether it may gain privileges, as `sudo` and set-uid programs do.
    #[serde(default)]
    pub new_privs: bool,
    /// Whether it gets a PID namespace where the host has them: its tree then ends with its guardian.
    #[serde(default = "yes")]
    pub pid_namespace: bool,
    /// Whether Landlock and seccomp keep it from leaving its cgroup and from its guardian, where the host has them.
    #[serde(default = "yes")]
    pub landlock: bool,
    /// Whether `estop up` starts it.
    #[serde(default = "yes")]
    pub autostart: bool,
}

fn yes() -> bool {
    true
}

impl Workload {
    /// A workload that runs `command`, everything else at its default.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            directory: None,
            environment: BTreeMap::new(),
            user: None,
            memory_max: None,
            cpu_max: None,
            pids_max: None,
            time_max: None,
            process_memory_max: None,
            cpu_weight: None,
            cpu_time_max: None,
            io_max: None,
            stop: Vec::new(),
            grace: Self::default_grace(),
            on_breach: OnBreach::default(),
            require_tier: None,
            enforce: Enforce::default(),
            stores: Vec::new(),
            protect: Vec::new(),
            secrets: BTreeMap::new(),
            secret_files: BTreeMap::new(),
            freezable: true,
            freeze_max: Self::default_freeze_max(),
            thaw_after: None,
            thaw_max: Self::default_thaw_max(),
            sample_interval: Self::default_sample_interval(),
            evidence_max: Self::default_evidence_max(),
            log_max: Self::default_log_max(),
            log_age_max: None,
            restart: Restart::default(),
            restart_max: Self::default_restart_max(),
            restart_window: Self::default_restart_window(),
            needs: Vec::new(),
            ready: None,
            alive: None,
            on_brain_loss: OnBrainLoss::default(),
            brain_loss_grace: Self::default_brain_loss_grace(),
            limits: Limits::default(),
            new_privs: false,
            pid_namespace: true,
            landlock: true,
            autostart: true,
        }
    }

    fn default_restart_max() -> u32 {
        10
    }

    fn default_restart_window() -> Period {
        Period::from_secs(600)
    }

    fn default_grace() -> Period {
        Period::from_secs(10)
    }

    fn default_freeze_max() -> Period {
        Period::from_secs(3600)
    }

    fn default_thaw_max() -> u32 {
        3
    }

    fn default_evidence_max() -> Period {
        Period::from_millis(50)
    }

    fn default_sample_interval() -> Period {
        Period::from_millis(100)
    }

    fn default_log_max() -> Size {
        Size::from_bytes(64 << 20)
    }

    fn default_brain_loss_grace() -> Period {
        Period::from_secs(30)
    }

    /// The names of all secrets that it is given.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secrets.values().chain(self.secret_files.values()).map(String::as_str)
    }
}

/// Who has to enforce the limits of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Enforce {
    /// The kernel where it can, its guardian where not.
    #[default]
    Any,
    /// The kernel alone; where it cannot, the workload is refused. Of time there is only its guardian.
    Kernel,
}

/// Whether a workload is started again when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It stays ended.
    #[default]
    Never,
    /// If it ended with an error.
    OnFailure,
    /// However it ended.
    Always,
}

/// The limit ladders of a workload: `memory.stop = "2GiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// On memory.
    #[serde(default)]
    pub memory: Ladder<Size>,
    /// On the share of the processors.
    #[serde(default)]
    pub cpu: Ladder<CpuPercent>,
    /// On processes and threads.
    #[serde(default)]
    pub pids: Ladder<Count>,
    /// On the run time.
    #[serde(default)]
    pub time: Ladder<Period>,
    /// On the memory of its largest process.
    #[serde(default)]
    pub process_memory: Ladder<Size>,
    /// On the processor time.
    #[serde(default)]
    pub cpu_time: Ladder<Period>,
    /// On what it reads and writes in a second.
    #[serde(default)]
    pub io: Ladder<Size>,
    /// On memory that was swapped out.
    #[serde(default)]
    pub swap: Ladder<Size>,
    /// On the share of the time in which its `cpu_max` was used up.
    #[serde(default)]
    pub cpu_throttled: Ladder<Percent>,
    /// On the share of the time in which some of its threads waited for a processor.
    #[serde(default)]
    pub cpu_pressure: Ladder<Percent>,
    /// On the share of the time in which some of its threads waited for memory.
    #[serde(default)]
    pub memory_pressure: Ladder<Percent>,
    /// On the share of the time in which some of its threads waited for input and output.
    #[serde(default)]
    pub io_pressure: Ladder<Percent>,
    /// On the open descriptors of all its processes.
    #[serde(default)]
    pub open_files: Ladder<Count>,
    /// On what it writes to its output in a second.
    #[serde(default)]
    pub output: Ladder<Size>,
    /// On the share of the host's memory that is in use.
    #[serde(default)]
    pub host_memory: Ladder<Percent>,
    /// As `cpu_pressure`, of the whole host.
    #[serde(default)]
    pub host_cpu_pressure: Ladder<Percent>,
    /// As `memory_pressure`, of the whole host.
    #[serde(default)]
    pub host_memory_pressure: Ladder<Percent>,
    /// As `io_pressure`, of the whole host.
    #[serde(default)]
    pub host_io_pressure: Ladder<Percent>,
}

impl Limits {
    /// As the guardian is told.
    pub fn thresholds(&self) -> Thresholds {
        #[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 is enough")]
        let whole = |number: u64| number as f64;
        let bytes = |size: Size| whole(size.bytes());
        let number = |count: Count| whole(count.number());
        let seconds = |period: Period| period.duration().as_secs_f64();
        Thresholds {
            memory: self.memory.steps(bytes),
            cpu: self.cpu.steps(CpuPercent::cores),
            pids: self.pids.steps(number),
            time: self.time.steps(seconds),
            process_memory: self.process_memory.steps(bytes),
            cpu_time: self.cpu_time.steps(seconds),
            io: self.io.steps(bytes),
            swap: self.swap.steps(bytes),
            cpu_throttled: self.cpu_throttled.steps(Percent::share),
            cpu_pressure: self.cpu_pressure.steps(Percent::share),
            memory_pressure: self.memory_pressure.steps(Percent::share),
            io_pressure: self.io_pressure.steps(Percent::share),
            open_files: self.open_files.steps(number),
            output: self.output.steps(bytes),
            host_memory: self.host_memory.steps(Percent::share),
            host_cpu_pressure: self.host_cpu_pressure.steps(Percent::share),
            host_memory_pressure: self.host_memory_pressure.steps(Percent::share),
            host_io_pressure: self.host_io_pressure.steps(Percent::share),
        }
    }
}

/// The values at which each rung is reached. They may not fall.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound(serialize = "T: std::fmt::Display", deserialize = "T: Unit"))]
#[schemars(rename = "{T}Ladder")]
pub struct Ladder<T> {
    /// Say so.
    pub warn: Option<Rung<T>>,
    /// Slow it down.
    pub throttle: Option<Rung<T>>,
    /// Make it stand still.
    pub freeze: Option<Rung<T>>,
    /// Stop it, as `on_breach` says.
    pub stop: Option<Rung<T>>,
}

impl<T> Default for Ladder<T> {
    fn default() -> Self {
        Self { warn: None, throttle: None, freeze: None, stop: None }
    }
}

impl<T: Copy> Ladder<T> {
    /// The rungs that are set, lowest first, with their names.
    pub fn rungs(&self) -> impl Iterator<Item = (&'static str, Rung<T>)> + use<T> {
        [("warn", self.warn), ("throttle", self.throttle), ("freeze", self.freeze), ("stop", self.stop)]
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
    }

    /// As the guardian is told; `number` gives a value in the metric's unit.
    fn steps(self, number: impl Fn(T) -> f64 + Copy) -> Steps {
        let step = |rung: Rung<T>| rung.step(number);
        Steps {
            warn: self.warn.map(step),
            throttle: self.throttle.map(step),
            freeze: self.freeze.map(step),
            stop: self.stop.map(step),
            max: None,
        }
    }
}
