//! The guardians' evidence, in the critical-failure log, without the secrets that a workload was given.

use std::path::{Path, PathBuf};

use estop_recovery::{CriticalFailure, CriticalFailureLog, IncidentId};
use estop_secrets::ExposureLedger;
use estop_watchdog::guardian::{Evidence, Recorder};
use estop_watchdog::job::Process;
use serde_json::{Value, json};

use super::ballast;
use super::keys::ledger_in;
use super::masks::Masks;
use crate::failure::{Failure, Result};
use crate::site::{Choice, Site, critical_failures};

/// Writes evidence into the critical-failure log of the state directory.
#[derive(Clone, Copy, Debug)]
pub struct LogRecorder;

impl LogRecorder {
    /// What a guardian of `site` is to hand to its recorder: where the configuration is that names the store of secrets.
    pub fn note(site: &Site) -> String {
        if !site.configured {
            return String::new();
        }
        let origin = std::path::absolute(site.config.origin()).unwrap_or_else(|_| site.config.origin().to_owned());
        // One that is no text is not found again: then what could hold a secret is left out.
        origin.to_string_lossy().into_owned()
    }
}

impl Recorder for LogRecorder {
    fn record(&self, state_dir: &Path, evidence: &Evidence) {
        let mut masks = Masks::default();
        let ledger: ExposureLedger = ledger_in(state_dir);
        let read = masks.read(&ledger, &evidence.workload, || site_of(state_dir, &evidence.note));
        let entry = entry(evidence, read.map(|()| &masks));
        // This runs in a copy of a guardian whose job is just being ended: there is nobody left to tell of a failure.
        let _ = ballast::with(state_dir, || CriticalFailureLog::open(&critical_failures(state_dir))?.append(&entry));
    }
}

/// The estop that `note` is from.
fn site_of(state_dir: &Path, note: &str) -> Result<Site> {
    let state_dir = Some(state_dir.to_owned());
    if note.is_empty() {
        return Site::unconfigured(&Choice { state_dir, ..Choice::default() });
    }
    Site::find(&Choice { config: Some(PathBuf::from(note)), state_dir, run_dir: None })
}

/// The entry of the log. Whatever the workload could have put a secret into is masked, and left out where the secrets are not
/// known.
fn entry(evidence: &Evidence, masks: Result<&Masks>) -> CriticalFailure {
    let mut entry = CriticalFailure::new(evidence.event.clone());
    entry.workload = Some(evidence.workload.clone());
    entry.incident = evidence.incident.as_deref().and_then(|id| id.parse::<IncidentId>().ok());
    entry.limit =
        evidence.breach.map(|breach| json!({"metric": breach.metric, "rung": breach.rung, "value": breach.limit}));
    entry.value = evidence.breach.map(|breach| json!(breach.value));
    entry.history = list(json!(evidence.history));
    let mut more = json!({
        "number": evidence.number, "completes": evidence.completes, "job": evidence.job, "tier": evidence.tier,
        "isolation": evidence.isolation, "limits": evidence.limits, "peak": evidence.peak, "exit": evidence.exit,
        "tree_omitted": evidence.tree_omitted, "unfinished": evidence.unfinished,
    });
    let (mut tree, mut report) = (json!(evidence.tree), json!(evidence.report));
    let (mut reason, mut output, mut kernel) =
        (json!(evidence.reason), output(evidence, masks.as_ref().ok().copied()), json!(evidence.kernel));
    match masks {
        Ok(masks) => {
            for value in [&mut reason, &mut tree, &mut report, &mut kernel] {
                mask(value, masks);
            }
        }
        Err(failure) => {
            withhold(&mut tree);
            (output, kernel) = (Value::Null, Value::Null);
            more["withheld"] = withheld("arguments, open files, sockets, output and the kernel's lines", &failure);
        }
    }
    entry.reason = reason.as_str().map(str::to_owned);
    entry.survivors = list(report.get("survivors").cloned().unwrap_or_default());
    entry.tree = list(tree);
    for (key, value) in [("output", output), ("kernel", kernel), ("stop", report)] {
        if !value.is_null() {
            more[key] = value;
        }
    }
    if let Value::Object(more) = more {
        entry.more.extend(more);
    }
    entry
}

/// Adds `processes` to an entry of `site` about `workload`, without the secrets that it was given.
pub fn add_tree(entry: &mut CriticalFailure, site: &Site, workload: &str, processes: &[Process]) {
    let (mut masks, mut tree) = (Masks::default(), json!(processes));
    match masks.read(&ledger_in(&site.state_dir), workload, || Ok(site.clone())) {
        Ok(()) => mask(&mut tree, &masks),
        Err(failure) => {
            withhold(&mut tree);
            entry.more.insert("withheld".to_owned(), withheld("arguments", &failure));
        }
    }
    entry.tree = list(tree);
}

/// Leaves out of `tree` what could hold a secret.
fn withhold(tree: &mut Value) {
    for process in tree.as_array_mut().into_iter().flatten() {
        for key in ["arguments", "open", "sockets"] {
            process.as_object_mut().map(|process| process.remove(key));
        }
    }
}

fn withheld(what: &str, failure: &Failure) -> Value {
    json!(format!("{what}, since secrets could not be masked: {failure}"))
}

/// The last lines, masked as a whole: a secret may have several.
fn output(evidence: &Evidence, masks: Option<&Masks>) -> Value {
    let (Some(last), Some(masks)) = (&evidence.output, masks) else { return Value::Null };
    let text = masks.apply_to_part(&last.text);
    let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    json!({"lines": lines, "omitted_bytes": last.omitted_bytes})
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

/// Masks every text in `value`.
fn mask(value: &mut Value, masks: &Masks) {
    match value {
        Value::String(text) => *text = String::from_utf8_lossy(&masks.apply_to_part(text.as_bytes())).into_owned(),
        Value::Array(list) => list.iter_mut().for_each(|value| mask(value, masks)),
        Value::Object(fields) => fields.values_mut().for_each(|value| mask(value, masks)),
        _ => {}
    }
}
