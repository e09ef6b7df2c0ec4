//! The folder of incidents and the critical-failure log.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use estop_recovery::audit::AuditReport;
use estop_recovery::{CriticalFailure, CriticalFailureLog, Error, Incident, IncidentStore, Journal, Trigger};
use serde_json::json;
use support::plan;

fn incident() -> Incident {
    Incident::new(Trigger::Limit, Some("memory.stop=2GiB".into()), vec!["agent".into()], &plan())
}

fn file(dir: &Path, incident: &Incident) -> PathBuf {
    dir.join(format!("{}.incident", incident.id))
}

#[test]
fn lists_newest_first_and_finds_by_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let store = IncidentStore::open(dir.path()).unwrap();
    let incidents: Vec<Incident> = (0..3).map(|_| incident()).collect();
    for incident in &incidents {
        store.save(incident).unwrap();
    }
    let listed = store.list().unwrap();
    assert!(listed.damaged.is_empty());
    assert_eq!(listed.incidents, incidents.iter().rev().cloned().collect::<Vec<_>>());

    let id = incidents[1].id.to_string();
    assert_eq!(store.show(&id).unwrap(), incidents[1]);
    assert_eq!(store.show(&id.to_uppercase()[..35]).unwrap(), incidents[1]);
    assert!(matches!(store.show(&id[..1]), Err(Error::Ambiguous { ids, .. }) if ids.len() == 3));
    assert!(matches!(store.show("zz"), Err(Error::NotFound { .. })));
    assert!(matches!(store.show(""), Err(Error::NotFound { .. })));
    assert!(matches!(store.show("../../etc/passwd"), Err(Error::NotFound { .. })));

    let exported = store.export(&id).unwrap();
    assert_eq!(exported["schema_version"], 1);
    assert_eq!(exported["incident"]["id"], json!(id));
}

#[test]
fn damaged_files_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = IncidentStore::open(dir.path()).unwrap();
    let (good, bad, renamed) = (incident(), incident(), incident());
    for incident in [&good, &bad, &renamed] {
        store.save(incident).unwrap();
    }
    let mut bytes = fs::read(file(dir.path(), &bad)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file(dir.path(), &bad), &bytes).unwrap();
    fs::copy(file(dir.path(), &good), file(dir.path(), &renamed)).unwrap();
    fs::write(dir.path().join("notes.txt"), "not ours").unwrap();

    let listed = store.list().unwrap();
    assert_eq!(listed.incidents, [good]);
    assert_eq!(listed.damaged.len(), 2);
    let error = store.show(&bad.id.to_string()).unwrap_err();
    assert!(error.to_string().contains(&bad.id.to_string()), "{error}");
    assert!(matches!(store.show(&renamed.id.to_string()), Err(Error::Unreadable { .. })));
    assert_eq!(fs::read(file(dir.path(), &bad)).unwrap(), bytes, "left as it was");
}

#[test]
fn one_works_on_an_incident_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = IncidentStore::open(dir.path()).unwrap();
    let incident = incident();
    store.save(&incident).unwrap();
    let id = incident.id.to_string();
    let claim = store.claim(incident.id).unwrap();
    assert!(matches!(store.claim(incident.id), Err(Error::Busy { .. })));
    assert!(matches!(store.abort(&id, "no"), Err(Error::Busy { .. })));
    assert!(matches!(store.approve(&id, None), Err(Error::Busy { .. })));
    assert!(store.show(&id).is_ok(), "to look is always allowed");
    drop(claim);
    assert!(store.take_up(&id).is_ok());
}

fn log(lines: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("critical-failures.jsonl");
    let log = CriticalFailureLog::open(&path).unwrap();
    for number in 1..=lines {
        let mut entry = CriticalFailure::new("limit-breach");
        entry.workload = Some("agent".into());
        entry.limit = Some(json!("2GiB"));
        entry.value = Some(json!(number));
        entry.tree = vec![json!({"pid": 7, "command": "sh"})];
        entry.more.insert("open_files".into(), json!(["/kb/a"]));
        assert_eq!(log.append(&entry).unwrap(), number);
    }
    (dir, path)
}

fn verify_changed(change: impl FnOnce(&mut Vec<String>)) -> AuditReport {
    let (_dir, path) = log(5);
    let mut lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    fs::write(&path, text).unwrap();
    CriticalFailureLog::verify(&path).unwrap()
}

#[test]
fn the_log_is_lines_of_json_that_verify() {
    let (_dir, path) = log(5);
    let report = CriticalFailureLog::verify(&path).unwrap();
    assert!(report.ok && report.lines == 5 && report.faults.is_empty(), "{report:?}");
    let text = fs::read_to_string(&path).unwrap();
    let entry: CriticalFailure = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(entry.schema_version, 1);
    assert_eq!(entry.event, "limit-breach");
    assert_eq!(entry.more["open_files"], json!(["/kb/a"]));
    // Opened again, the chain goes on.
    let log = CriticalFailureLog::open(&path).unwrap();
    assert_eq!(log.append(&CriticalFailure::new("critical-stop")).unwrap(), 6);
    assert!(CriticalFailureLog::verify(&path).unwrap().ok);
}

#[test]
fn every_kind_of_tampering_is_found() {
    assert!(verify_changed(|_| {}).ok);
    let cases: [(&str, AuditReport); 6] = [
        ("changed", verify_changed(|lines| lines[2] = lines[2].replace("agent", "angel"))),
        ("missing", verify_changed(|lines| drop(lines.remove(1)))),
        ("swapped", verify_changed(|lines| lines.swap(1, 3))),
        ("truncated", verify_changed(|lines| lines.truncate(4))),
        ("truncated", verify_changed(Vec::clear)),
        ("changed", verify_changed(|lines| lines[0] = "{}".into())),
    ];
    for (expected, report) in cases {
        assert!(!report.ok, "{expected}");
        assert!(report.faults.iter().any(|fault| fault.kind == expected), "{expected}: {report:?}");
    }
}
