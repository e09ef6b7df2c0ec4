//! What is kept of an emergency: the tree, the history, what tripped.
//!
//! Looking at processes can block, and so can a disk, so a disposable helper does it; the guardian waits for the look at the
//! tree for a bounded time and never for the disk.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::JobObjectManager;
use crate::job::{Isolation, Limits, Process, Tier};
use crate::ladder::Breach;
use crate::monitor::{Peak, Sample};
use crate::stop::StopReport;

/// How many processes are listed.
const TREE_LIMIT: usize = 200;
/// How many samples are kept.
const HISTORY_LIMIT: usize = 100;

/// What is kept of an emergency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `breach` before the stop, `stop` after it.
    pub event: String,
    /// The job's name.
    pub workload: String,
    /// The job's identifier.
    pub job: String,
    /// The incident that it belongs to.
    pub incident: Option<String>,
    /// Why.
    pub reason: String,
    /// What tripped.
    pub breach: Option<Breach>,
    /// How strong the containment is.
    pub tier: Tier,
    /// What a hostile workload could reach.
    pub isolation: Isolation,
    /// The limits in force.
    pub limits: Limits,
    /// The last samples, oldest first.
    pub history: Vec<Sample>,
    /// The highest values seen.
    pub peak: Peak,
    /// The processes, while they were frozen.
    pub tree: Vec<Process>,
    /// The stop's answer, after it.
    pub report: Option<StopReport>,
}

/// Writes evidence down. Called in a process or thread of its own, which may block and fail as it likes.
pub trait Recorder: Sync {
    /// Keeps one piece of evidence in the state directory.
    fn record(&self, state_dir: &Path, evidence: &Evidence);
}

impl Evidence {
    /// What there is to say about the job now.
    pub(super) fn gather(
        job: &JobObjectManager,
        event: &str,
        incident: Option<&str>,
        reason: &str,
        breach: Option<Breach>,
    ) -> Self {
        let monitor = job.monitor();
        let history: Vec<Sample> = monitor.history().copied().collect();
        let recent = history.len().saturating_sub(HISTORY_LIMIT);
        Self {
            event: event.to_owned(),
            workload: job.spec().name.clone(),
            job: job.spec().id.clone(),
            incident: incident.map(str::to_owned),
            reason: reason.to_owned(),
            breach,
            tier: job.job().tier(),
            isolation: job.isolation(),
            limits: job.spec().limits,
            history: history[recent..].to_vec(),
            peak: monitor.peak(),
            tree: job.processes(TREE_LIMIT),
            report: None,
        }
    }
}

/// Where evidence is written, and by whom.
pub(super) struct Writing {
    pub(super) recorder: &'static dyn Recorder,
    pub(super) state_dir: PathBuf,
}
