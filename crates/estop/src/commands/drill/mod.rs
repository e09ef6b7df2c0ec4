//! `estop drill`: an emergency practised in a sandbox, on real processes, a real directory and a real secret store.

pub mod agent;
mod check;
mod knowledge;
mod stage;

use anstyle::AnsiColor;
use estop_recovery::{Event, Incident, Outcome as IncidentOutcome, StepState};
use serde_json::{Value, json};

use crate::cli::args::Scenario;
use crate::cli::{Output, output};
use crate::failure::{Code, Result};
use check::Check;
use stage::Stage;

/// Practises `scenario`. Everything happens in a temporary directory, which is removed afterwards.
///
/// # Errors
/// If the stage cannot be set. A drill in which something did not hold is an answer with exit code 3.
pub fn drill(scenario: Scenario, output: &Output) -> Result<Code> {
    match scenario {
        Scenario::Runaway => runaway(output),
    }
}

/// An agent that works on a knowledge base goes wrong: it shreds and encrypts files, spawns children and eats memory.
fn runaway(output: &Output) -> Result<Code> {
    let say = |text: &str| output.note(text);
    say(&output.paint(AnsiColor::Cyan, "drill: a runaway agent"));
    let stage = Stage::set()?;
    say(&format!(
        "  a knowledge base of {} files, {}, with an SQLite database",
        stage.files(),
        output::bytes(stage.bytes())
    ));
    say(&format!("  snapshot {} in {}", stage.snapshot.id, output::seconds(stage.snapshot.seconds)));
    say("  a secret, api/token version 1, given to the agent");
    let acted = stage.let_it_run(say)?;
    let report = &acted.outcome;
    let stop = report.report.as_ref();
    say(&format!("  {}", output.paint(AnsiColor::Red, &format!("CRITICAL_STOP: {}", report.reason))));
    say(&format!(
        "  contained by: {} ({}); {} processes",
        report.tier,
        serde_json::to_value(report.isolation)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default(),
        stop.map_or(0, |stop| stop.processes_before)
    ));
    let told = *output;
    let incident = acted.recover(&stage, move |event| tell(event, &told))?;
    let checks = check::all(&stage, &acted, &incident);
    let held = checks.iter().all(|check| check.held) && incident.outcome == Some(IncidentOutcome::Recovered);
    output.result(&answer(&incident, &checks, held), |_| text(&incident, &checks, held, output));
    Ok(if held { Code::Done } else { Code::NotProven })
}

/// The incident, with what was looked at independently of it.
fn answer(incident: &Incident, checks: &[Check], held: bool) -> Value {
    let mut answer = json!(incident);
    answer["drill"] = json!({"scenario": "runaway", "held": held, "checks": checks});
    answer
}

/// Each step as it happens.
fn tell(event: Event<'_>, output: &Output) {
    let line = |step: &estop_recovery::Step| {
        let targets = if step.targets.is_empty() { String::new() } else { format!(" {}", step.targets.join(", ")) };
        let state = match step.state {
            StepState::Done => output.paint(AnsiColor::Green, "done"),
            StepState::Pending => "pending".to_owned(),
            StepState::Skipped => output.paint(AnsiColor::Yellow, "skipped"),
            StepState::Failed => output.paint(AnsiColor::Red, "failed"),
        };
        let error =
            step.detail.get("error").and_then(Value::as_str).map(|error| format!(": {error}")).unwrap_or_default();
        output.note(&format!(
            "  {:<9} {state} in {:>9}{targets}{error}",
            step.kind.as_str(),
            output::seconds(step.seconds)
        ));
    };
    match event {
        // The guardian has already taken these.
        Event::Opened { incident, .. } => incident.steps.iter().filter(|step| step.is_settled()).for_each(line),
        Event::Ended { step, .. } => line(step),
        Event::Unrecorded { error, .. } => output.note(&format!("  not recorded: {error}")),
        Event::Started { .. } | Event::Waiting { .. } | Event::Closed { .. } => {}
    }
}

fn text(incident: &Incident, checks: &[Check], held: bool, output: &Output) -> String {
    let total = incident.closed.map_or(0.0, |closed| closed.duration_since(incident.opened).as_secs_f64());
    let outcome = incident.outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
    let mut text =
        format!("incident {}: {outcome} in {}\n", incident.id, output::seconds(total + stop_seconds(incident)));
    for check in checks {
        let mark = if check.held { "ok    " } else { "FAILED" };
        text.push_str(&format!("  {mark}  {}: {}\n", check.what, check.found));
    }
    let verdict = if held {
        output.paint(AnsiColor::Green, "Everything held.")
    } else {
        output.paint(AnsiColor::Red, "Something did not hold.")
    };
    text.push_str(&verdict);
    text
}

fn stop_seconds(incident: &Incident) -> f64 {
    incident.steps.iter().filter(|step| step.kind.is_containment()).map(|step| step.seconds).sum()
}
