//! `estop run`: guards one command in the foreground.
//!
//! It stands between the command and its caller as little as it can: the command shares the terminal, the standard streams
//! and the process group; signals that reach only this process are passed on.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use estop_recovery::{Event, Incident, IncidentId, StepState};
use estop_watchdog::emergency::settle_abandoned;
use estop_watchdog::guardian::{self, Streams};
use estop_watchdog::job::{Exit, Isolation, Tier};
use estop_watchdog::latch::Latch;
use estop_watchdog::monitor::Peak;
use estop_watchdog::registry::{Entry, JobDir, Outcome, RunDir};
use estop_watchdog::stop::StoppedBy;
use serde::Serialize;
use serde_json::{Value, json};

use super::now::survivor;
use crate::cli::{Arguments, Output, Pair, RunArguments, output};
use crate::config::{Command as Argv, Enforce, OnBrainLoss, Period, Workload};
use crate::engine::history::Histories;
use crate::engine::keys::Keys;
use crate::engine::launch::{Launch, Stores, block_on, check_name, limits};
use crate::engine::response;
use crate::failure::{Code, Failure, Result};
use crate::platform::foreground::Foreground;
use crate::platform::host;
use crate::platform::processes::{end_descendants, end_with, forbid_tracing, inherit_orphans};
use crate::platform::words;
use crate::site::Site;

/// estop stopped the command.
const STOPPED: u8 = 124;
/// estop itself failed.
const FAILED: u8 = 125;
/// The command cannot be run.
const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;

/// How long what a dead guardian left behind is killed before it is reported.
const ORPHANS_LIMIT: Duration = Duration::from_secs(5);

/// Runs the command and answers its exit code.
pub(super) fn run(arguments: &Arguments, options: &RunArguments, output: &Output) -> ExitCode {
    match attempt(arguments, options, output) {
        Ok(code) => end_with(code),
        Err(failure) => {
            let error = failure.to_json().get_mut("error").map(Value::take);
            if let Err(error) = (Summary { error, ..Summary::of(options) }).write(options) {
                eprintln!("{}", error.render(output.colour));
            }
            // Standard output is the command's; also this goes to standard error.
            eprintln!("{}", if output.json { failure.to_json().to_string() } else { failure.render(output.colour) });
            ExitCode::from(match (failure.code, failure.kind) {
                (_, "not-found") => NOT_FOUND,
                (_, "not-executable") => NOT_EXECUTABLE,
                (Code::Refused, _) => Code::Refused as u8,
                (Code::Usage, _) => Code::Usage as u8,
                _ => FAILED,
            })
        }
    }
}

fn attempt(arguments: &Arguments, options: &RunArguments, output: &Output) -> Result<i32> {
    forbid_tracing();
    let name = options.name.clone().unwrap_or_else(|| format!("run-{}", std::process::id()));
    check_name(&name)?;
    let site = arguments.site()?;
    let _unnamed = options.name.is_none().then(|| Unnamed { latch: site.latch(), name: name.clone() });
    let workload = workload(options);
    refuse_nothing_to_run_with(&workload)?;
    refuse_given_twice("--secret", &options.secret)?;
    refuse_given_twice("--secret-file", &options.secret_file)?;
    let stores = Stores::of(&site, &workload)?;
    host::make_room_for_jobs();
    if site.open_run_dir()?.job(&name).is_alive()? {
        // Before the snapshot: one of another's run is none of before it.
        return Err(estop_watchdog::Error::NameTaken { name }.into());
    }
    for warning in stores.snapshot_before_run(&site, &name)? {
        output.warn(&warning);
    }
    let mut foreground = Foreground::enter();
    let launch = Launch {
        site: &site,
        name: &name,
        workload: &workload,
        argv: Some(options.command.clone()),
        process_group: Some(foreground.group()),
        ignored_signals: foreground.ignored_signals(),
        cgroup: !options.no_cgroup,
    };
    let needs_keys = workload.secret_names().next().is_some();
    let spec = block_on(async {
        let keys = if needs_keys { Some(Keys::open(&site).await?) } else { None };
        launch.guardian_spec(keys.as_ref(), &stores).await
    })?;
    foreground.keep_signals();
    let histories = Histories::keep(&site);
    let mut guardian = match guardian::start(&spec, Streams::default()) {
        Ok(guardian) => guardian,
        // It may have died, with its program at work, before it could say that this had begun.
        Err(estop_watchdog::Error::GuardianDied { left: Some(entry), .. }) => {
            let dir = RunDir::at(&spec.run_dir).job(&name);
            return Err(lost(&site, &dir, &spec.job.id, Some(*entry), &stores, output));
        }
        Err(error) => return Err(start_failure(error)),
    };
    drop(spec);
    histories.follow(&guardian.dir, &guardian.id);
    let entry = guardian.dir.entry()?;
    if entry.as_ref().is_some_and(|entry| entry.tier == Tier::Tracked) {
        inherit_orphans()?;
    }
    foreground.wait(&mut guardian.process, &guardian.dir);
    let outcome = guardian.dir.outcome_of(&guardian.id)?;
    let exit = outcome.as_ref().and_then(|outcome| outcome.exit);
    // It is written while the rest goes on, and waited for at the end.
    histories.end(&name, &guardian.id, entry.as_ref(), exit);
    let Some(outcome) = outcome else {
        return Err(lost(&site, &guardian.dir, &guardian.id, entry, &stores, output));
    };
    let incident = match recover(&site, &outcome, &stores, output) {
        Ok(incident) => {
            // What is left then is a small directory that the next job of this name takes over.
            let _ = guardian.dir.remove(&guardian.id);
            incident
        }
        Err(error) => {
            // How it ended stays there to be read: the next `estop up` carries its incident through.
            output.warn(&format!("the incident could not be carried through: {error}; `estop up` tries again"));
            None
        }
    };
    summarise(options, &outcome, incident.as_ref())?;
    Ok(exit_code(&outcome))
}

