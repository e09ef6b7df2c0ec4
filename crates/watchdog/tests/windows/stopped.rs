//! Whatever lives in the job ends, and the stop is proven.

use estop_watchdog::job::windows::is_wine;

use super::scene::{Scene, expect_proven, own, until};

#[test]
fn chains_that_start_themselves_anew_end() {
    for _ in 0..3 {
        let scene = Scene::new();
        let mut job = scene.running("chains");
        until("they are at it", || job.count() > 1);
        expect_proven(&scene, &mut job);
    }
}

#[test]
fn three_hundred_children_end_at_once_and_each_was_listed() {
    let scene = Scene::new();
    let mut job = scene.running("300");
    assert_eq!(own(&job).len(), 301);
    let all = job.count();
    let report = expect_proven(&scene, &mut job);
    assert_eq!(report.processes_before, all);
    assert!(report.proof.contains(&format!("{all} process handles signalled")), "{report:#?}");
}

/// It is asked by Ctrl-Break, or where that is refused by Ctrl-C, and takes the question for answered. Wine delivers neither to a
/// program with a console of its own, and says that it did.
#[test]
fn who_is_deaf_to_its_console_is_asked_and_ended_all_the_same_not_delivered_under_wine() {
    let scene = Scene::new();
    let mut job = scene.running("deaf");
    job.signal(15).unwrap();
    until("it was asked", || is_wine() || scene.path("heard").exists());
    assert!(job.reap().is_none(), "it has ended of a question that it did not heed");
    expect_proven(&scene, &mut job);
}
