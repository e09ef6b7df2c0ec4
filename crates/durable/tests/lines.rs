//! Chained JSON lines: what was appended can be read by anyone, and no line is changed, moved or lost unnoticed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use estop_durable::Error;
use estop_durable::lines::{FaultKind, Lines, verify};
use serde_json::{Map, Value, json};

fn entry(number: u64) -> Map<String, Value> {
    let Value::Object(fields) = json!({"event": "stop", "number": number, "text": "\"hash\":\"}\n"}) else {
        unreachable!()
    };
    fields
}

fn written(dir: &Path, lines: u64) -> (PathBuf, Vec<String>) {
    let path = dir.join("log.jsonl");
    let log = Lines::open(&path).unwrap();
    for number in 1..=lines {
        assert_eq!(log.append(&entry(number)).unwrap(), number);
    }
    let text = fs::read_to_string(&path).unwrap();
    (path, text.lines().map(str::to_owned).collect())
}

fn kinds(path: &Path) -> Vec<FaultKind> {
    verify(path).unwrap().faults.into_iter().map(|fault| fault.kind).collect()
}

fn write(path: &Path, lines: &[String]) {
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

#[test]
fn every_line_is_json_and_an_untouched_file_has_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (path, lines) = written(dir.path(), 5);
    for (index, line) in lines.iter().enumerate() {
        let fields: Map<String, Value> = serde_json::from_str(line).unwrap();
        assert_eq!(fields["number"], index + 1);
    }
    let report = verify(&path).unwrap();
    assert!(report.ok && report.lines == 5);
    assert!(verify(&dir.path().join("absent")).unwrap().ok);
}

#[test]
fn a_changed_a_missing_a_swapped_and_a_truncated_line_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (path, good) = written(dir.path(), 5);

    let mut lines = good.clone();
    lines[2] = lines[2].replace("stop", "shop");
    write(&path, &lines);
    assert_eq!(kinds(&path), [FaultKind::Changed]);

    for missing in 0..4 {
        let mut lines = good.clone();
        lines.remove(missing);
        write(&path, &lines);
        assert_eq!(kinds(&path), [FaultKind::Missing], "line {missing}");
    }

    let mut lines = good.clone();
    lines.swap(1, 3);
    write(&path, &lines);
    assert!(kinds(&path).contains(&FaultKind::Swapped));

    write(&path, &good[..3]);
    assert_eq!(kinds(&path), [FaultKind::Truncated]);
    fs::remove_file(&path).unwrap();
    assert_eq!(kinds(&path), [FaultKind::Truncated]);
}

#[test]
fn a_forged_line_with_a_right_hash_of_its_own_does_not_fit_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (path, good) = written(dir.path(), 3);
    let other = tempfile::tempdir().unwrap();
    let forged = Lines::open(&other.path().join("f")).unwrap();
    for number in [7, 8, 9] {
        forged.append(&entry(number)).unwrap();
    }
    let forged: Vec<_> = fs::read_to_string(other.path().join("f")).unwrap().lines().map(str::to_owned).collect();
    for at in 0..3 {
        let mut lines = good.clone();
        lines[at].clone_from(&forged[at]);
        write(&path, &lines);
        assert!(!verify(&path).unwrap().ok, "line {at}");
    }
    // The whole file forged: the head beside it tells.
    write(&path, &forged);
    assert!(!verify(&path).unwrap().ok);
}

#[test]
fn an_unfinished_line_is_cut_and_a_lost_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, good) = written(dir.path(), 3);
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"event\":\"half");
    fs::write(&path, text).unwrap();
    let log = Lines::open(&path).unwrap();
    assert_eq!(log.append(&entry(4)).unwrap(), 4);
    assert!(verify(&path).unwrap().ok);

    write(&path, &good[..2]);
    assert!(matches!(log.append(&entry(5)), Err(Error::Damaged { .. })));
}

#[test]
fn many_appenders_make_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let log = Lines::open(&path).unwrap();
                for number in 0..10 {
                    log.append(&entry(number)).unwrap();
                }
            });
        }
    });
    let report = verify(&path).unwrap();
    assert!(report.ok && report.lines == 40, "{report:?}");
}
