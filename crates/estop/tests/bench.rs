//! `estop bench`, as its users see it. What it measures decides nothing here: that it measures, and leaves nothing, does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;

use std::path::Path;
use std::process::Stdio;

#[cfg(unix)]
use house::until;
use house::{House, Outcome};
use serde_json::Value;

/// The variable that names the place for temporary files.
const TEMPORARY: &str = if cfg!(windows) { "TMP" } else { "TMPDIR" };

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn every_criterion_is_measured_and_nothing_is_left_behind() {
    let house = House::new();
    let room = house.path().join("room");
    std::fs::create_dir(&room).unwrap();
    let mut command = house.command(&["--json", "bench", "--rounds", "1"]);
    let outcome: Outcome = command.env(TEMPORARY, &room).stdin(Stdio::null()).output().unwrap().into();
    let report = outcome.expect(0).json();
    let measured = report["measurements"].as_array().unwrap();
    let of = |name: &str| -> &Value {
        measured.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"))
    };
    for (name, unit) in [
        ("monitoring_overhead_1_processes", "ratio"),
        ("monitoring_overhead_100_processes", "ratio"),
        ("monitoring_overhead_1000_processes", "ratio"),
        ("stop_10_processes", "seconds"),
        ("stop_100_processes", "seconds"),
        ("stop_1000_processes", "seconds"),
        ("stops_proven_empty", "ratio"),
        ("guardian_memory", "bytes"),
        ("snapshot_10000_files", "seconds"),
        ("rollback_10000_files", "seconds"),
        ("rotation", "seconds"),
        ("brain_memory", "bytes"),
    ] {
        assert_eq!(of(name)["unit"], unit);
        assert!(of(name)["value"].as_f64().is_some_and(|value| value > 0.0), "{}", of(name));
    }
    assert_eq!(of("stops_proven_empty")["value"], 1.0);
    // Trees of 1, 10, 100 and 1,000: none was stopped before it was whole.
    assert!(
        of("stops_proven_empty")["detail"].as_str().unwrap().starts_with("4 stops of 1111 processes"),
        "{report:#}"
    );
    assert!(is_empty(&room), "it left something in its temporary directory");
}

#[cfg(unix)]
#[test]
fn an_interruption_takes_everything_away() {
    let house = House::new();
    let room = house.path().join("room");
    std::fs::create_dir(&room).unwrap();
    let mut command = house.command(&["bench", "--rounds", "1"]);
    command.env(TEMPORARY, &room).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let bench = command.spawn().unwrap();
    let started = |dir: &Path| {
        std::fs::read_dir(dir).unwrap().flatten().any(|sandbox| sandbox.path().join("tree-1-0.ready").exists())
    };
    until("a tree is started", || started(&room));
    rustix::process::kill_process(rustix::process::Pid::from_child(&bench), rustix::process::Signal::INT).unwrap();
    let outcome: Outcome = bench.wait_with_output().unwrap().into();
    assert!(outcome.stderr.contains("interrupted"), "{outcome:?}");
    outcome.expect(1);
    assert!(is_empty(&room), "it left something in its temporary directory");
}
