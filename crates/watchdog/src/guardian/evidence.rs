//! What is kept of an emergency: the tree, the history, what tripped.
//!
//! Reading `/proc` can block, and so can a disk, so a disposable copy of the guardian does it; the guardian waits for the
//! copy's look at the tree for a bounded time and never for the disk.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use crate::JobObjectManager;
use crate::job::linux::{Child, fork, leave, let_go_of_descriptors, procfs, ready};
use crate::job::{Isolation, Limits, Process, Tier};
use crate::ladder::Breach;
use crate::monitor::{Peak, Sample};
use crate::stop::StopReport;

/// How long the guardian waits for the look at the tree.
const CAPTURE_BUDGET: Duration = Duration::from_millis(50);
/// How many copies of the guardian write at the same time.
const HELPERS: usize = 4;
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

/// Writes evidence down. Called in a process of its own, which may block and fail as it likes.
pub trait Recorder {
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
pub(super) struct Writing<'a> {
    pub(super) recorder: &'a dyn Recorder,
    pub(super) state_dir: PathBuf,
}

/// The copies of the guardian that are still writing.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    running: Vec<Child>,
}

impl Helpers {
    /// Lets a copy of this process gather evidence and write it down. Returns when it has gathered, or the time is over.
    pub(super) fn capture(&mut self, gather: impl FnOnce() -> Evidence, writing: &Writing<'_>) {
        self.reap();
        if self.running.len() >= HELPERS {
            return;
        }
        let Ok((gathered, gathering)) = pipe_with(PipeFlags::CLOEXEC) else { return };
        match fork() {
            Ok(None) => {
                let mut evidence = gather();
                // Only here, in the copy: a process can keep its reader waiting.
                for process in &mut evidence.tree {
                    process.arguments = procfs::arguments(process.id);
                }
                // Above all not the job's lock: the disk may keep this copy waiting for long.
                std::mem::forget(gathering);
                let_go_of_descriptors();
                writing.recorder.record(&writing.state_dir, &evidence);
                leave(0);
            }
            Ok(Some(child)) => {
                drop(gathering);
                // The end of the pipe is the sign; whatever else happens, the kill goes on.
                ready::readable(&gathered, CAPTURE_BUDGET);
                self.running.push(child);
            }
            Err(_) => {}
        }
    }

    /// Lets a copy of this process do something that may keep it waiting for a disk. Whether it was done, and done well, within
    /// `wait`; if not, it goes on by itself.
    pub(super) fn attempt(&mut self, wait: Duration, work: impl FnOnce() -> bool) -> bool {
        match fork() {
            Ok(None) => leave(i32::from(!work())),
            Ok(Some(child)) => {
                let well = ended_well(&child, wait);
                if well.is_none() {
                    self.running.push(child);
                }
                well == Some(true)
            }
            // No process to be had: the latch is worth the wait.
            Err(_) => work(),
        }
    }

    /// Forgets the copies that have ended.
    fn reap(&mut self) {
        self.running.retain(|child| ended_well(child, Duration::ZERO).is_none());
    }

    /// Waits for the copies that are still writing, at most `wait` for all of them. Then they are on their own.
    pub(super) fn finish(&mut self, wait: Duration) {
        let deadline = std::time::Instant::now() + wait;
        for child in self.running.drain(..) {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let _ = ended_well(&child, left);
        }
    }
}

/// Whether the copy has ended, and with code 0; `None` if it has not within `wait`.
fn ended_well(child: &Child, wait: Duration) -> Option<bool> {
    use rustix::io::Errno;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    ready::readable(&child.fd, wait);
    match waitid(WaitId::PidFd(child.fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(Some(status)) => Some(status.exit_status() == Some(0)),
        // Reaped elsewhere: it has ended, and nobody knows how.
        Err(Errno::CHILD) => Some(false),
        _ => None,
    }
}
