//! A process in uninterruptible sleep: nothing can end it, so it is named, tried again, and never called stopped.

use serde_json::{Value, json};

use crate::scene::frozen::Freezable;
use crate::scene::{Scene, TIERS, process_state, runs, until};

/// Writes to the file for as long as it lives.
fn writes(file: &std::path::Path, sign: &str) -> String {
    format!("echo x >> $CANARY/starts-{sign}; while :; do echo x >> {}; sleep 0.01; done", file.display())
}

/// The critical-failure log's entries about `name` that are this event.
fn recorded(scene: &Scene, name: &str, event: &str) -> Vec<Value> {
    let log = scene.house().state_dir().join("critical-failures.jsonl");
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.filter(|entry| entry["event"] == event && entry["workload"] == name).collect()
}

/// Expects that the stop names `pid` as what is left, and why.
#[track_caller]
fn expect_named(answer: &Value, pid: u64) {
    let job = &answer["jobs"][0];
    assert_eq!((&job["proven_empty"], &job["proof"]), (&false.into(), &json!([])), "{answer:#}");
    let survivors = job["survivors"].as_array().unwrap();
    let found = survivors.iter().find(|survivor| survivor["pid"] == pid);
    let found = found.unwrap_or_else(|| panic!("{pid} is not named: {answer:#}"));
    assert_eq!(found["state"], "D", "{answer:#}");
    assert!(found["start_time"].as_u64().unwrap() > 0 && found["command"] == "sh", "{answer:#}");
    let channel = found["wait_channel"].as_str().unwrap();
    let stack = found["stack"].as_array().unwrap();
    assert!(channel.len() > 1 && stack.len() > 2, "{answer:#}");
    // The function that it waits in stands at the top.
    assert!(stack.iter().any(|frame| frame.as_str().unwrap().starts_with(channel)), "{answer:#}");
}

#[test]
fn what_nothing_can_end_is_named_and_nothing_is_started_in_its_place() {
    let scene = Scene::new();
    let Some(disk) = Freezable::mount(&scene.path()) else { return };
    let (a, b) = (writes(&disk.path().join("a"), "a"), writes(&disk.path().join("b"), "b"));
    scene.house().config(&format!(
        "[workload.a]\ncommand = [\"sh\", \"-c\", {a:?}]\nrestart = \"always\"\ngrace = \"100ms\"\n\
         [workload.b]\ncommand = [\"sh\", \"-c\", {b:?}]\nrestart = \"always\"\ngrace = \"100ms\"\non_breach = \"stop\"\n"
    ));
    let brain = scene.up();
    let pid = |name: &str| scene.wait_state(name, "running")["pid"].as_u64().unwrap();
    let pids = ["a", "b"].map(pid);
    until("both write", || disk.path().join("a").exists() && disk.path().join("b").exists());
    assert!(disk.freeze());
    until("both are stuck", || pids.iter().all(|pid| process_state(*pid) == Some('D')));

    // One is stopped by an operator, the other by a limit.
    let answer = scene.json(3, &["stop", "a"]);
    expect_named(&answer, pids[0]);
    assert_eq!(scene.status("a")["state"], "survivors");
    let told = scene.run(&["stop", "a"]).expect(3).stdout;
    assert!(told.contains(&format!("pid {} sh state D waits in ", pids[0])) && told.contains("+0x"), "{told}");
    scene.json(0, &["limit", "set", "b", "time_max=10ms"]);
    scene.wait_state("b", "survivors");
    until("it is written down", || !recorded(&scene, "b", "stop-not-proven").is_empty());
    let entry = &recorded(&scene, "b", "stop-not-proven")[0];
    assert!(entry["survivors"][0]["stack"][0].is_string() && entry["stop"]["proven_empty"] == false, "{entry:#}");
    assert!(entry["completes"].is_number(), "{entry:#}");

    for name in ["a", "b"] {
        let refused = scene.json(4, &["start", name]);
        assert_eq!(refused["error"]["kind"], "name-taken", "{refused:#}");
        assert_eq!(scene.json(3, &["restart", name])["error"]["kind"], "not-proven");
    }
    let answer = scene.json(3, &["now", "a"]);
    expect_named(&answer, pids[0]);
    assert_eq!(answer["latched"], true, "{answer:#}");
    assert!(answer["next_action"].as_str().unwrap().contains("survivors"), "{answer:#}");
    for (name, pid) in ["a", "b"].into_iter().zip(pids) {
        assert_eq!((&scene.status(name)["state"], runs(pid)), (&"survivors".into(), true), "{name}");
        let starts = std::fs::read_to_string(scene.canary().join(format!("starts-{name}"))).unwrap();
        assert_eq!((starts.as_str(), &scene.status(name)["restarts"]), ("x\n", &json!(0)), "{name} was started again");
        assert!(recorded(&scene, name, "stop").is_empty(), "{name} is called stopped");
    }

    // The kill was never given up: what can be ended ends, without anybody's doing.
    disk.thaw();
    until("both have ended", || !pids.iter().any(|pid| runs(*pid)));
    scene.wait_state("a", "latched");
    until("it is written down", || !recorded(&scene, "a", "stop").is_empty());
    let stop = &recorded(&scene, "a", "stop")[0]["stop"];
    assert_eq!((&stop["proven_empty"], &stop["survivors"]), (&true.into(), &json!([])), "{stop:#}");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Without a cgroup, and without a namespace.
#[test]
fn what_nothing_can_end_is_named_in_each_tier() {
    for &options in &TIERS[1..] {
        let scene = Scene::new();
        let Some(disk) = Freezable::mount(&scene.path()) else { return };
        let file = disk.path().join("file");
        let running = scene.guard("w", options, &["sh", "-c", &writes(&file, "w")], "canary/starts-w");
        until("it writes", || file.exists());
        let pid = scene.status("w")["pid"].as_u64().unwrap();
        assert!(disk.freeze());
        until("it is stuck", || process_state(pid) == Some('D'));
        expect_named(&scene.json(3, &["now", "w"]), pid);
        assert_eq!(scene.status("w")["state"], "survivors", "{options:?}");
        scene.run(&["run", "--name", "w", "--", "true"]).expect(4);
        disk.thaw();
        let ended = running.wait().expect(124);
        assert!(ended.stderr.contains("proven empty ("), "{options:?}: {ended:?}");
        scene.expect_nothing_left();
    }
}
