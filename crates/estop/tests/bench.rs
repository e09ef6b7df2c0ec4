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
    let mut command = house.command(&["--json", "bench", "--rounds", "1", "--processes", "1,10,100"]);
    let outcome: Outcome = command.env(TEMPORARY, &room).stdin(Stdio::null()).output().unwrap().into();
    let report = outcome.expect(0).json();
    let measured = report["measurements"].as_array().unwrap();
    let of = |name: &str| -> &Value {
        measured.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"))
    };
    for (name, unit) in [
        ("monitoring_overhead_1_processes", "ratio"),
        ("monitoring_overhead_100_processes", "ratio"),
        ("monitoring_overhead_100_processes_1_hz", "ratio"),
        ("guardian_memory_100_processes", "bytes"),
        ("stop_10_processes", "seconds"),
        ("stop_100_processes", "seconds"),
        ("stop_answer_100_processes", "seconds"),
        ("freeze_100_processes", "seconds"),
        ("thaw_100_processes", "seconds"),
        ("stops_proven_empty", "ratio"),
        ("snapshot_10000_files", "seconds"),
        ("rollback_10000_files", "seconds"),
        ("rotation", "seconds"),
        ("brain_memory", "bytes"),
    ] {
        assert_eq!(of(name)["unit"], unit);
        assert!(of(name)["value"].as_f64().is_some_and(|value| value > 0.0), "{}", of(name));
    }
    // What a host does not have is said, and not left out.
    for name in [
        "stop_fork_bomb",
        "kernel_kill_100_processes",
        "kernel_freeze_and_kill_fork_bomb",
        "stop_to_kernel_100_processes",
        "detection_time",
        "detection_cpu_time",
        "detection_memory",
        "detection_pids",
        "kernel_pressure",
        "detection_pressure",
    ] {
        let measured = of(name)["value"].as_f64().is_some_and(|value| value >= 0.0);
        assert!(measured || of(name)["detail"].as_str().unwrap().starts_with("not measured: "), "{}", of(name));
        assert!(!measured || !of(name)["detail"].as_str().unwrap().contains("not measured"), "{}", of(name));
    }
    assert_eq!(of("stops_proven_empty")["value"], 1.0);
    assert!(of("stops_proven_empty")["detail"].as_str().unwrap().contains(" 0 survivors"), "{report:#}");
    assert!(is_empty(&room), "it left something in its temporary directory");
}

#[test]
fn only_the_parts_that_are_named_are_measured() {
    let house = House::new();
    let report = house.run(&["--json", "bench", "keys", "--rounds", "1"]).expect(0).json();
    let names: Vec<_> = report["measurements"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["rotation"], "{report:#}");
    house.run(&["bench", "watchdogs"]).expect(2);
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
        std::fs::read_dir(dir).unwrap().flatten().any(|sandbox| sandbox.path().join("watched-1.ready").exists())
    };
    until("a tree is started", || started(&room));
    rustix::process::kill_process(rustix::process::Pid::from_child(&bench), rustix::process::Signal::INT).unwrap();
    let outcome: Outcome = bench.wait_with_output().unwrap().into();
    assert!(outcome.stderr.contains("interrupted"), "{outcome:?}");
    outcome.expect(1);
    assert!(is_empty(&room), "it left something in its temporary directory");
}
