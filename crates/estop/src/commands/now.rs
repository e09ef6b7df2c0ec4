//! `estop now` and `estop reset`: the emergency, and the end of its latch.

use estop_recovery::{CriticalFailure, CriticalFailureLog, IncidentId, Trigger};
use estop_watchdog::emergency::{self, Request, Stopped};
use estop_watchdog::latch::Latch;
use estop_watchdog::stop::{Category, StopReport, Survivor};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{Output, output};
use crate::engine::ballast;
use crate::engine::record::Recording;
use crate::engine::response::Emergency;
use crate::failure::{Code, Failure, Result};
use crate::platform::processes::raise_descriptor_limit;
use crate::site::Site;

/// The answer of `now` and `stop`.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    schema_version: u32,
    incident: Option<String>,
    trigger: &'static str,
    reason: String,
    latched: bool,
    latch_durable: bool,
    searched: Vec<String>,
    unreachable: Vec<String>,
    jobs: Vec<Value>,
    next_action: String,
}

impl Answer {
    /// The answer for `stopped`, whose incident, if it has one, is `incident`.
    pub(super) fn new(
        stopped: &Stopped,
        incident: Option<String>,
        reason: &str,
        latched: bool,
        next_action: String,
    ) -> Self {
        Self {
            schema_version: 1,
            incident,
            trigger: "operator",
            reason: reason.to_owned(),
            latched,
            latch_durable: latched && stopped.latch_durable,
            searched: stopped.searched.iter().chain(&stopped.doubts).cloned().collect(),
            unreachable: stopped.unreachable.clone(),
            jobs: stopped.jobs.iter().map(|job| json!(job)).collect(),
            next_action,
        }
    }
}

/// `CRITICAL_STOP`. Needs no daemon; what follows the stop is left to one, or to a person.
///
/// # Errors
/// Only for what is wrong with the request. A stop that is not proven is an answer.
pub(super) fn now(site: &Site, names: &[String], reason: &str, category: u8, output: &Output) -> Result<Code> {
    let category = Category::try_from(category).map_err(|message| Failure::usage(message, ""))?;
    // A stop needs descriptors for every job.
    raise_descriptor_limit();
    let id = IncidentId::new().to_string();
    let incident = Emergency {
        id: Some(id.clone()),
        began: Some(jiff::Timestamp::now()),
        trigger: Trigger::Operator,
        reason: reason.to_owned(),
        workloads: Vec::new(),
        protects: Vec::new(),
        reports: Vec::new(),
        over: false,
    };
    let recording = Recording::begin(site, incident.clone(), names);
    let stopped = emergency::critical_stop(&site.instances(), Request { names, category, reason, incident: &id });
    let recorded = recording.complete(of_stop(incident, &stopped));
    let recorded = (!stopped.jobs.is_empty()).then_some(recorded);
    let missing = stopped.missing(names);
    let mut next_action = next_action(&stopped, recorded.as_ref(), &id);
    if !missing.is_empty() && !stopped.jobs.is_empty() {
        next_action =
            format!("No job was found for {}: check the name, and `estop status`. {next_action}", missing.join(", "));
    }
    let answer = Answer::new(&stopped, recorded.is_some().then(|| id.clone()), reason, stopped.latched, next_action);
    output.result(&answer, |answer| text(answer, &stopped.jobs));
    Ok(if stopped.is_proven() && missing.is_empty() { Code::Done } else { Code::NotProven })
}

/// The emergency with what its stop came to.
fn of_stop(emergency: Emergency, stopped: &Stopped) -> Emergency {
    Emergency {
        workloads: stopped.jobs.iter().map(|job| job.name.clone()).collect(),
        protects: stopped.protects.clone(),
        reports: stopped.jobs.clone(),
        ..emergency
    }
}

