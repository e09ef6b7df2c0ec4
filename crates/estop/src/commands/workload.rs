//! Commands for single workloads: start, stop, restart, freeze, thaw, limits, output.

mod limits;

use std::time::Duration;

use estop_watchdog::emergency::{Stopped, end_stranded};
use estop_watchdog::guardian::Client;
use estop_watchdog::registry::{JobDir, RunDir};
use estop_watchdog::stop::Category;
use serde_json::json;

use super::now::{Answer, job_line};
use crate::brain::api::{self, Call};
use crate::cli::Output;
use crate::cli::args::LimitCommand;
use crate::failure::{Code, Failure, Result};
use crate::platform::processes::raise_descriptor_limit;
use crate::site::Site;

/// How long a stop is waited for beyond the workload's grace.
const STOP_WAIT: Duration = Duration::from_mins(1);

/// Has the daemon start workloads.
///
/// # Errors
/// If the daemon is not there, or refuses.
pub(super) fn start(site: &Site, names: &[String], output: &Output) -> Result<Code> {
    // One that is refused keeps the others from nothing.
    let ask = |name: &String| api::request(site, &Call::Start { name: name.clone() }).err();
    let mut refused: Vec<Failure> = names.iter().filter_map(ask).collect();
    match refused.len() {
        0 => done(output, "started", names),
        1 => Err(refused.remove(0)),
        count => {
            let messages: Vec<String> = refused.iter().map(|failure| failure.message.clone()).collect();
            let first = refused.remove(0);
            let message = format!("{count} of {} were not started: {}", names.len(), messages.join("; "));
            Err(Failure::new(first.code, first.kind, message, first.hint))
        }
    }
}

/// Has the daemon stop workloads and start them again.
///
/// # Errors
/// If the daemon is not there, or refuses, or a stop is not proven.
pub(super) fn restart(site: &Site, names: &[String], output: &Output) -> Result<Code> {
    // Those that need them are stopped before them, and started again after them, if they ran.
    let mut all = site.config.with_dependants(names);
    let run_dir = RunDir::at(&site.run_dir);
    all.retain(|name| names.contains(name) || run_dir.job(name).is_alive().unwrap_or(true));
    let stopped = stop_all(site, &all, "restarted by an operator")?;
    if !is_clear(&stopped) {
        return Err(Failure::new(
            Code::NotProven,
            "not-proven",
            "a stop is not proven, so nothing was started in its place",
            "see `estop status`",
        ));
    }
    all.reverse();
    start(site, &all, output)
}

/// Stops workloads: asks, waits, then kills.
///
/// # Errors
/// If one does not run, or its guardian does not answer.
pub(super) fn stop(site: &Site, names: &[String], reason: &str, output: &Output) -> Result<Code> {
    let (stopped, mut missing) = stop_and_call_off(site, &site.config.with_dependants(names), reason)?;
    // Those that need them need not have run.
    missing.retain(|name| names.contains(name));
    let proven = missing.is_empty() && is_clear(&stopped);
    let missing_action = format!("Not found running: {}; see `estop status`.", missing.join(", "));
    let next_action = if !stopped.unreachable.is_empty() {
        "Not every guardian answered: `estop now` with their names ends their jobs without them."
    } else if !missing.is_empty() && is_clear(&stopped) {
        missing_action.as_str()
    } else if proven {
        "They are stopped; `estop start` starts them again."
    } else {
        "Not everything is proven to be gone: see the survivors, and `estop now`."
    };
    let answer = Answer::new(&stopped, None, reason, false, next_action.to_owned());
    output.result(&answer, |_| {
        let lines: Vec<String> = stopped.jobs.iter().map(job_line).collect();
        format!("{}\n{next_action}", lines.join("\n"))
    });
    Ok(if proven { Code::Done } else { Code::NotProven })
}