/// A name that nobody will ask for again, and whose latch is removed with it.
struct Unnamed {
    latch: Latch,
    name: String,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // What is left of it then is one small file.
        let _ = self.latch.forget(&self.name);
    }
}

/// As the configuration refuses it.
fn refuse_nothing_to_run_with(workload: &Workload) -> Result<()> {
    match limits(workload).zero() {
        None => Ok(()),
        Some(limit) => Err(Failure::usage(
            format!("--{} is zero: the program could not run at all", limit.replace('_', "-")),
            "give it a value above zero, or leave it out for no limit",
        )),
    }
}

/// Of two secrets for one place the program would have one.
fn refuse_given_twice(option: &str, pairs: &[Pair]) -> Result<()> {
    let mut targets = BTreeSet::new();
    match pairs.iter().find(|pair| !targets.insert(words::variable(pair.target.as_ref()))) {
        None => Ok(()),
        Some(pair) => Err(Failure::usage(format!("{option} {} is given twice", pair.target), "leave one of them out")),
    }
}

fn workload(options: &RunArguments) -> Workload {
    let protect: Vec<String> = options.protect.iter().map(|dir| dir.display().to_string()).collect();
    let pairs = |pairs: &[Pair]| pairs.iter().map(|pair| (pair.target.clone(), pair.name.clone())).collect();
    let defaults = Workload::new(Argv::default());
    Workload {
        memory_max: options.memory_max,
        cpu_max: options.cpu_max,
        pids_max: options.pids_max,
        time_max: options.time_max,
        process_memory_max: options.process_memory_max,
        cpu_weight: options.cpu_weight,
        cpu_time_max: options.cpu_time_max,
        io_max: options.io_max,
        grace: options.grace.unwrap_or(defaults.grace),
        on_breach: options.on_breach.into(),
        require_tier: options.require_tier.map(Into::into),
        enforce: if options.enforce_by_kernel { Enforce::Kernel } else { Enforce::Any },
        user: options.user.clone(),
        protect,
        secrets: pairs(&options.secret),
        secret_files: pairs(&options.secret_file),
        new_privs: options.allow_new_privs,
        pid_namespace: !options.no_pid_namespace,
        landlock: !options.no_landlock,
        // Nobody is left to hear how it ends: it is stopped.
        on_brain_loss: OnBrainLoss::Stop,
        brain_loss_grace: Period::from_secs(0),
        ..defaults
    }
}

/// A guardian's failure to start, with the exit code that callers of `timeout(1)` and the like expect.
fn start_failure(error: estop_watchdog::Error) -> Failure {
    let message = error.to_string();
    match &error {
        estop_watchdog::Error::Exec { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::new(Code::Failed, "not-found", message, "check the command's name and PATH")
        }
        estop_watchdog::Error::Exec { .. } => {
            Failure::new(Code::Failed, "not-executable", message, words::HOW_TO_EXECUTE)
        }
        _ => error.into(),
    }
}

/// The guardian ended without a word. Its job ended with it, or is ended here; if it died in an emergency, the rest of that
/// follows.
fn lost(site: &Site, dir: &JobDir, id: &str, entry: Option<Entry>, stores: &Stores, output: &Output) -> Failure {
    let entry = entry.filter(|entry| entry.id == id);
    let stranded = settle_abandoned(dir, id);
    let orphans = end_descendants(ORPHANS_LIMIT);
    let report = stranded.as_ref().ok().cloned().flatten();
    let outcome = entry.and_then(|entry| response::outcome_of_lost(site, &entry, report));
    if let Some(Err(error)) = outcome.map(|outcome| recover(site, &outcome, stores, output)) {
        output.note(&format!("estop: {error}"));
    }
    let (message, hint) = match stranded {
        Err(error) => (format!("its guardian died, and {error}"), "`estop now` looks again"),
        Ok(ref report) if orphans || report.as_ref().is_some_and(|report| !report.proven_empty) => {
            ("its guardian died, and something of it still runs".to_owned(), "`estop now` tells what")
        }
        Ok(_) => ("its guardian died; nothing of it is left".to_owned(), "see the system's log for why"),
    };
    Failure::new(Code::Failed, "guardian-died", message, hint)
}

