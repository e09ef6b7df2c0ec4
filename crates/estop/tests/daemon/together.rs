//! What all workloads may have together. The kernel keeps it, so these need what root has on every host of the tests.

use std::fmt::Write as _;

use serde_json::Value;

use crate::scene::{Scene, until};

/// Two workloads with these commands, and what they may have together.
fn house(scene: &Scene, together: &str, commands: [&str; 2]) {
    let mut config = format!("[together]\n{together}\n");
    for (name, command) in ["a", "b"].into_iter().zip(commands) {
        let _ = write!(config, "[workload.{name}]\ncommand = [\"sh\", \"-c\", {command:?}]\non_breach = \"stop\"\n");
    }
    scene.house().config(&config);
}

fn entry(scene: &Scene) -> Option<Value> {
    let text = std::fs::read_to_string(scene.house().state_dir().join("critical-failures.jsonl")).ok()?;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).find(|entry: &Value| entry["event"] == "stop")
}

#[test]
fn many_small_ones_do_not_get_more_memory_than_all_may_have() {
    if !crate::scene::is_root() {
        return;
    }
    let scene = Scene::new();
    let hog = "python3 -c 'b=bytearray(120<<20); import time; time.sleep(1000)' & wait $!; sleep 1000";
    house(&scene, "memory_max = \"200MiB\"", [hog, hog]);
    let brain = scene.up();
    until("one of them is stopped for it", || entry(&scene).is_some());
    let breach = entry(&scene).unwrap();
    assert_eq!(breach["reason"], "memory of all workloads together reached the limit of 209715200 bytes", "{breach:#}");
    let of = |state: &str| ["a", "b"].into_iter().filter(|name| scene.status(name)["state"] == state).count();
    until("the other one runs on", || (of("stopped"), of("running")) == (1, 1));
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn many_small_ones_do_not_get_more_processes_than_all_may_have() {
    if !crate::scene::is_root() {
        return;
    }
    let scene = Scene::new();
    // Bounded: 41 in each at most. A shell would end where it cannot fork.
    let forks = "exec python3 -c 'import os, time\nfor i in range(40):\n  try:\n    os.fork() or time.sleep(1000)\n  except OSError: pass\ntime.sleep(1000)'";
    house(&scene, "pids_max = 64", [forks, forks]);
    let brain = scene.up();
    let processes = || ["a", "b"].map(|name| scene.status(name)["processes"].as_u64().unwrap_or(0));
    until("there is no more room", || processes().iter().sum::<u64>() >= 60);
    assert!(processes().iter().sum::<u64>() <= 64, "{:?}", processes());
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn where_the_kernel_does_not_keep_it_nothing_is_started() {
    let scene = Scene::new();
    scene.house().config("[together]\nmemory_max = \"1GiB\"\n");
    let sign = scene.path().join("sign");
    let outcome = scene.run(&["run", "--no-cgroup", "--", "touch", &sign.display().to_string()]).expect(4);
    assert!(outcome.stderr.contains("together.memory_max"), "{}", outcome.stderr);
    assert!(!sign.exists());
}
