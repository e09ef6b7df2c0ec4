//! Whatever lives in the job ends, and the stop is proven.

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
fn sixty_children_end_at_once_and_each_was_listed() {
    let scene = Scene::new();
    let mut job = scene.running("60");
    assert_eq!(own(&job).len(), 61);
    let all = job.count();
    let report = expect_proven(&scene, &mut job);
    assert_eq!(report.processes_before, all);
    assert!(report.proof.contains(&format!("{all} process handles signalled")), "{report:#?}");
}
