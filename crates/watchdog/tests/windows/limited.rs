//! What is measured, and what is limited.

use std::time::Duration;

use estop_watchdog::job::Limits;
use estop_watchdog::job::windows::is_wine;

use super::scene::{Scene, expect_proven, until};

#[test]
fn a_busy_program_and_a_large_one_are_seen() {
    let scene = Scene::new();
    let mut job = scene.running("busy");
    until("it is seen to be busy", || {
        job.sample();
        job.last_sample().unwrap().cpu_cores > 0.3
    });
    expect_proven(&scene, &mut job);

    let scene = Scene::new();
    let mut job = scene.running("hog");
    job.sample();
    let sample = *job.last_sample().unwrap();
    assert!(sample.memory_bytes > 60 << 20 && sample.processes >= 1, "{sample:?}");
    expect_proven(&scene, &mut job);
}

#[test]
fn limits_are_taken_not_enforced_under_wine() {
    let limits = Limits {
        memory_max: Some(64 << 20),
        pids_max: Some(8),
        cpu_max: Some(0.5),
        time_max: Some(Duration::from_secs(60)),
    };
    let scene = Scene::new();
    let mut job = scene.job("sleep", limits);
    let enforced = job.job().enforced();
    assert_eq!((enforced.memory, enforced.pids, enforced.cpu), (!is_wine(), !is_wine(), !is_wine()));
    job.spawn().unwrap();
    job.set_limits(Limits::default(), Default::default()).unwrap();
    expect_proven(&scene, &mut job);
}
