//! The program and all that it starts are in the job from the first instruction on.

use std::time::Duration;

use estop_watchdog::job::{Limits, Tier};

use super::scene::{Scene, expect_proven, own, until};

#[test]
fn the_tier_is_the_kernels_and_the_exit_code_is_the_programs() {
    let scene = Scene::new();
    let mut job = scene.job("exit", Limits::default());
    assert_eq!(job.job().tier(), Tier::Kernel);
    assert_eq!((job.count(), job.main()), (0, None));
    job.spawn().unwrap();
    until("it has ended", || job.reap().is_some());
    assert_eq!(job.reap().unwrap().code, Some(7));
    until("nothing is left", || job.is_empty());
    expect_proven(&scene, &mut job);
}

#[test]
fn grandchildren_orphans_and_detached_ones_are_in_it_and_none_breaks_away() {
    let scene = Scene::new();
    let mut job = scene.running("tree");
    // The program, the orphan's child, the detached one, the one with a console, the suspended one.
    until("all are there, and are what the system lists", || {
        let mut alive = scene.alive();
        alive.sort_unstable();
        alive.len() == 5 && own(&job) == alive
    });
    assert_eq!(std::fs::read_to_string(scene.path("breakaway")).unwrap(), "Err(Some(5))");
    assert!(expect_proven(&scene, &mut job).processes_before >= 5);
}

#[test]
fn the_job_ends_with_the_last_handle_to_it() {
    let scene = Scene::new();
    let job = scene.running("tree");
    drop(job);
    until("all have ended", || scene.alive().is_empty());
}

#[test]
fn what_cannot_be_run_is_told_and_leaves_nothing() {
    let scene = Scene::new();
    let mut job = scene.job("sleep", Limits::default());
    let mut missing = job.spec().clone();
    missing.program.argv = vec!["no-such-program".to_owned().into()];
    let mut missing = estop_watchdog::JobObjectManager::create(missing, Default::default()).unwrap();
    let error = missing.spawn().unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
    std::fs::write(scene.path("batch.cmd"), "exit").unwrap();
    let mut batch = job.spec().clone();
    batch.program.argv = vec![scene.path("batch.cmd").into()];
    let mut batch = estop_watchdog::JobObjectManager::create(batch, Default::default()).unwrap();
    assert!(batch.spawn().unwrap_err().to_string().contains("batch"));
    assert!(scene.alive().is_empty() && missing.is_empty() && batch.is_empty() && job.is_empty());
}

#[test]
fn a_frozen_job_stands_still_and_goes_on() {
    let scene = Scene::new();
    let mut job = scene.job("beat", Limits::default());
    job.spawn().unwrap();
    let beat = || std::fs::metadata(scene.path("beat")).map_or(0, |metadata| metadata.len());
    until("it beats", || beat() > 0);
    assert!(job.freeze(Duration::from_secs(5)));
    assert!(job.processes(10).iter().all(|process| process.state == 'T'), "{:#?}", job.processes(10));
    let frozen = beat();
    // As long as ten looks of another program take, which is much longer than a beat.
    for _ in 0..10 {
        assert_eq!(scene.alive().len(), 1);
    }
    assert_eq!(beat(), frozen, "it is frozen and writes");
    job.thaw();
    until("it beats again", || beat() != frozen);
    job.freeze(Duration::from_secs(5));
    expect_proven(&scene, &mut job);
}
