//! Incidents and the critical-failure log.

use std::process::Stdio;

use estop_recovery::{
    CriticalFailure, CriticalFailureLog, Detail, Incident, IncidentStore, Journal as _, Plan, Settings, StepKind,
    StepState, Trigger,
};
use serde_json::Value;

use crate::house::{House, Outcome};

/// Records an incident whose stop is over and whose rotation of `secrets` waits for a person. Without secrets, its check is left.
pub(crate) fn waiting(house: &House, secrets: &[&str]) -> String {
    let settings = Settings {
        rotate: secrets.iter().map(|name| (*name).to_owned()).collect(),
        approval: [StepKind::Rotate].into(),
        ..Settings::default()
    };
    let plan = Plan::build(&settings).unwrap();
    let reason = Some("it ate the memory".to_owned());
    let mut incident = Incident::new(Trigger::Limit, reason, vec!["agent".to_owned()], &plan);
    for kind in [StepKind::Latch, StepKind::Freeze, StepKind::Capture, StepKind::Stop] {
        incident.already_taken(kind, StepState::Done, 0.01, &Detail::new());
    }
    IncidentStore::open(&house.state_dir().join("incidents")).unwrap().save(&incident).unwrap();
    incident.id.to_string()
}

fn state(incident: &Value, step: &str) -> Value {
    let steps = incident["steps"].as_array().unwrap();
    steps.iter().find(|one| one["step"] == step).map(|one| one["state"].clone()).unwrap()
}

#[test]
fn an_approved_incident_goes_on_to_its_end_and_a_follower_sees_it() {
    let house = House::new();
    house.feed(&["secret", "put", "token"], "exposed").expect(0);
    house.config("[secret.token]\n");
    let id = waiting(&house, &["token"]);
    let shown = house.run(&["incident", "show", &id]).expect(0);
    for word in ["waits for approval", "it ate the memory", "rotate", "estop incident approve"] {
        assert!(shown.stdout.contains(word), "{word}: {shown:?}");
    }
    let mut follower = house.command(&["--json", "incident", "follow", &id]);
    let follower = follower.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    house.run(&["incident", "approve", &id, "--step", "restart"]).expect(1);
    house.run(&["incident", "approve", &id, "--step", "nonsense"]).expect(2);
    let ended = house.json(0, &["incident", "approve", &id, "--step", "rotate"]);
    assert_eq!((&ended["outcome"], state(&ended, "rotate")), (&"recovered".into(), "done".into()));
    assert_eq!(state(&ended, "verify"), "done");
    assert_ne!(house.run(&["secret", "get", "token"]).stdout, "exposed");
    house.run(&["secret", "get", "token", "--version", "1"]).expect(1);

    let ended = Outcome::from(follower.wait_with_output().unwrap()).expect(0);
    let seen: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(seen.iter().all(|one| one["schema_version"] == 1), "{seen:?}");
    assert_eq!(seen.last().unwrap()["outcome"], "recovered");
    assert_eq!(house.json(1, &["incident", "resume", &id])["error"]["kind"], "closed");
}

#[test]
fn what_can_not_be_done_ends_as_partial_and_says_so() {
    let house = House::new();
    house.feed(&["secret", "put", "unmade"], "exposed").expect(0);
    let id = waiting(&house, &["unmade"]);
    let carried = house.run(&["incident", "approve", &id]).expect(3);
    assert!(carried.stderr.contains("rotate FAILED"), "the step is not told as it happens: {carried:?}");
    let shown = house.run(&["incident", "show", &id]).expect(0);
    assert!(shown.stdout.contains("partial") && shown.stdout.contains("unmade STILL EXPOSED"), "{shown:?}");
}

