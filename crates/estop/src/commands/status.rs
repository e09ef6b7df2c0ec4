//! `estop status`: what there is.

mod data;

use std::collections::BTreeSet;

use anstyle::AnsiColor;
use estop_watchdog::guardian::Client;
use estop_watchdog::guardian::table::State;
use estop_watchdog::guardian::wire::Status;
use estop_watchdog::job::Limits;
use estop_watchdog::ladder::{Metric, Step, Thresholds, Unit};
use estop_watchdog::latch::Latched;
use estop_watchdog::registry::{JobDir, RunDir};
use serde_json::{Map, Value, json};

use crate::brain::Known;
use crate::brain::api::{self, Presence};
use crate::cli::{Output, output};
use crate::failure::{Code, Result};
use crate::site::Site;

/// Shows the latch, the daemon, workloads, stores and secrets.
///
/// # Errors
/// If the latch or the run directory cannot be read.
pub(super) fn status(site: &Site, output: &Output) -> Result<Code> {
    let latched = site.latch().read()?;
    let brain = api::look(site);
    let known = if let Presence::Answers(known) = &brain { Some(known) } else { None };
    let (workloads, orphaned) = workloads(site, &latched, known)?;
    let answer = json!({
        "schema_version": 1,
        "latched": latched.all.is_some() || !latched.names.is_empty(),
        "latch": latch(&latched),
        "brain": match &brain {
            Presence::Answers(known) => json!({"pid": known["pid"], "uptime_seconds": known["uptime_seconds"], "answers": true}),
            Presence::Silent(pid) => json!({"pid": pid, "uptime_seconds": null, "answers": false}),
            Presence::Away => Value::Null,
        },
        "orphaned": orphaned,
        "features": {},
        "workloads": workloads,
        "stores": data::stores(site),
        "secrets": data::secrets(site),
    });
    output.result(&answer, |answer| text(answer, output));
    Ok(Code::Done)
}

fn latch(latched: &Latched) -> Value {
    let entry = latched.all.as_ref().or_else(|| latched.names.first().map(|(_, entry)| entry));
    let mut scope: Vec<&str> = latched.names.iter().map(|(name, _)| name.as_str()).collect();
    if latched.all.is_some() {
        scope.insert(0, "all");
    }
    json!({"since": entry.map(|entry| &entry.since), "by": entry.map(|entry| &entry.by), "reason": entry.map(|entry| &entry.reason), "scope": scope})
}

/// The workloads, and the names of jobs whose guardian died and left something.
fn workloads(site: &Site, latched: &Latched, brain: Option<&Value>) -> Result<(Vec<Value>, Vec<String>)> {
    let dirs = RunDir::at(&site.run_dir).jobs()?;
    let names: BTreeSet<String> =
        site.config.workloads.keys().cloned().chain(dirs.iter().map(|dir| dir.name().to_owned())).collect();
    let (mut workloads, mut orphaned) = (Vec::new(), Vec::new());
    for name in names {
        let dir = dirs.iter().find(|dir| dir.name() == name);
        let mut known = brain
            .and_then(|brain| serde_json::from_value::<Known>(brain["workloads"][&name].clone()).ok())
            .unwrap_or_default();
        // It may have been started since the daemon was asked.
        let is_checked = site.config.workloads.get(&name).is_some_and(|workload| workload.ready.is_some());
        if brain.is_some() && is_checked {
            known.ready.get_or_insert(false);
        }
        let alive = dir.is_some_and(|dir| dir.is_alive().unwrap_or(true));
        if !alive
            && dir.is_some_and(|dir| dir.outcome().ok().flatten().is_none() && dir.entry().ok().flatten().is_some())
        {
            orphaned.push(name.clone());
        }
        let status = dir.filter(|_| alive).map(|dir| Client::new(dir).and_then(|mut client| client.status()));
        let is_latched = latched.all.is_some() || latched.names.iter().any(|(latched, _)| *latched == name);
        if dir.is_none() && !site.config.workloads.contains_key(&name) {
            continue;
        }
        workloads.push(workload(&name, status, dir, &known, is_latched));
    }
    Ok((workloads, orphaned))
}

