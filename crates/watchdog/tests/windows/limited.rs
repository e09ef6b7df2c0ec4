//! What is measured, and what is limited.

use std::time::Duration;

use estop_watchdog::job::Limits;
use estop_watchdog::job::windows::is_wine;
use estop_watchdog::ladder::{Metric, Thresholds};
use estop_watchdog::{Error, JobObjectManager};

use super::scene::{Scene, expect_proven, until};

#[test]
fn a_busy_program_and_a_large_one_are_seen() {
    let scene = Scene::new();
    let mut job = scene.running("busy");
    until("it is seen to be busy", || {
        job.sample(None);
        job.last_sample().unwrap().cpu_cores > 0.3
    });
    expect_proven(&scene, &mut job);

    let scene = Scene::new();
    let mut job = scene.running("hog");
    job.sample(None);
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
        process_memory_max: Some(48 << 20),
        cpu_time_max: Some(Duration::from_secs(60)),
        ..Limits::default()
    };
    let scene = Scene::new();
    let mut job = scene.job("sleep", limits);
    let enforced = job.job().enforced();
    let kept = [enforced.memory, enforced.pids, enforced.cpu, enforced.process_memory];
    assert_eq!(kept, [!is_wine(); 4]);
    // One job has a cap or a weight.
    assert!(!enforced.cpu_weight);
    job.spawn().unwrap();
    job.set_limits(Limits::default(), Default::default()).unwrap();
    expect_proven(&scene, &mut job);
}

/// The system refuses it the memory, or the monitor sees that it has it.
#[test]
fn a_process_that_is_too_large_is_a_breach() {
    let scene = Scene::new();
    let mut job = scene.job("hog", Limits { process_memory_max: Some(48 << 20), ..Limits::default() });
    job.spawn().unwrap();
    until("it is a breach", || job.sample(None).is_some_and(|breach| breach.metric == Metric::ProcessMemory));
    expect_proven(&scene, &mut job);
}

#[test]
fn cpu_time_of_all_is_a_breach() {
    let scene = Scene::new();
    let mut job = scene.job("busy", Limits { cpu_time_max: Some(Duration::from_millis(300)), ..Limits::default() });
    job.spawn().unwrap();
    until("it is a breach", || job.sample(None).is_some_and(|breach| breach.metric == Metric::CpuTime));
    assert!(job.monitor().peak().cpu_seconds >= 0.3);
    expect_proven(&scene, &mut job);
}

/// Wine has no processor rates and counts no input and output for jobs: then nothing would enforce these.
#[test]
fn what_nothing_enforces_is_refused_not_enforced_under_wine() {
    let scene = Scene::new();
    for (limits, name) in [
        (Limits { cpu_weight: Some(50), ..Limits::default() }, "cpu_weight"),
        (Limits { io_max: Some(1 << 30), ..Limits::default() }, "io_max"),
    ] {
        match JobObjectManager::create(scene.spec("sleep", limits), Thresholds::default()) {
            Err(Error::Unenforceable { limit, .. }) => assert!(is_wine() && limit == name, "{limit}"),
            Err(error) => panic!("{name}: {error}"),
            Ok(mut job) => {
                assert!(!is_wine(), "{name}");
                assert!(limits.cpu_weight.is_none() || job.job().enforced().cpu_weight);
                let capped = Limits { cpu_max: Some(0.5), ..limits };
                job.set_limits(capped, Thresholds::default()).unwrap();
                assert!(!job.job().enforced().cpu_weight, "the cap goes first");
            }
        }
    }
    let mut job = scene.job("sleep", Limits { pids_max: Some(8), ..Limits::default() });
    job.spawn().unwrap();
    let refused = job.set_limits(Limits { io_max: Some(1 << 30), ..Limits::default() }, Thresholds::default());
    assert_eq!(refused.is_err(), is_wine());
    assert_eq!(job.spec().limits.pids_max, is_wine().then_some(8), "what was in force stays so");
    expect_proven(&scene, &mut job);
}