/// After a `CRITICAL_STOP`: the rest of the incident.
fn recover(site: &Site, outcome: &Outcome, stores: &Stores, output: &Output) -> Result<Option<Incident>> {
    tell_end(outcome, output);
    if outcome.stopped_by != Some(StoppedBy::CriticalStop) {
        return Ok(None);
    }
    let told = *output;
    let protects: Vec<String> = stores.protects.iter().map(|place| place.name.clone()).collect();
    let run = response::attend(site, outcome, &protects, true, move |event| tell(event, &told))?;
    for error in &run.unrecorded {
        output.note(&format!("estop: {error}"));
    }
    Ok(Some(run.incident))
}

fn tell_end(outcome: &Outcome, output: &Output) {
    let Some(by) = outcome.stopped_by else {
        if let Some(report) = outcome.report.as_ref().filter(|report| report.processes_before > 0) {
            output.note(&format!(
                "estop: {} processes that {} left behind were ended",
                report.processes_before, outcome.name
            ));
        }
        return;
    };
    let what = match by {
        StoppedBy::Health => "a failed check",
        StoppedBy::Limit => "stopped",
        StoppedBy::Operator => "stopped by an operator",
        StoppedBy::CriticalStop => "CRITICAL_STOP",
    };
    output.note(&format!("estop: {} {what}: {}", outcome.name, outcome.reason));
    if let Some(report) = &outcome.report {
        let proof = if report.proven_empty {
            format!("proven empty ({})", report.proof.join(", "))
        } else {
            let survivors: Vec<String> = report.survivors.iter().map(survivor).collect();
            format!("NOT proven empty: {} survivors\n{}", report.survivors.len(), survivors.join("\n"))
        };
        output.note(&format!(
            "estop: {} processes ended in {}, {proof}",
            report.processes_before,
            output::seconds(report.stop_seconds)
        ));
    }
}

/// Tells a person each step of an incident as it ends.
pub(super) fn tell(event: Event<'_>, output: &Output) {
    match event {
        Event::Ended { step, .. } => {
            let failed = step.detail.get("error").or_else(|| step.detail.get("reason")).and_then(|text| text.as_str());
            let targets = if step.targets.is_empty() { String::new() } else { format!(" {}", step.targets.join(", ")) };
            let why =
                failed.filter(|_| step.state != StepState::Done).map(|why| format!(": {why}")).unwrap_or_default();
            output.note(&format!(
                "estop: {}{targets} {} in {}{why}",
                step.kind,
                step.state,
                output::seconds(step.seconds)
            ));
        }
        Event::Waiting { incident, step } => {
            output.note(&format!("estop: {} waits for `estop incident approve {}`", step.kind, incident.id));
        }
        Event::Unrecorded { error, .. } => output.note(&format!("estop: {error}")),
        Event::Closed { incident } => {
            let outcome = incident.outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
            output.note(&format!("estop: incident {} {outcome}", incident.id));
        }
        Event::Opened { .. } | Event::Started { .. } => {}
    }
}

fn summarise(options: &RunArguments, outcome: &Outcome, incident: Option<&Incident>) -> Result<()> {
    let summary = Summary {
        name: Some(&outcome.name),
        exit: outcome.exit.unwrap_or(NO_EXIT),
        stopped_by: outcome.stopped_by,
        incident: incident.map(|incident| incident.id),
        tier: Some(outcome.tier),
        isolation: Some(outcome.isolation),
        peak: outcome.peak,
        seconds: outcome.seconds,
        ..Summary::of(options)
    };
    summary.write(options)
}

/// How a run went, for whoever asked for it in a file.
#[derive(Serialize)]
struct Summary<'a> {
    schema_version: u32,
    name: Option<&'a str>,
    exit: Exit,
    stopped_by: Option<StoppedBy>,
    incident: Option<IncidentId>,
    tier: Option<Tier>,
    isolation: Option<Isolation>,
    peak: Peak,
    seconds: f64,
    /// Why it did not come to its start, or not to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

/// Nothing ran, or nobody knows how it ended.
const NO_EXIT: Exit = Exit { code: None, signal: None };

impl<'a> Summary<'a> {
    /// Of a run of which nothing is known but how it was asked for.
    fn of(options: &'a RunArguments) -> Self {
        Self {
            schema_version: 1,
            name: options.name.as_deref(),
            exit: NO_EXIT,
            stopped_by: None,
            incident: None,
            tier: None,
            isolation: None,
            peak: Peak::default(),
            seconds: 0.0,
            error: None,
        }
    }

    fn write(&self, options: &RunArguments) -> Result<()> {
        let Some(path) = &options.summary else { return Ok(()) };
        std::fs::write(path, format!("{}\n", json!(self)))
            .map_err(|error| Failure::io("write the summary", path, &error))
    }
}

fn exit_code(outcome: &Outcome) -> i32 {
    if outcome.stopped_by.is_some() {
        return STOPPED.into();
    }
    let own = outcome.exit.and_then(|exit| exit.code.or_else(|| exit.signal.map(|signal| 128 + signal)));
    own.unwrap_or(FAILED.into())
}