#[test]
fn incidents_are_listed_newest_first_closed_and_exported_and_damaged_ones_named() {
    let house = House::new();
    assert_eq!(house.json(0, &["incident", "list"])["incidents"], Value::Array(Vec::new()));
    house.run(&["incident", "show", "0"]).expect(1);
    assert!(!house.state_dir().exists(), "looking made something");
    let (first, second) = (waiting(&house, &["a"]), waiting(&house, &["a"]));

    let listed = house.json(0, &["incident", "list"]);
    let ids: Vec<&Value> = listed["incidents"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [&second, &first]);
    assert_eq!(house.json(1, &["incident", "show", &first[..6]])["error"]["kind"], "no-such-incident", "two begin so");

    let closed = house.json(0, &["incident", "abort", &first, "--reason", "a false alarm"]);
    assert_eq!((&closed["outcome"], &closed["abort_reason"]), (&"partial".into(), &"a false alarm".into()));
    house.run(&["incident", "abort", &first]).expect(1);

    let log = CriticalFailureLog::open(&house.state_dir().join("critical-failures.jsonl")).unwrap();
    for id in [&first, &second] {
        let mut entry = CriticalFailure::new("limit-breach");
        entry.incident = Some(id.parse().unwrap());
        log.append(&entry).unwrap();
    }
    let exported = house.json(0, &["incident", "export", &first]);
    assert_eq!(exported["incident"]["id"], *first);
    assert_eq!(exported["critical_failures"].as_array().unwrap().len(), 1);
    assert_eq!(exported["critical_failure_log_ok"], true);

    let file = house.state_dir().join(format!("incidents/{second}.incident"));
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let listed = house.run(&["--json", "incident", "list"]).expect(0);
    assert_eq!(listed.json()["incidents"].as_array().unwrap().len(), 1);
    assert!(listed.stderr.contains(&second), "the damaged one is not named: {listed:?}");
    house.run(&["incident", "show", &second]).expect(1);
}

#[test]
fn a_changed_removed_or_swapped_line_of_the_record_is_found() {
    let house = House::new();
    house.run(&["record", "verify"]).expect(0);
    assert!(!house.state_dir().exists(), "checking made something");
    let path = house.state_dir().join("critical-failures.jsonl");
    let log = CriticalFailureLog::open(&path).unwrap();
    for number in 0..4 {
        let mut entry = CriticalFailure::new("limit-breach");
        entry.reason = Some(format!("reason {number}"));
        log.append(&entry).unwrap();
    }
    let whole = std::fs::read_to_string(&path).unwrap();
    let report = house.json(0, &["record", "verify"]);
    assert_eq!((&report["ok"], &report["lines"]), (&true.into(), &4.into()));

    let lines: Vec<&str> = whole.lines().collect();
    let changed = whole.replace("reason 1", "reason 7");
    let missing = format!("{}\n{}\n{}\n", lines[0], lines[2], lines[3]);
    let swapped = format!("{}\n{}\n{}\n{}\n", lines[0], lines[2], lines[1], lines[3]);
    let truncated = format!("{}\n{}\n{}\n", lines[0], lines[1], lines[2]);
    for (kind, text, line) in
        [("changed", changed, 2), ("missing", missing, 2), ("swapped", swapped, 3), ("truncated", truncated, 4)]
    {
        std::fs::write(&path, text).unwrap();
        let report = house.json(3, &["record", "verify"]);
        let faults = report["faults"].as_array().unwrap();
        assert!(faults.iter().any(|fault| fault["kind"] == kind && fault["line"] == line), "{kind}: {report}");
        let told = house.run(&["record", "verify"]).expect(3);
        assert!(told.stdout.contains(kind), "{told:?}");
    }
}

#[test]
fn a_damaged_record_keeps_nothing_from_being_recorded_and_is_not_forgotten() {
    let house = House::new();
    let path = house.state_dir().join("critical-failures.jsonl");
    let append = |reason: &str| {
        let mut entry = CriticalFailure::new("limit-breach");
        entry.reason = Some(reason.to_owned());
        CriticalFailureLog::open(&path).unwrap().append(&entry).unwrap()
    };
    append("the first");
    append("the second");
    let mut damaged = std::fs::read_to_string(&path).unwrap();
    damaged.push_str("x\n");
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(append("the third"), 1, "a new log begins");
    append("the fourth");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("the third") && text.contains("the fourth") && !text.contains("the first"));
    let report = house.json(3, &["record", "verify"]);
    assert_eq!(
        (&report["ok"], &report["lines"], &report["faults"][0]["kind"]),
        (&false.into(), &2.into(), &"damaged".into())
    );
    let kept = report["faults"][0]["detail"].as_str().unwrap().rsplit(' ').next().unwrap();
    assert_eq!(std::fs::read_to_string(kept).unwrap(), damaged, "it was changed");
}
