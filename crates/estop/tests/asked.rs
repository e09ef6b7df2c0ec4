//! On Windows a program can be asked to end by a command of its own.
#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use scene::{Scene, until};

#[test]
fn a_stop_command_is_run_in_the_job_and_what_it_asks_for_is_waited_for() {
    let scene = Scene::new();
    let body = "echo > $CANARY/ready; while [ ! -e $CANARY/please ]; do sleep 0.02; done; echo > $CANARY/heard; exit 7";
    // It stays after it has asked: with the job it ends too.
    let stop = "echo ${KEY}x > $CANARY/key; echo > $CANARY/please; sleep 1000";
    scene.house().config(&format!(
        "[workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\nstop_command = [\"sh\", \"-c\", {stop:?}]\ngrace = \"60s\"\n\
         environment = {{ KEY = \"secret\" }}\n"
    ));
    let brain = scene.up();
    until("it runs", || scene.canary().join("ready").exists());
    let answer = scene.json(0, &["stop", "a"]);
    assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
    assert!(scene.canary().join("heard").exists(), "it was not waited for");
    until("its end is known", || scene.status("a")["last_exit"]["code"] == 7);
    assert_eq!(
        std::fs::read_to_string(scene.canary().join("key")).unwrap().trim(),
        "x",
        "it got the program's variables"
    );
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn a_stop_command_that_does_not_exist_is_refused() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"sleep\", \"1000\"]\nstop_command = [\"no-such-program\"]\n");
    let refused = scene.run(&["config", "check"]).expect(2);
    assert!(refused.stderr.contains("no-such-program"), "{refused:?}");
}
