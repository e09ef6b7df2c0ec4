//! What a person reads.

use std::fmt::Write as _;

use estop_recovery::{Incident, Step, StepKind, StepState};
use serde_json::Value;

use crate::cli::output::{bytes, counted, fields, moment, printable, seconds, table};

pub(super) fn list(incidents: &[Incident]) -> String {
    if incidents.is_empty() {
        return "there was no incident".to_owned();
    }
    let row = |incident: &Incident| {
        vec![
            incident.id.to_string(),
            moment(incident.opened),
            incident.trigger.to_string(),
            standing(incident),
            printable(&incident.workloads.join(", ")),
            printable(incident.reason.as_deref().unwrap_or_default()),
        ]
    };
    let rows: Vec<_> = incidents.iter().map(row).collect();
    table(&["INCIDENT", "OPENED (UTC)", "TRIGGER", "STATE", "WORKLOADS", "REASON"], &rows)
}

/// How far the incident is, in a word or two.
fn standing(incident: &Incident) -> String {
    match incident.outcome {
        Some(outcome) => outcome.to_string(),
        None if incident.awaits_approval() => "waits for approval".to_owned(),
        None => "open".to_owned(),
    }
}

pub(super) fn incident(incident: &Incident) -> String {
    let mut pairs = vec![
        ("incident", incident.id.to_string()),
        ("state", standing(incident)),
        ("trigger", incident.trigger.to_string()),
        ("reason", printable(incident.reason.as_deref().unwrap_or("none given"))),
        ("workloads", printable(&incident.workloads.join(", "))),
        ("opened", format!("{} UTC", moment(incident.opened))),
    ];
    if let Some(closed) = incident.closed {
        let took = closed.duration_since(incident.opened).as_secs_f64();
        pairs.push(("closed", format!("{} UTC, after {}", moment(closed), seconds(took))));
    }
    if let Some(reason) = &incident.abort_reason {
        pairs.push(("given up", printable(reason)));
    }
    let rows: Vec<_> = incident.steps.iter().map(row).collect();
    let steps = table(&["STEP", "STATE", "TIME", "DETAIL"], &rows);
    format!("{}\n{steps}{}", fields(&pairs), what_now(incident))
}

fn row(step: &Step) -> Vec<String> {
    vec![title(step), state(step).to_owned(), took(step), detail(step)]
}

/// The step and what it is about.
fn title(step: &Step) -> String {
    match (step.kind, step.targets.as_slice()) {
        (StepKind::Rollback, [store]) => format!("rollback {}", printable(store)),
        (kind, _) => kind.to_string(),
    }
}

fn state(step: &Step) -> &'static str {
    match step.state {
        StepState::Done => "done",
        StepState::Failed => "FAILED",
        StepState::Skipped => "skipped",
        StepState::Pending if step.awaits_approval() => "waits",
        StepState::Pending if step.is_running() => "under way",
        StepState::Pending => "pending",
    }
}

fn took(step: &Step) -> String {
    if matches!(step.state, StepState::Done | StepState::Failed) { seconds(step.seconds) } else { String::new() }
}

/// What matters of a step's detail, in a line.
fn detail(step: &Step) -> String {
    let text = |key: &str| step.detail.get(key).and_then(Value::as_str).map(printable);
    let mut parts: Vec<String> = text("error").or_else(|| text("reason")).into_iter().collect();
    if step.awaits_approval() {
        parts.push("for a person's approval".to_owned());
    }
    parts.extend(match step.kind {
        StepKind::Latch if step.detail.get("durable") == Some(&Value::Bool(false)) => Some("not durable".to_owned()),
        StepKind::Stop => stop(step),
        StepKind::Rollback => rollback(step),
        StepKind::Rotate => rotate(step),
        StepKind::Verify => verify(step),
        _ => None,
    });
    parts.join("; ")
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn entries<'a>(step: &'a Step, key: &str) -> &'a [Value] {
    step.detail.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn stop(step: &Step) -> Option<String> {
    let jobs = entries(step, "jobs");
    if jobs.is_empty() {
        return None;
    }
    let ended: u64 = jobs.iter().map(|job| number(job, "processes_before")).sum();
    let survivors: usize = jobs.iter().filter_map(|job| job.get("survivors")?.as_array()).map(Vec::len).sum();
    let processes = counted(ended, "process", "processes");
    let proofs: Vec<&str> =
        jobs.iter().filter_map(|job| job.get("proof")?.as_array()).flatten().filter_map(Value::as_str).collect();
    Some(if survivors > 0 {
        format!("{processes}, {survivors} SURVIVE")
    } else if step.detail.get("proven_empty") == Some(&Value::Bool(true)) {
        format!("{processes}, proven empty ({})", printable(&proofs.join("; ")))
    } else {
        format!("{processes}, NOT proven empty")
    })
}

