//! The guardians' evidence, in the critical-failure log.

use std::path::Path;

use estop_recovery::{CriticalFailure, CriticalFailureLog, IncidentId};
use estop_watchdog::guardian::{Evidence, Recorder};
use serde_json::{Value, json};

use super::ballast;
use crate::site::critical_failures;

/// Writes evidence into the critical-failure log of the state directory.
#[derive(Clone, Copy, Debug)]
pub struct LogRecorder;

impl Recorder for LogRecorder {
    fn record(&self, state_dir: &Path, evidence: &Evidence) {
        // This runs in a copy of a guardian whose job is just being ended: there is nobody left to tell of a failure.
        let entry = entry(evidence);
        let _ = ballast::with(state_dir, || CriticalFailureLog::open(&critical_failures(state_dir))?.append(&entry));
    }
}

fn entry(evidence: &Evidence) -> CriticalFailure {
    let values = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let mut entry = CriticalFailure::new(evidence.event.clone());
    entry.workload = Some(evidence.workload.clone());
    entry.reason = Some(evidence.reason.clone());
    entry.incident = evidence.incident.as_deref().and_then(|id| id.parse::<IncidentId>().ok());
    entry.limit =
        evidence.breach.map(|breach| json!({"metric": breach.metric, "rung": breach.rung, "value": breach.limit}));
    entry.value = evidence.breach.map(|breach| json!(breach.value));
    entry.history = values(&json!(evidence.history));
    entry.tree = values(&json!(evidence.tree));
    entry.survivors = evidence.report.as_ref().map(|report| values(&json!(report.survivors))).unwrap_or_default();
    entry.more.insert("job".to_owned(), json!(evidence.job));
    entry.more.insert("tier".to_owned(), json!(evidence.tier));
    entry.more.insert("isolation".to_owned(), json!(evidence.isolation));
    entry.more.insert("limits".to_owned(), json!(evidence.limits));
    entry.more.insert("peak".to_owned(), json!(evidence.peak));
    if let Some(report) = &evidence.report {
        entry.more.insert("stop".to_owned(), json!(report));
    }
    entry
}
