//! How a job ended, for whoever started it.

use std::time::Instant;

use crate::JobObjectManager;
use crate::job::Exit;
use crate::ladder::Breach;
use crate::registry::Outcome;
use crate::stop::{StopReport, StoppedBy};

/// What is remembered until the end.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) exit: Option<Exit>,
    pub(super) stopped_by: Option<StoppedBy>,
    /// When the emergency began.
    pub(super) stopped_at: Option<String>,
    pub(super) incident: Option<String>,
    pub(super) opened_incident: bool,
    pub(super) breach: Option<Breach>,
    pub(super) reason: String,
    pub(super) report: Option<StopReport>,
}

impl Record {
    /// Notes who ends the job. The gravest cause stays: an emergency is not made a stop by a stop that follows.
    pub(super) fn blame(&mut self, by: StoppedBy, reason: &str) {
        if self.stopped_by != Some(StoppedBy::CriticalStop) {
            self.stopped_by = Some(by);
            reason.clone_into(&mut self.reason);
        }
    }

    pub(super) fn outcome(&self, job: &JobObjectManager, started: Instant) -> Outcome {
        Outcome {
            schema_version: 1,
            name: job.spec().name.clone(),
            id: job.spec().id.clone(),
            tier: job.job().tier(),
            isolation: job.isolation(),
            exit: self.exit,
            stopped_by: self.stopped_by,
            stopped_at: self.stopped_at.clone(),
            incident: self.incident.clone(),
            opened_incident: self.opened_incident,
            breach: self.breach,
            reason: self.reason.clone(),
            report: self.report.clone(),
            peak: job.monitor().peak(),
            seconds: started.elapsed().as_secs_f64(),
            failure: None,
        }
    }
}