fn rollback(step: &Step) -> Option<String> {
    let detail = Value::Object(step.detail.clone());
    let snapshot = detail.get("snapshot")?.as_str()?;
    let mut text = format!(
        "to snapshot {}: {} restored, {} removed, {} unchanged",
        printable(snapshot),
        number(&detail, "restored"),
        number(&detail, "removed"),
        number(&detail, "unchanged")
    );
    if let Some(undo) = detail.get("undo_command").and_then(Value::as_str) {
        let _ = write!(text, "; undo: {}", printable(undo));
    }
    Some(text)
}

fn rotate(step: &Step) -> Option<String> {
    let rotations = entries(step, "rotations");
    if rotations.is_empty() {
        return (!step.targets.is_empty() && !step.is_settled()).then(|| printable(&step.targets.join(", ")));
    }
    let one = |rotation: &Value| {
        let name = printable(rotation["name"].as_str().unwrap_or_default());
        if rotation["still_exposed"] == true {
            let why = rotation["error"].as_str().map(printable);
            return format!("{name} STILL EXPOSED{}", why.map(|why| format!(" ({why})")).unwrap_or_default());
        }
        format!("{name} {} to {}", rotation["from_version"], rotation["to_version"])
    };
    Some(rotations.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn verify(step: &Step) -> Option<String> {
    let stores = entries(step, "stores");
    let one = |store: &Value| {
        let name = printable(store["store"].as_str().unwrap_or_default());
        let verdict = if store["ok"] == true { "equal" } else { "DIFFERS" };
        let databases = store["databases"].as_array().map_or(&[][..], Vec::as_slice);
        let sound = databases.iter().filter(|database| database["integrity_check"] == "ok").count();
        let read = format!(
            "{}, {}",
            counted(number(store, "files_checked"), "file", "files"),
            bytes(number(store, "bytes_checked"))
        );
        if databases.is_empty() {
            format!("{name} {verdict} ({read})")
        } else {
            format!(
                "{name} {verdict} ({read}; {sound} of {} sound)",
                counted(databases.len() as u64, "database", "databases")
            )
        }
    };
    (!stores.is_empty()).then(|| stores.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// What a person can do about an open incident.
fn what_now(incident: &Incident) -> String {
    if incident.awaits_approval() {
        format!(
            "\nlet it go on with `estop incident approve {0}`, or close it with `estop incident abort {0}`\n",
            incident.id
        )
    } else if incident.is_open() {
        format!(
            "\n`estop incident follow {0}` watches it; if nobody works on it, `estop incident resume {0}` goes on\n",
            incident.id
        )
    } else {
        String::new()
    }
}

pub(super) fn started(step: &Step) -> String {
    format!("  {} …", title(step))
}

pub(super) fn ended(step: &Step) -> String {
    let time = Some(took(step)).filter(|time| !time.is_empty()).map(|time| format!(" in {time}")).unwrap_or_default();
    let detail = Some(detail(step)).filter(|detail| !detail.is_empty()).map(|detail| format!(": {detail}"));
    format!("  {} {}{time}{}", title(step), state(step), detail.unwrap_or_default())
}

/// What is new since `known`.
pub(super) fn changes(known: &Incident, now: &Incident) -> String {
    let mut text = String::new();
    for (before, step) in known.steps.iter().zip(&now.steps).filter(|(before, step)| before != step) {
        if step.is_settled() {
            let _ = writeln!(text, "{}", ended(step));
        } else if step.is_running() && !before.is_running() {
            let _ = writeln!(text, "{}", started(step));
        } else if before.awaits_approval() && !step.awaits_approval() {
            let _ = writeln!(text, "  {} approved", title(step));
        }
    }
    if !now.is_open() {
        text.push_str(&ending(now));
    }
    text
}

/// How it ended, or what it waits for.
pub(super) fn ending(incident: &Incident) -> String {
    format!("incident {}: {}\n{}", incident.id, standing(incident), what_now(incident).trim_start())
}
