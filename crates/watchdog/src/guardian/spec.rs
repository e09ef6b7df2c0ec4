//! What a guardian is told when it is started.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::health::NotifySpec;
use super::log::LogSpec;
use crate::job::{JobSpec, ProcessId, SecretFile, TERMINATE};
use crate::ladder::{Rung, Thresholds};

/// What happens when a limit is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnBreach {
    /// Freeze it and hold it (category 2).
    Freeze,
    /// Ask, wait, then kill (category 1).
    Stop,
    /// The emergency: kill, latch, recover (category 0).
    #[default]
    CriticalStop,
}

/// One way to ask a workload to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// A signal to the main process. Where there are no signals, that of POSIX's `SIGTERM` is Ctrl-Break and `WM_CLOSE`.
    Signal(i32),
    /// A further command of the program, by its number, run inside the job.
    Run(usize),
    /// A `POST` to this URL, without a body.
    Http(String),
}

/// One step of a stop that asks first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopStep {
    /// What is done.
    pub ask: Ask,
    /// How long is waited for the workload's end before the next step; after the last one it is killed.
    pub wait: Duration,
}

impl StopStep {
    /// The step of whoever says nothing else: SIGTERM, and `grace`.
    pub fn plain(grace: Duration) -> Self {
        Self { ask: Ask::Signal(TERMINATE), wait: grace }
    }
}

/// When a freeze by a limit ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThawRule {
    /// How long it lasts.
    pub after: Duration,
    /// How often that is done; one more stays until somebody thaws it.
    pub most: u32,
}

/// What a guardian does without a daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnBrainLoss {
    /// Goes on; limits hold all the same.
    #[default]
    Keep,
    /// Freezes the workload until a daemon is back.
    Freeze,
    /// Stops the workload.
    Stop,
}

/// All that a guardian needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardianSpec {
    /// The job.
    pub job: JobSpec,
    /// The run directory.
    pub run_dir: PathBuf,
    /// The state directory, which holds the latch.
    pub state_dir: PathBuf,
    /// The thresholds of the ladder.
    pub thresholds: Thresholds,
    /// What the top rung does.
    pub on_breach: OnBreach,
    /// How the workload says that it is ready and alive, if it does.
    #[serde(default)]
    pub notify: Option<NotifySpec>,
    /// How the workload is asked to end, in this order, before it is killed.
    pub stop: Vec<StopStep>,
    /// Whether it may be frozen while nobody decided to stop it. Not a database that holds others' locks.
    pub freezable: bool,
    /// The longest time of a freeze by a limit.
    pub freeze_max: Duration,
    /// When a freeze by a limit ends by itself, if it does.
    #[serde(default)]
    pub thaw: Option<ThawRule>,
    /// Time between two samples.
    pub sample_interval: Duration,
    /// How long a kill waits for the look at the processes. Zero: there is none, and what the kernel ends at once is not frozen first.
    #[serde(default = "default_evidence_max")]
    pub evidence_max: Duration,
    /// The brain, or the foreground process of `run`.
    pub brain: Option<ProcessId>,
    /// What to do when it is away for longer than `brain_loss_grace`.
    pub on_brain_loss: OnBrainLoss,
    /// How long it may be away.
    pub brain_loss_grace: Duration,
    /// The directories that it is known to write, for whoever takes snapshots of them.
    pub stores: Vec<PathBuf>,
    /// The stores that are put back after a `CRITICAL_STOP` of it.
    pub protects: Vec<String>,
    /// Where its output goes, if that is to be bounded.
    pub log: Option<LogSpec>,
    /// Secrets to be delivered as files.
    pub secret_files: Vec<SecretFile>,
    /// The identifier of the incident that a breach opens. Chosen beforehand, so that a breach needs to choose nothing.
    pub incident: String,
    /// What its recorder is told with each piece of evidence.
    #[serde(default)]
    pub note: String,
}

fn default_evidence_max() -> Duration {
    Duration::from_millis(50)
}

impl GuardianSpec {
    /// For `job` of the estop in `run_dir` and `state_dir`, without a ladder, a brain, stores or secrets: its grace is 10 s, it is sampled
    /// ten times a second and frozen for at most a minute. `incident` is the identifier of the incident that a breach opens.
    pub fn new(job: JobSpec, run_dir: PathBuf, state_dir: PathBuf, incident: String) -> Self {
        Self {
            job,
            run_dir,
            state_dir,
            thresholds: Thresholds::default(),
            on_breach: OnBreach::default(),
            notify: None,
            stop: vec![StopStep::plain(Duration::from_secs(10))],
            freezable: true,
            freeze_max: Duration::from_mins(1),
            thaw: None,
            sample_interval: Duration::from_millis(100),
            evidence_max: default_evidence_max(),
            brain: None,
            on_brain_loss: OnBrainLoss::default(),
            brain_loss_grace: Duration::ZERO,
            stores: Vec::new(),
            protects: Vec::new(),
            log: None,
            secret_files: Vec::new(),
            incident,
            note: String::new(),
        }
    }
}

/// Which event of the table a rung is.
pub(super) fn event_of(rung: Rung, on_breach: OnBreach) -> Option<super::table::Event> {
    use super::table::Event;
    match (rung, on_breach) {
        (Rung::Warn | Rung::Throttle, _) => None,
        (Rung::Freeze, _) | (Rung::Stop, OnBreach::Freeze) => Some(Event::BreachFreeze),
        (Rung::Stop, OnBreach::Stop) => Some(Event::BreachStop),
        (Rung::Stop, OnBreach::CriticalStop) => Some(Event::BreachCritical),
    }
}
