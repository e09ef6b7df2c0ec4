//! What is looked at after a drill, independently of what the incident says.

use std::time::{Duration, Instant};

use estop_integrity::verify::sqlite_integrity;
use estop_recovery::Incident;
use estop_secrets::{SecretName, StoreError, Version};
use estop_watchdog::guardian::Watched;
use estop_watchdog::job::ProcessId;
use serde::Serialize;

use super::agent::PROCESSES;
use super::knowledge::{self, DATABASE};
use super::stage::{Acted, FIRST_VALUE, SECRET, Stage};
use crate::engine::keys::Keys;
use crate::engine::launch::block_on;
use crate::platform::processes::marked;

/// How long a heart that still beat would have to show it.
const HEARTBEAT_WAIT: Duration = Duration::from_millis(100);

/// One thing that had to hold.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What.
    pub(super) what: &'static str,
    /// Whether it did.
    pub(super) held: bool,
    /// What was found.
    pub(super) found: String,
}

/// Looks at everything.
pub(super) fn all(stage: &Stage, acted: &Acted, incident: &Incident) -> Vec<Check> {
    vec![
        went_wrong(stage),
        processes(stage, acted),
        stop(acted),
        files(stage),
        database(stage),
        secret(stage),
        notified(stage),
        recorded(stage, incident),
    ]
}

fn check(what: &'static str, held: bool, found: impl Into<String>) -> Check {
    Check { what, held, found: found.into() }
}

/// A drill in which nothing was ruined would prove nothing.
fn went_wrong(stage: &Stage) -> Check {
    let signs = std::fs::read_to_string(stage.signs().join("signs")).unwrap_or_default();
    check(
        "the agent did its damage",
        signs.contains("ruined"),
        signs.lines().last().unwrap_or("it left no sign").to_owned(),
    )
}

/// By what each of them has said of itself, by the marker that they have in their environment, and by the heart of the one that
/// ran apart.
fn processes(stage: &Stage, acted: &Acted) -> Check {
    let said = std::fs::read_to_string(stage.signs().join(PROCESSES)).unwrap_or_default();
    let known: Vec<ProcessId> = said.lines().filter_map(identity).collect();
    let alive = known.iter().filter(|id| Watched::open(**id).is_some()).count();
    let left = marked(&acted.job);
    let heart = stage.signs().join("heartbeat");
    let length = || std::fs::metadata(&heart).map_or(0, |metadata| metadata.len());
    let (before, end) = (length(), Instant::now() + HEARTBEAT_WAIT);
    let mut beats = false;
    while Instant::now() < end && !beats {
        beats = length() != before;
        std::thread::sleep(Duration::from_millis(5));
    }
    let found = format!(
        "{alive} of {} left, {left} by marker; the heart {} {before} bytes",
        known.len(),
        if beats { "still beats after" } else { "stopped at" }
    );
    check("no process is left", alive == 0 && !known.is_empty() && left == 0 && !beats && before > 0, found)
}

/// A process as [`super::agent`] writes itself down.
fn identity(line: &str) -> Option<ProcessId> {
    let (pid, start_time) = line.split_once(' ')?;
    Some(ProcessId { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

fn stop(acted: &Acted) -> Check {
    match &acted.outcome.report {
        Some(report) => check(
            "the stop is proven",
            report.proven_empty,
            if report.proven_empty { report.proof.join(", ") } else { format!("{} survivors", report.survivors.len()) },
        ),
        None => check("the stop is proven", false, "there is no report"),
    }
}

fn files(stage: &Stage) -> Check {
    let what = "every byte is as it was";
    match knowledge::look(&stage.knowledge()) {
        Err(error) => check(what, false, error.to_string()),
        Ok(after) => {
            let differing = stage.before.iter().filter(|(path, content)| after.get(*path) != Some(content)).count();
            let extra = after.keys().filter(|path| !stage.before.contains_key(*path)).count();
            check(
                what,
                differing == 0 && extra == 0,
                format!("{} entries compared, {differing} differ, {extra} too many", stage.before.len()),
            )
        }
    }
}

fn database(stage: &Stage) -> Check {
    let verdict = sqlite_integrity(&stage.knowledge().join(DATABASE));
    check(
        "the database is sound",
        verdict.is_ok(),
        verdict.map_or_else(|error| error.to_string(), |()| "integrity_check ok".to_owned()),
    )
}

fn secret(stage: &Stage) -> Check {
    let what = "the exposed secret is replaced and revoked";
    let looked = block_on(async {
        let (keys, name) = (Keys::open(&stage.site).await?, SecretName::new(SECRET)?);
        let current = keys.store.read(&name, None).await?;
        let old = keys.store.read(&name, Some(Version(1))).await;
        let exposed = keys.ledger.exposure(&name)?;
        Ok((current, matches!(old, Err(StoreError::Revoked { .. } | StoreError::NotFound { .. })), exposed.len()))
    });
    match looked {
        Err(failure) => check(what, false, failure.message),
        Ok((current, refused, exposed)) => {
            let replaced = current.value.expose() != FIRST_VALUE.as_bytes();
            check(
                what,
                replaced && refused && exposed == 1,
                format!(
                    "version {} is current, version 1 is refused: {refused}, deliveries on record: {exposed}",
                    current.info.version
                ),
            )
        }
    }
}

fn notified(stage: &Stage) -> Check {
    let message = std::fs::read_to_string(stage.signs().join("notified.json")).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&message).unwrap_or_default();
    let told = value["name"] == SECRET && value["version"] == 2 && !message.contains(FIRST_VALUE);
    check(
        "the subscriber was told, without the value",
        told,
        if told { format!("version {}", value["version"]) } else { "no fitting message".to_owned() },
    )
}

fn recorded(stage: &Stage, incident: &Incident) -> Check {
    let what = "the critical-failure log has it, unbroken";
    match estop_recovery::CriticalFailureLog::verify(&stage.site.critical_failures()) {
        Err(error) => check(what, false, error.to_string()),
        Ok(report) => {
            let text = std::fs::read_to_string(stage.site.critical_failures()).unwrap_or_default();
            let named = text.contains(&incident.id.to_string());
            check(what, report.ok && named, format!("{} lines, {} faults", report.lines, report.faults.len()))
        }
    }
}
