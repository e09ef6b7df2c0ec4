//! A daemon that is killed, and the next one.

use serde_json::json;

use crate::scene::{Scene, Signal, signal, until};

#[test]
fn the_next_daemon_adopts_what_runs_what_is_frozen_and_what_is_stopping() {
    let scene = Scene::new();
    scene.house().config(
        "[workload.runs]\ncommand = [\"sleep\", \"1000\"]\nrestart = \"always\"\n\
         [workload.frozen]\ncommand = [\"sleep\", \"1000\"]\nrestart = \"always\"\n\
         [workload.stopping]\ncommand = [\"sh\", \"-c\", \"trap : TERM; echo > sign; while [ ! -e enough ]; do sleep 0.02; done\"]\n\
         grace = \"60s\"\nrestart = \"always\"\n",
    );
    let brain = scene.up();
    let runs = scene.wait_state("runs", "running");
    let frozen = scene.wait_state("frozen", "running");
    let stopping = scene.wait_state("stopping", "running");
    until("it has its trap", || scene.path().join("sign").exists());
    scene.json(0, &["freeze", "frozen"]);
    let stop = scene.spawn(&["--json", "stop", "stopping"]);
    scene.wait_state("stopping", "stopping");
    brain.signal(Signal::KILL);
    brain.wait().expect(137);
    for (name, before, state) in
        [("runs", &runs, "running"), ("frozen", &frozen, "frozen"), ("stopping", &stopping, "stopping")]
    {
        let now = scene.status(name);
        assert_eq!((&now["pid"], &now["state"]), (&before["pid"], &state.into()), "{name} without a daemon");
    }
    let brain = scene.up();
    until("it has adopted them", || brain.errors().matches("adopted").count() >= 3);
    for (name, before) in [("runs", &runs), ("frozen", &frozen), ("stopping", &stopping)] {
        let now = scene.status(name);
        assert_eq!((&now["pid"], &now["restarts"]), (&before["pid"], &json!(0)), "{name} was started again");
    }
    scene.json(0, &["thaw", "frozen"]);
    assert_eq!(scene.status("frozen")["state"], "running");
    std::fs::write(scene.path().join("enough"), "").unwrap();
    let answer = stop.wait().expect(0).json();
    assert_eq!(answer["jobs"][0]["proven_empty"], true);
    // It was stopped on purpose, under the daemon before: it is not started again.
    scene.wait_state("stopping", "stopped");
    // The adopted are watched over: one that dies is started again.
    signal(u32::try_from(runs["pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    until("it was started again", || {
        let now = scene.status("runs");
        now["state"] == "running" && now["pid"] != runs["pid"]
    });
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn now_needs_no_daemon_and_waits_for_none() {
    for fate in [Signal::KILL, Signal::STOP] {
        let scene = Scene::new();
        let villain = scene.villain();
        scene.house().config(&format!("[workload.a]\ncommand = [{villain:?}, \"everything\"]\nrestart = \"always\"\n"));
        let brain = scene.up();
        until("it runs", || scene.canary().join("ready").exists());
        brain.signal(fate);
        let answer = scene.json(0, &["now"]);
        assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
        let left = scene.workload_alive();
        assert!(left.is_empty(), "{fate:?}: alive: {left:#?}");
        if fate == Signal::STOP {
            brain.signal(Signal::CONT);
            scene.wait_state("a", "latched");
            scene.json(0, &["down"]);
            brain.wait().expect(0);
        } else {
            brain.wait().expect(137);
        }
        scene.expect_nothing_left();
    }
}

/// Its end, and that of its job, are noticed; nothing of it is left.
#[test]
fn a_guardian_that_dies_takes_its_job_along_and_is_replaced() {
    let scene = Scene::new();
    let villain = scene.villain();
    scene.house().config(&format!("[workload.a]\ncommand = [{villain:?}, \"everything\"]\n"));
    let brain = scene.up();
    until("it runs", || scene.canary().join("ready").exists());
    let guardian = scene.status("a")["guardian"]["pid"].as_u64().unwrap();
    signal(u32::try_from(guardian).unwrap(), Signal::KILL);
    scene.wait_state("a", "failed");
    let left = scene.workload_alive();
    assert!(left.is_empty(), "alive: {left:#?}");
    scene.json(0, &["start", "a"]);
    scene.wait_state("a", "running");
    scene.json(0, &["now"]);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn what_the_loss_of_the_daemon_means_is_the_workloads_choice() {
    let scene = Scene::new();
    let common = "command = [\"sleep\", \"1000\"]\nbrain_loss_grace = \"100ms\"\n";
    scene.house().config(&format!(
        "[workload.keep]\n{common}[workload.freeze]\n{common}on_brain_loss = \"freeze\"\n[workload.stop]\n{common}on_brain_loss = \"stop\"\n"
    ));
    let brain = scene.up();
    let before: Vec<_> = ["keep", "freeze", "stop"].map(|name| scene.wait_state(name, "running")).into();
    brain.signal(Signal::KILL);
    brain.wait().expect(137);
    scene.wait_state("freeze", "frozen");
    scene.wait_state("stop", "stopped");
    assert_eq!(scene.status("keep")["state"], "running");
    let brain = scene.up();
    let thawed = scene.wait_state("freeze", "running");
    assert_eq!((&thawed["pid"], &thawed["restarts"]), (&before[1]["pid"], &json!(0)));
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn a_daemon_that_hangs_is_told_from_one_that_is_not_there() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let brain = scene.up();
    scene.wait_state("a", "running");
    let present = scene.json(0, &["status"])["brain"].clone();
    assert_eq!((&present["pid"], &present["answers"]), (&brain.pid().into(), &true.into()));
    brain.signal(Signal::STOP);
    let silent = scene.json(0, &["status"])["brain"].clone();
    assert_eq!((&silent["pid"], &silent["answers"]), (&brain.pid().into(), &false.into()));
    assert!(scene.run(&["status"]).expect(0).stdout.contains("DOES NOT ANSWER"));
    for command in [&["start", "a"][..], &["down"]] {
        let refused = scene.json(5, command);
        assert_eq!(refused["error"]["kind"], "daemon-silent", "{refused:#}");
    }
    assert_eq!(scene.json(0, &["stop", "a"])["jobs"][0]["proven_empty"], true);
    brain.signal(Signal::KILL);
    brain.wait().expect(137);
    assert_eq!(scene.json(0, &["status"])["brain"], serde_json::Value::Null);
    assert_eq!(scene.json(5, &["down"])["error"]["kind"], "no-daemon");
    scene.expect_nothing_left();
}
