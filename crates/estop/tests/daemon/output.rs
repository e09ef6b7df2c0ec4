//! What is kept of a workload's output, and for how long.

use crate::scene::{Scene, until};

/// Nobody waits for anybody: neither the workload for who takes its oldest lines away, nor a reader.
#[test]
fn output_goes_when_it_is_too_old_and_a_follower_reads_on() {
    let scene = Scene::new();
    let body = "i=0; while :; do i=$((i+1)); echo line $i; echo $i > $CANARY/count; sleep 0.05; done";
    scene.house().config(&format!(
        "[workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\nlog_age_max = \"3s\"\nrestart = \"never\"\n"
    ));
    let brain = scene.up();
    scene.wait_state("a", "running");
    let follower = scene.spawn(&["logs", "--follow", "a"]);
    let lines = || -> Vec<u64> {
        let shown = scene.run(&["logs", "a"]).expect(0).stdout;
        assert!(!shown.contains('\0'), "the hole is shown: {shown:?}");
        shown.lines().map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect()
    };
    until("the first lines are there", || lines().first() == Some(&1));
    until("they are gone", || lines().first().is_some_and(|first| *first > 40));
    let kept = lines();
    assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1), "{kept:?}");
    let count = || std::fs::read_to_string(scene.canary().join("count")).unwrap().trim().parse::<u64>().unwrap_or(0);
    let then = count();
    until("it goes on writing", || count() > then + 5);
    until("the follower has read on", || follower.output().contains(&format!("line {}\n", then + 5)));
    let shown = follower.output();
    let whole = shown.lines().enumerate().all(|(index, line)| line == format!("line {}", index + 1));
    assert!(whole, "a follower missed or repeated something: {shown}");
    drop(follower);

    // What an earlier run has left goes with the next start, as soon as it is too old.
    scene.json(0, &["stop", "a"]);
    scene.wait_state("a", "stopped");
    let left = lines();
    assert!(!left.is_empty(), "nobody takes it away while nothing runs");
    scene.json(0, &["start", "a"]);
    until("what the first run left is gone", || {
        let now = lines();
        now.windows(2).all(|pair| pair[1] == pair[0] + 1) && now.len() > 2 && now[0] > 2
    });
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}