fn workload(
    name: &str,
    status: Option<estop_watchdog::Result<Status>>,
    dir: Option<&JobDir>,
    known: &Known,
    latched: bool,
) -> Value {
    let common =
        json!({"name": name, "restarts": known.restarts, "last_exit": known.last_exit, "failure": known.failure});
    let mut fields = match common {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let specific = match status {
        Some(Ok(status)) => running(&status, known),
        // A guardian that does not answer still holds its job: what its record says is what is known.
        Some(Err(error)) => {
            let entry = dir.and_then(|dir| dir.entry().ok().flatten());
            let main = entry.as_ref().and_then(|entry| entry.handle.main);
            // Before the program runs, the record names none.
            json!({"state": if main.is_some() { "running" } else { "starting" }, "pid": main.map(|main| main.pid),
                "tier": entry.as_ref().map(|entry| entry.tier), "isolation": entry.as_ref().map(|entry| entry.isolation),
                "reachable": entry.as_ref().map(|entry| entry.reachable.clone()),
                "guardian": {"pid": entry.map(|entry| entry.guardian.pid), "alive": false}, "error": error.to_string()})
        }
        None => {
            let state = if latched {
                "latched"
            } else if known.restarting {
                "starting"
            } else if known.failure.is_some() {
                "failed"
            } else {
                "stopped"
            };
            json!({"state": state, "pid": null, "tier": null, "isolation": null, "reachable": [], "guardian": {"pid": null, "alive": false},
                "processes": 0, "cpu_cores": 0.0, "cpu_seconds": 0.0, "memory_bytes": 0, "memory_peak_bytes": 0, "io_bytes": null,
                "uptime_seconds": 0.0})
        }
    };
    if let Value::Object(specific) = specific {
        fields.extend(specific);
    }
    Value::Object(fields)
}

pub(super) fn running(status: &Status, known: &Known) -> Value {
    let state = match status.state {
        // It runs, and does not do its work yet.
        State::Running if known.ready == Some(false) => "starting",
        State::Running => "running",
        State::Frozen | State::Held => "frozen",
        State::Stopping => "stopping",
        State::Survivors => "survivors",
        State::Ended => "stopped",
    };
    json!({
        "state": state, "pid": status.main.map(|main| main.pid), "tier": status.tier, "isolation": status.isolation, "reachable": status.reachable,
        "guardian": {"pid": status.guardian.pid, "alive": true}, "processes": status.processes, "cpu_cores": status.cpu_cores,
        "cpu_seconds": status.peak.cpu_seconds, "memory_bytes": status.memory_bytes, "memory_peak_bytes": status.peak.memory_bytes,
        "io_bytes": status.peak.io_bytes, "uptime_seconds": status.uptime_seconds,
        "ready": known.ready, "said": status.said, "throttled": status.throttled, "thaws": status.thaws,
        "limits": limits(&status.limits), "thresholds": thresholds(&status.thresholds), "enforced_by_kernel": status.enforced, "last_breach": status.last_breach,
    })
}

/// Limits as the contract names quantities.
pub(super) fn limits(limits: &Limits) -> Value {
    json!({
        "memory_max_bytes": limits.memory_max, "cpu_max_cores": limits.cpu_max, "pids_max": limits.pids_max,
        "time_max_seconds": limits.time_max.map(|time| time.as_secs_f64()),
        "process_memory_max_bytes": limits.process_memory_max, "cpu_weight": limits.cpu_weight,
        "cpu_time_max_seconds": limits.cpu_time_max.map(|time| time.as_secs_f64()), "io_max_bytes": limits.io_max,
    })
}

/// Thresholds as the contract names quantities: those that are set. What is a share of its limit, or has to last, is an object.
pub(super) fn thresholds(thresholds: &Thresholds) -> Value {
    let step = |step: Step| match step {
        Step { at, of_max: false, for_seconds: 0.0 } => json!(at),
        Step { at, of_max, for_seconds } => json!({"at": at, "of_max": of_max, "for_seconds": for_seconds}),
    };
    let steps = |metric: Metric| {
        let name = match metric.unit() {
            Unit::Bytes | Unit::BytesPerSecond => format!("{}_bytes", metric.key()),
            Unit::Cores => format!("{}_cores", metric.key()),
            Unit::Seconds => format!("{}_seconds", metric.key()),
            Unit::Share => format!("{}_share", metric.key()),
            Unit::Number => metric.key().to_owned(),
        };
        let set = thresholds.of(metric).set().map(|(rung, at)| (rung.key().to_owned(), step(at)));
        (name, Value::Object(set.collect()))
    };
    Value::Object(Metric::ALL.into_iter().map(steps).collect())
}

fn text(answer: &Value, output: &Output) -> String {
    let mut text = String::new();
    if answer["latched"] == true {
        let scope: Vec<&str> =
            answer["latch"]["scope"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let line = format!(
            "LATCHED: {} since {}: {}",
            scope.join(", "),
            shown(&answer["latch"]["since"]),
            shown(&answer["latch"]["reason"])
        );
        text.push_str(&format!("{}\n", output.paint(AnsiColor::Red, &line)));
    }
    match answer["brain"]["pid"].as_u64() {
        _ if answer["brain"]["answers"] == false => {
            let line =
                format!("daemon: pid {} DOES NOT ANSWER: it is stopped or hangs", shown(&answer["brain"]["pid"]));
            text.push_str(&format!("{}\n", output.paint(AnsiColor::Red, &line)));
        }
        Some(pid) => text.push_str(&format!(
            "daemon: pid {pid}, up {}\n",
            output::seconds(answer["brain"]["uptime_seconds"].as_f64().unwrap_or(0.0))
        )),
        None => text.push_str("daemon: not running\n"),
    }
    for name in answer["orphaned"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "orphaned: {}: its guardian died; `estop now {}` ends what is left\n",
            shown(name),
            shown(name)
        ));
    }
    for workload in answer["workloads"].as_array().into_iter().flatten() {
        let ways: Vec<String> = workload["throttled"].as_array().into_iter().flatten().map(shown).collect();
        if !ways.is_empty() {
            text.push_str(&format!("slowed down: {}: {}\n", shown(&workload["name"]), ways.join(", ")));
        }
    }
    text.push_str(&section(
        answer,
        "workloads",
        &["name", "state", "tier", "isolation", "processes", "cpu_cores", "memory_bytes", "uptime_seconds", "restarts"],
    ));
    text.push_str(&section(
        answer,
        "stores",
        &["name", "path", "lsn", "files", "bytes", "last_snapshot", "dirty_files"],
    ));
    text.push_str(&section(answer, "secrets", &["name", "version", "age_seconds", "exposed_to"]));
    text
}

fn section(answer: &Value, name: &str, columns: &[&str]) -> String {
    let rows: Vec<Vec<String>> = answer[name]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| columns.iter().map(|column| cell(column, &row[*column])).collect())
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<String> =
        columns.iter().map(|column| column.replace("_bytes", "").replace("_seconds", "").replace('_', " ")).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    format!("\n{}", output::table(&head, &rows))
}

fn cell(column: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Number(number) if column.ends_with("bytes") => output::bytes(number.as_u64().unwrap_or(0)),
        Value::Number(number) if column.ends_with("_seconds") => output::seconds(number.as_f64().unwrap_or(0.0)),
        Value::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or(0.0)),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => shown(other),
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
