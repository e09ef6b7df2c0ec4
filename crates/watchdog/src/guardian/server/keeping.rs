//! Having evidence kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Server;
use crate::guardian::evidence::{Evidence, Occasion, Part, Writing};
use crate::guardian::log::Log;
use crate::ladder::{Breach, Metric, Rung};
use crate::stop::StopReport;

/// The time between two warnings of the same kind.
const WARNING_PAUSE: Duration = Duration::from_mins(1);
/// How many processes are remembered for what the kernel says of them.
const REMEMBERED: usize = 1000;

pub(super) const WARNING: &str = "warning";
pub(super) const BREACH: &str = "breach";
pub(super) const NOT_PROVEN: &str = "stop-not-proven";
pub(super) const STOP: &str = "stop";

/// What was kept of the job so far.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// How many pieces.
    number: u32,
    /// The last one that is no warning.
    grave: Option<u32>,
    /// How much had been written then.
    output: u64,
    /// Processes that it is known to have had.
    pids: Vec<u32>,
    /// When each rung of each metric was warned of last.
    warned: [[Option<Instant>; Rung::ALL.len()]; Metric::ALL.len()],
}

impl Kept {
    pub(super) fn remember(&mut self, pids: Vec<u32>) {
        self.pids.extend(pids);
        self.pids.sort_unstable();
        self.pids.dedup();
        self.pids.truncate(REMEMBERED);
    }
}

impl Server {
    /// The next piece of evidence, and how it is written.
    pub(super) fn occasion(&mut self, event: &'static str, report: Option<StopReport>) -> (Occasion, Writing) {
        let spec = &self.prepared.spec;
        let log = self.prepared.log.as_ref();
        let kept = &mut self.kept;
        kept.number += 1;
        let grave = event != WARNING;
        let from = if grave { kept.output } else { 0 };
        let output = spec.log.as_ref().zip(log).and_then(|(spec, log)| {
            let (from, to) = log.part(from)?;
            Some(Part { path: spec.path.clone(), from, to })
        });
        let occasion = Occasion {
            event,
            number: kept.number,
            completes: kept.grave.filter(|_| grave && event != BREACH),
            incident: self.record.incident.clone(),
            reason: self.record.reason.clone(),
            breach: self.record.breach,
            exit: self.record.exit,
            report,
            note: spec.note.clone(),
        };
        let writing = Writing {
            recorder: self.recorder,
            state_dir: spec.state_dir.clone(),
            output,
            // What was read once is not there for the next one: a warning leaves it to what follows.
            kernel: grave.then(|| Arc::clone(&self.prepared.kernel_log)),
            pids: kept.pids.iter().copied().chain(self.prepared.job.main().map(|main| main.pid)).collect(),
        };
        if grave {
            kept.grave = Some(kept.number);
            kept.output = log.and_then(Log::written).unwrap_or_default();
        }
        (occasion, writing)
    }

    /// Keeps what there is to say about a job that a limit has frozen, for this reason.
    pub(super) fn keep_reason(&mut self, reason: String) {
        let (occasion, writing) = self.occasion(BREACH, None);
        self.keep_at(Occasion { reason, ..occasion }, &writing);
    }

    /// Keeps what it is now, before it is asked to end: if it does, nothing is left to look at.
    pub(super) fn keep_before_it_ends(&mut self) {
        if self.record.stopped_by.is_none() || self.prepared.spec.evidence_max.is_zero() {
            return;
        }
        let (occasion, writing) = self.occasion(BREACH, None);
        self.keep_at(occasion, &writing);
    }

    fn keep_at(&mut self, occasion: Occasion, writing: &Writing) {
        let job = &self.prepared.job;
        let pids = self.helpers.capture(|| Evidence::gather(job, occasion), writing);
        self.kept.remember(pids);
    }

    /// Keeps what there is to say about how its stop went.
    pub(super) fn keep_report(&mut self, event: &'static str) {
        let (occasion, writing) = self.occasion(event, self.record.report.clone());
        let evidence = Evidence::gather(&self.prepared.job, occasion);
        self.helpers.write(evidence, &writing);
    }

    /// One that trembles around its threshold must not fill the log.
    pub(super) fn warn(&mut self, breach: Breach) {
        let warned = &mut self.kept.warned[breach.metric as usize][breach.rung as usize];
        if warned.is_some_and(|at| at.elapsed() < WARNING_PAUSE) {
            return;
        }
        *warned = Some(Instant::now());
        let (occasion, writing) = self.occasion(WARNING, None);
        let occasion = Occasion { incident: None, reason: breach.to_string(), breach: Some(breach), ..occasion };
        self.keep_at(occasion, &writing);
    }
}