/// Stops workloads, and calls off the next start of those that wait for it. Answers of which names there was nothing of either.
fn stop_and_call_off(site: &Site, names: &[String], reason: &str) -> Result<(Stopped, Vec<String>)> {
    // Without a daemon nothing is started again.
    let call_off =
        |name: &str| api::request(site, &Call::Stay { name: name.to_owned() }).is_ok_and(|stays| stays == true);
    let run_dir = RunDir::at(&site.run_dir);
    let is_recorded = |name: &str| !matches!(run_dir.job(name).entry(), Ok(None));
    let those = |wanted: &dyn Fn(&str) -> bool| names.iter().filter(|name| wanted(name)).collect::<Vec<_>>();
    // First, so that what is started meanwhile is found.
    let called_off = those(&call_off);
    // Of one whose guardian had died there may be a record and nothing more.
    let recorded = those(&is_recorded);
    let stopped = stop_all(site, names, reason)?;
    let mut missing = stopped.missing(names);
    // Once more for what has ended by itself in between.
    missing.retain(|name| !called_off.iter().any(|known| known == name) && !call_off(name));
    missing.retain(|name| !recorded.iter().any(|known| known == name));
    let missing = missing.into_iter().map(str::to_owned).collect();
    Ok((stopped, missing))
}

/// Whether every guardian answered, and what was stopped is proven empty.
fn is_clear(stopped: &Stopped) -> bool {
    stopped.unreachable.is_empty() && stopped.is_clear()
}

fn stop_all(site: &Site, names: &[String], reason: &str) -> Result<Stopped> {
    raise_descriptor_limit();
    let run_dir = RunDir::at(&site.run_dir);
    let mut stopped = Stopped::searching(vec![run_dir.path().join("jobs").display().to_string()]);
    for name in names {
        let dir = run_dir.job(name);
        if dir.is_alive()? {
            stop_one(&dir, reason, &mut stopped)?;
        } else if dir.outcome()?.is_none() {
            // Its guardian has died without a word. What it left is not asked first.
            stopped.jobs.extend(end_stranded(&dir)?);
        }
    }
    Ok(stopped)
}

fn stop_one(dir: &JobDir, reason: &str, stopped: &mut Stopped) -> Result<()> {
    match Client::new(dir).and_then(|mut client| client.stop(Category::Ask, reason, STOP_WAIT)) {
        Ok(report) => stopped.jobs.push(report),
        Err(estop_watchdog::Error::NoAnswer { name, .. }) => stopped.unreachable.push(name),
        // It ended by itself in the meantime.
        Err(_) if dir.outcome()?.is_some() || !dir.is_alive()? => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Freezes workloads until they are thawed.
///
/// # Errors
/// If one does not run, or may not be frozen.
pub(super) fn freeze(site: &Site, names: &[String], output: &Output) -> Result<Code> {
    for mut client in clients(site, names)? {
        client.freeze(None)?;
    }
    done(output, "frozen", names)
}

/// Lets frozen workloads run again.
///
/// # Errors
/// If one does not run.
pub(super) fn thaw(site: &Site, names: &[String], output: &Output) -> Result<Code> {
    for mut client in clients(site, names)? {
        client.thaw()?;
    }
    done(output, "thawed", names)
}

/// Changes limits while a workload runs.
///
/// # Errors
/// If it does not run, or a limit makes no sense: then none is changed.
pub(super) fn limit(site: &Site, command: LimitCommand, output: &Output) -> Result<Code> {
    let LimitCommand::Set { name, assignments } = command;
    let mut client = client(site, &name)?;
    let status = client.status()?;
    let (mut limits, mut thresholds) = (status.limits, status.thresholds);
    for assignment in &assignments {
        limits::apply(&mut limits, &mut thresholds, assignment)?;
    }
    let status = client.set_limits(&limits, &thresholds)?;
    let answer = json!({"schema_version": 1, "name": name, "limits": super::status::limits(&status.limits), "thresholds": super::status::thresholds(&status.thresholds), "enforced_by_kernel": status.enforced});
    output.result(&answer, |_| format!("{name}: {}", assignments.join(", ")));
    Ok(Code::Done)
}

/// Speaks to the guardian of a workload.
///
/// # Errors
/// If it does not run.
pub(super) fn client(site: &Site, name: &str) -> Result<Client> {
    let dir: JobDir = RunDir::at(&site.run_dir).job(name);
    if !dir.is_alive()? {
        return Err(Failure::failed(format!("{name} does not run"), "see `estop status`"));
    }
    Ok(Client::new(&dir)?)
}

/// The guardians of all of them: a name that does not run changes nothing for the others.
fn clients(site: &Site, names: &[String]) -> Result<Vec<Client>> {
    names.iter().map(|name| client(site, name)).collect()
}

fn done(output: &Output, what: &str, names: &[String]) -> Result<Code> {
    output.result(&json!({"schema_version": 1, what: names}), |_| format!("{what}: {}", names.join(", ")));
    Ok(Code::Done)
}
