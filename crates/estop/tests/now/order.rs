//! The order, and its answer.

use serde_json::Value;

use crate::scene::{Held, Running, Scene, Signal, TIERS, until};

/// A job of villains, that do not end when asked.
fn villains(scene: &Scene, name: &str, options: &[&str]) -> Running {
    let _ = std::fs::remove_file(scene.canary().join("ready"));
    scene.guard(name, &[options, &["--grace", "300ms"]].concat(), &[&scene.villain(), "everything"], "canary/ready")
}

fn guardian(scene: &Scene, name: &str) -> Held {
    Held::new(u32::try_from(scene.status(name)["guardian"]["pid"].as_u64().unwrap()).unwrap())
}

#[test]
fn the_answer_has_every_field_of_the_contract() {
    let scene = Scene::new();
    let running = villains(&scene, "w", &[]);
    let answer = scene.json(0, &["now", "--reason", "a drill"]);
    assert_eq!((&answer["trigger"], &answer["reason"]), (&"operator".into(), &"a drill".into()));
    assert_eq!((&answer["latched"], &answer["latch_durable"]), (&true.into(), &true.into()));
    assert!(answer["searched"].as_array().is_some_and(|searched| searched.len() >= if cfg!(unix) { 2 } else { 1 }));
    assert_eq!(answer["unreachable"], serde_json::json!([]));
    assert!(!answer["next_action"].as_str().unwrap().is_empty());
    let job = &answer["jobs"][0];
    assert_eq!((&job["name"], &job["category"], &job["proven_empty"]), (&"w".into(), &0.into(), &true.into()));
    assert!(job["tier"].is_string() && job["isolation"].is_string() && job["stop_seconds"].is_f64(), "{job:#}");
    assert!(job["processes_before"].as_u64().unwrap() > 30 && job["survivors"] == serde_json::json!([]), "{job:#}");
    assert!(job["proof"].as_array().unwrap().iter().all(Value::is_string) && job["proof"][0] != "", "{job:#}");
    running.wait().expect(124);
    let incident = scene.json(0, &["incident", "show", answer["incident"].as_str().unwrap()]);
    assert_eq!((&incident["trigger"], &incident["workloads"]), (&"operator".into(), &serde_json::json!(["w"])));
    assert_eq!(scene.json(0, &["record", "verify"])["ok"], true);
    scene.expect_nothing_left();
}

#[test]
fn finding_nothing_is_no_success_and_latches_all_the_same() {
    let scene = Scene::new();
    let answer = scene.json(3, &["now"]);
    assert_eq!(answer["jobs"], serde_json::json!([]));
    assert!(answer["searched"].as_array().is_some_and(|searched| !searched.is_empty()), "{answer:#}");
    assert_eq!(scene.json(0, &["status"])["latched"], true);
    scene.run(&["run", "--", "true"]).expect(4);
    // Somebody who asks by a name that is not there has ended nothing either.
    let running = villains(&Scene::new(), "w", &[]);
    drop(running);
    let other = Scene::new();
    let running = villains(&other, "w", &[]);
    other.json(3, &["now", "no-such-name"]);
    assert_eq!(other.status("w")["state"], "running");
    other.json(0, &["now", "w"]);
    running.wait().expect(124);
    other.expect_nothing_left();
}

#[test]
fn a_guardian_that_is_stopped_does_not_save_its_job() {
    for &options in TIERS {
        let scene = Scene::new();
        let running = villains(&scene, "w", options);
        let guardian = guardian(&scene, "w");
        guardian.signal(Signal::STOP);
        let answer = scene.json(0, &["now"]);
        assert_eq!(answer["unreachable"], serde_json::json!(["w"]), "{answer:#}");
        assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
        let left = scene.workload_alive();
        assert!(left.is_empty(), "{options:?}: answered, alive: {left:#?}");
        guardian.signal(Signal::CONT);
        running.wait();
        scene.expect_nothing_left();
    }
}

/// Nobody is left who could be asked: `run` itself is killed too.
#[test]
fn what_a_dead_guardian_left_is_ended() {
    for &options in TIERS {
        let scene = Scene::new();
        let running = villains(&scene, "w", options);
        let guardian = guardian(&scene, "w");
        running.signal(Signal::KILL);
        guardian.signal(Signal::KILL);
        running.wait().expect(137);
        let outcome = scene.run(&["--json", "now"]);
        // Where the kernel has ended it already there is nothing left to be found.
        assert!([0, 3].contains(&outcome.code), "{outcome:?}");
        if options == ["--no-cgroup", "--no-pid-namespace"] {
            // Best effort: who wiped its environment and was orphaned by its guardian's death can be found by nothing.
            let mut left = scene.workload_alive();
            left.retain(|_, arguments| !arguments.contains("nameless"));
            assert!(left.is_empty(), "alive: {left:#?}");
        } else {
            until("the kernel has ended it", || scene.workload_alive().is_empty());
            scene.json(3, &["now"]);
            scene.expect_nothing_left();
        }
    }
}

