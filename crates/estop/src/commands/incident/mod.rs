//! `estop incident …`.

mod text;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use estop_recovery::{
    Claim, CriticalFailureLog, Error as RecoveryError, Event, Incident, IncidentId, IncidentStore, Outcome, Step,
    StepKind,
};
use serde::Serialize;
use serde_json::Value;

use crate::cli::Output;
use crate::cli::args::IncidentCommand;
use crate::engine::response::carry_through;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// How often `follow` looks.
const POLL: Duration = Duration::from_millis(200);

/// The answer of `list`.
#[derive(Serialize)]
struct List {
    schema_version: u32,
    incidents: Vec<Incident>,
    /// Why others can't be read.
    damaged: Vec<String>,
}

/// Does what `command` says.
///
/// # Errors
/// If there is no such incident, or it is not the time for it: another estop works on it (4), or it is closed (1). An incident that was
/// carried on and ended as partial is no error but in the answer (3).
pub(super) fn incident(site: &Site, command: IncidentCommand, output: &Output) -> Result<Code> {
    match command {
        IncidentCommand::List => list(site, output),
        IncidentCommand::Show { id } => show(site, &id, output),
        IncidentCommand::Follow { id } => follow(site, &id, output),
        IncidentCommand::Approve { id, step } => approve(site, &id, step.as_deref(), output),
        IncidentCommand::Resume { id } => {
            let (claim, incident) = store(site, &id)?.take_up(&id)?;
            carry_on(site, claim, incident, output)
        }
        IncidentCommand::Abort { id, reason } => {
            let incident = store(site, &id)?.abort(&id, &reason)?;
            output.result(&incident, text::incident);
            Ok(Code::Done)
        }
        IncidentCommand::Export { id } => export(site, &id, output),
    }
}

/// The incidents, to look for one that begins with `id`. Where there was never one, no folder is made.
fn store(site: &Site, id: &str) -> Result<IncidentStore> {
    let dir = site.incidents();
    if was_never(&dir) {
        return Err(RecoveryError::NotFound { prefix: id.to_owned(), dir }.into());
    }
    Ok(IncidentStore::open(&dir)?)
}

/// Whether nothing at all stands there: what is no folder is not taken for no incident.
fn was_never(dir: &Path) -> bool {
    dir.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn list(site: &Site, output: &Output) -> Result<Code> {
    let dir = site.incidents();
    let listing =
        if was_never(&dir) { estop_recovery::Listing::default() } else { IncidentStore::open(&dir)?.list()? };
    let damaged: Vec<String> = listing.damaged.iter().map(ToString::to_string).collect();
    for why in &damaged {
        output.warn(why);
    }
    let list = List { schema_version: 1, incidents: listing.incidents, damaged };
    output.result(&list, |list| text::list(&list.incidents));
    Ok(Code::Done)
}

fn show(site: &Site, id: &str, output: &Output) -> Result<Code> {
    output.result(&store(site, id)?.show(id)?, text::incident);
    Ok(Code::Done)
}

/// Prints the incident as it stands and each change of it, until it is closed.
fn follow(site: &Site, id: &str, output: &Output) -> Result<Code> {
    let store = store(site, id)?;
    let mut known = store.show(id)?;
    let id = known.id.to_string();
    output.result(&known, text::incident);
    while known.is_open() {
        std::thread::sleep(POLL);
        let now = store.show(&id)?;
        if now != known {
            output.result(&now, |now| text::changes(&known, now));
            known = now;
        }
    }
    Ok(code(&known))
}

fn approve(site: &Site, id: &str, step: Option<&str>, output: &Output) -> Result<Code> {
    let kind = step.map(step_kind).transpose()?;
    let store = store(site, id)?;
    refuse_restart_while_latched(site, &store.show(id)?, kind)?;
    let approved = store.approve(id, kind)?;
    match store.take_up(&approved.id.to_string()) {
        Ok((claim, incident)) => carry_on(site, claim, incident, output),
        // Whoever was faster carries it on, with the approval that is on record.
        Err(RecoveryError::Busy { .. }) => {
            output.note("approved; another estop carries the incident on");
            output.result(&approved, text::incident);
            Ok(Code::Done)
        }
        Err(error) => Err(error.into()),
    }
}

/// A restart that the latch forbids would fail, and close the incident.
fn refuse_restart_while_latched(site: &Site, incident: &Incident, kind: Option<StepKind>) -> Result<()> {
    let restart = |step: &Step| step.kind == StepKind::Restart && step.awaits_approval();
    if kind.is_some_and(|kind| kind != StepKind::Restart) || !incident.steps.iter().any(restart) {
        return Ok(());
    }
    for name in &incident.workloads {
        if site.latch().holds(name)?.is_some() {
            return Err(Failure::new(
                Code::Refused,
                "latched",
                format!("{name} is latched, so it cannot be started again yet"),
                "look at it, `estop reset`, then approve; `--step rollback` or `--step rotate` approve those alone",
            ));
        }
    }
    Ok(())
}

fn step_kind(word: &str) -> Result<StepKind> {
    let kinds = [StepKind::Rollback, StepKind::Rotate, StepKind::Verify, StepKind::Restart];
    kinds.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| {
        Failure::usage(
            format!("{word:?} is no step that waits for a person"),
            "the steps are rollback, rotate, restart",
        )
    })
}

/// Takes the incident through the steps that are left, telling each as it happens.
fn carry_on(site: &Site, claim: Claim, incident: Incident, output: &Output) -> Result<Code> {
    let told = *output;
    let run = carry_through(site, incident, true, move |event| tell(event, &told))?;
    drop(claim);
    for error in &run.unrecorded {
        output.warn(&format!("a step was not recorded: {error}"));
    }
    output.result(&run.incident, text::ending);
    Ok(if run.unrecorded.is_empty() { code(&run.incident) } else { Code::NotProven })
}

fn tell(event: Event<'_>, output: &Output) {
    if output.json {
        return;
    }
    match event {
        Event::Started { step, .. } => output.note(&text::started(step)),
        Event::Ended { step, .. } => output.note(&text::ended(step)),
        Event::Opened { .. } | Event::Waiting { .. } | Event::Unrecorded { .. } | Event::Closed { .. } => {}
    }
}

/// What an incident that ended as partial promised and did not do is not complete.
fn code(incident: &Incident) -> Code {
    if incident.outcome == Some(Outcome::Partial) { Code::NotProven } else { Code::Done }
}

/// Everything there is on an incident, to hand to somebody else: its record, and its entries in the critical-failure log.
fn export(site: &Site, id: &str, output: &Output) -> Result<Code> {
    let store = store(site, id)?;
    let incident = store.show(id)?;
    let mut export = store.export(id)?;
    let log = site.critical_failures();
    let chain = CriticalFailureLog::verify(&log)?;
    let entries =
        entries_of(&log, incident.id).map_err(|error| Failure::io("read the critical-failure log", &log, &error))?;
    export["critical_failures"] = entries.into();
    export["critical_failure_log_ok"] = chain.ok.into();
    output.result(&export, |export| format!("{export:#}"));
    Ok(Code::Done)
}

/// The lines of the log that speak of the incident. What is no JSON is left out; the check of the chain tells of it.
fn entries_of(log: &Path, id: IncidentId) -> std::io::Result<Vec<Value>> {
    let file = match std::fs::File::open(log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let wanted = id.to_string();
    let mut entries = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(entry) = serde_json::from_slice::<Value>(&line?)
            && entry.get("incident").and_then(Value::as_str) == Some(&wanted)
        {
            entries.push(entry);
        }
    }
    Ok(entries)
}