fn next_action(stopped: &Stopped, recorded: Option<&Result<bool>>, id: &str) -> String {
    if let Some(doubt) = stopped.doubts.first() {
        return format!("Not everything could be looked at ({doubt}): put that right, then say `estop now` again.");
    }
    if stopped.jobs.is_empty() {
        return "No job was found: look at `searched`, and among the system's processes whether the program runs outside estop."
            .to_owned();
    }
    if let Some(job) = stopped.jobs.iter().find(|job| !job.proven_empty) {
        return format!(
            "Not everything of {} is proven to be gone: look at its survivors; one in state D ends when what it waits for answers, then say `estop now {}` again.",
            job.name, job.name
        );
    }
    match recorded {
        Some(Ok(true)) => format!(
            "Everything is stopped; the daemon goes on with the recovery: `estop incident follow {id}`, then `estop reset`."
        ),
        Some(Ok(false)) => format!(
            "Everything is stopped. `estop incident resume {id}` does what is left of the recovery; then `estop reset`."
        ),
        Some(Err(failure)) => format!(
            "Everything is stopped, but the incident could not be recorded ({failure}); look at the disk, then `estop reset`."
        ),
        None => "Everything is stopped; then `estop reset`.".to_owned(),
    }
}

/// The answer for a person at 3 a.m.
fn text(answer: &Answer, jobs: &[StopReport]) -> String {
    let mut text = jobs.iter().map(|job| job_line(job) + "\n").collect::<String>();
    if jobs.is_empty() {
        text.push_str("no job was found; looked in:\n");
        text.extend(answer.searched.iter().map(|place| format!("  {place}\n")));
    }
    for name in &answer.unreachable {
        let ended = jobs.iter().any(|job| job.name == *name);
        let what = if ended { "its job was ended without it" } else { "its job was NOT FOUND" };
        text.push_str(&format!("the guardian of {name} did not answer; {what}\n"));
    }
    if !answer.latched {
        text.push_str("the latch is not set: nothing keeps the workloads from starting again\n");
    } else if !answer.latch_durable {
        text.push_str("the latch could not be written to the disk: nothing keeps the workloads from starting again after a restart\n");
    }
    text.push_str(&answer.next_action);
    text
}

/// One stop in one line.
pub(super) fn job_line(job: &StopReport) -> String {
    if job.proven_empty {
        return format!(
            "{}: {} processes ended in {}; proven empty: {}",
            job.name,
            job.processes_before,
            output::seconds(job.stop_seconds),
            job.proof.join(", ")
        );
    }
    let survivors: Vec<String> = job.survivors.iter().map(survivor).collect();
    if survivors.is_empty() {
        return format!("{}: NOT proven empty after {}", job.name, output::seconds(job.stop_seconds));
    }
    format!(
        "{}: NOT proven empty after {}; survivors:\n{}",
        job.name,
        output::seconds(job.stop_seconds),
        survivors.join("\n")
    )
}

/// Who outlived a stop, and why: where it waits is what nothing but the kernel can end.
pub(super) fn survivor(survivor: &Survivor) -> String {
    let Survivor { pid, command, state, wait_channel, stack, .. } = survivor;
    let mut text = format!("  pid {pid} {command} state {state}");
    if !wait_channel.is_empty() && wait_channel != "0" {
        text.push_str(&format!(" waits in {wait_channel}"));
    }
    text.extend(stack.iter().map(|frame| format!("\n    {frame}")));
    text
}

/// Releases the latch. Starts nothing.
///
/// # Errors
/// If a latch cannot be written.
pub(super) fn reset(site: &Site, names: &[String], reason: &str, output: &Output) -> Result<Code> {
    let latch = Latch::at(&site.state_dir);
    let released = latch.reset(names)?;
    if !released.is_empty() {
        let mut entry = CriticalFailure::new("reset");
        entry.reason = Some(reason.to_owned());
        entry.more.insert("released".to_owned(), json!(released));
        let append = || CriticalFailureLog::open(&site.critical_failures())?.append(&entry);
        if let Err(error) = ballast::with(&site.state_dir, append) {
            output.warn(&format!("the release is done, but could not be recorded: {error}"));
        }
    }
    let still = latch.read()?;
    let next_action = if still.all.is_some() {
        "All workloads are still latched: `estop reset` without names releases them."
    } else {
        "Nothing was started: `estop start NAME` does that."
    };
    let answer = json!({"schema_version": 1, "released": released, "reason": reason, "latched": still.all.is_some() || !still.names.is_empty(), "next_action": next_action});
    output.result(&answer, |_| match (released.is_empty(), names.is_empty()) {
        (true, true) => "nothing was latched".to_owned(),
        (true, false) if still.all.is_some() => format!("nothing was released\n{next_action}"),
        (true, false) => format!("not latched: {}", names.join(", ")),
        (false, _) => format!("released: {}\n{next_action}", released.join(", ")),
    });
    Ok(Code::Done)
}