#[test]
fn asking_first_lets_the_willing_end_by_themselves() {
    let scene = Scene::new();
    let body = "trap 'echo asked > asked; exit 0' TERM; echo > sign; while :; do sleep 0.02; done";
    let willing = scene.guard("willing", &[], &["sh", "-c", body], "sign");
    let unwilling = villains(&scene, "unwilling", &[]);
    let answer = scene.json(0, &["now", "--category", "1"]);
    assert_eq!(answer["jobs"].as_array().unwrap().len(), 2);
    for job in answer["jobs"].as_array().unwrap() {
        assert_eq!(job["proven_empty"], true, "{job:#}");
    }
    assert!(scene.path().join("asked").exists());
    willing.wait().expect(124);
    unwilling.wait().expect(124);
    scene.expect_nothing_left();
}

#[test]
fn a_shell_that_can_start_nothing_reaches_the_guardians_too() {
    let scene = Scene::new();
    let one = villains(&scene, "one", &[]);
    let two = villains(&scene, "two", &["--no-cgroup"]);
    std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
    one.wait().expect(124);
    two.wait().expect(124);
    assert_eq!(scene.json(0, &["status"])["latched"], true);
    scene.expect_nothing_left();
}

/// An editor, or a shell after `rm`, puts another file in its place.
#[test]
fn a_file_now_that_was_replaced_is_heard_too() {
    let scene = Scene::new();
    let running = villains(&scene, "one", &[]);
    std::fs::remove_file(scene.run_dir().join("now")).unwrap();
    let beside = scene.path().join("beside");
    std::fs::write(&beside, "no\n").unwrap();
    std::fs::rename(&beside, scene.run_dir().join("now")).unwrap();
    assert_eq!(scene.status("one")["state"], "running", "it says no");
    std::fs::write(&beside, "now\n").unwrap();
    std::fs::rename(&beside, scene.run_dir().join("now")).unwrap();
    running.wait().expect(124);
    scene.expect_nothing_left();
}

/// The configuration is what people break in a hurry.
#[test]
fn a_broken_configuration_does_not_stop_the_stop() {
    let scene = Scene::new();
    let running = villains(&scene, "w", &[]);
    // Even where the place is named by nothing else.
    let state = scene.house().state_dir();
    scene.house().config(&format!("[workload.w]\ncommand = \n???\n[estop]\nstate_dir = {state:?}\n[x\n"));
    scene.run(&["status"]).expect(2);
    let mut command = scene.command(&["--json", "now"]);
    let outcome = scene.start(command.env_remove("ESTOP_STATE_DIR")).wait().expect(0);
    assert_eq!(outcome.json()["jobs"][0]["proven_empty"], true);
    assert!(outcome.stderr.contains("estop.toml"), "{outcome:?}");
    running.wait();
    scene.run(&["reset"]).expect(0);
    std::fs::remove_file(scene.path().join("estop.toml")).unwrap();
    scene.run(&["run", "--", "true"]).expect(0);
    scene.expect_nothing_left();
}

/// A state directory that cannot be written, as on a full or broken disk: killed all the same, and said.
#[cfg(unix)]
#[test]
fn a_latch_that_cannot_be_written_does_not_hold_up_the_kill() {
    let scene = Scene::new();
    let running = villains(&scene, "w", &[]);
    let latch = scene.house().state_dir().join("latch");
    std::fs::remove_dir_all(&latch).unwrap();
    std::fs::write(&latch, "").unwrap();
    let answer = scene.run(&["--json", "now"]).expect(0).json();
    assert_eq!(
        (&answer["latch_durable"], &answer["jobs"][0]["proven_empty"]),
        (&false.into(), &true.into()),
        "{answer:#}"
    );
    running.wait();
    std::fs::remove_file(&latch).unwrap();
    scene.expect_nothing_left();
}

/// Its own guardian still has the job, and nothing leads to either of them: that is said, beside whatever else was stopped.
#[test]
fn a_job_whose_record_was_taken_away_is_ended_or_told() {
    let scene = Scene::new();
    let (hidden, other) = (villains(&scene, "hidden", &[]), villains(&scene, "other", &[]));
    let record = scene.run_dir().join("jobs/hidden/job.json");
    std::fs::rename(&record, scene.path().join("record")).unwrap();
    let outcome = scene.run(&["--json", "now"]);
    let answer = outcome.json();
    if outcome.code == 0 {
        // By the name of its cgroup, or by its guardian, which was found all the same.
        let names: Vec<_> = answer["jobs"].as_array().unwrap().iter().map(|job| job["name"].clone()).collect();
        assert!(names.contains(&"hidden".into()) && scene.workload_alive().is_empty(), "{answer:#}");
    } else {
        assert_eq!(outcome.code, 3, "{answer:#}");
        assert!(answer["next_action"].as_str().unwrap().contains("hidden"), "{answer:#}");
    }
    other.wait().expect(124);
    std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
    hidden.wait();
    scene.expect_nothing_left();
}

/// What was ordered once is done once: neither another file's change nor the next start is an order.
#[test]
fn a_file_now_that_was_obeyed_is_no_order_any_more() {
    let scene = Scene::new();
    let first = villains(&scene, "first", &[]);
    std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
    first.wait().expect(124);
    scene.json(0, &["reset"]);
    let second = villains(&scene, "second", &[]);
    std::fs::write(scene.run_dir().join("another"), "x").unwrap();
    std::fs::write(scene.run_dir().join("another"), "y").unwrap();
    assert_eq!(scene.status("second")["state"], "running");
    std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
    second.wait().expect(124);
    scene.expect_nothing_left();
}
