//! What was stopped stays stopped until a person says otherwise.

use crate::scene::Scene;

const CONFIG: &str = "[workload.a]\ncommand = [\"sleep\", \"1000\"]\n[workload.b]\ncommand = [\"sleep\", \"1000\"]\nrestart = \"always\"\n";

#[test]
fn it_holds_for_a_new_daemon_without_a_run_directory_and_a_reset_starts_nothing() {
    let scene = Scene::new();
    scene.house().config(CONFIG);
    let brain = scene.up();
    scene.wait_state("a", "running");
    scene.wait_state("b", "running");
    let answer = scene.json(0, &["now", "--reason", "enough"]);
    assert_eq!(answer["jobs"].as_array().unwrap().len(), 2, "{answer:#}");
    scene.wait_state("b", "latched");
    brain.leave();
    // All that a restart of the machine leaves.
    std::fs::remove_dir_all(scene.run_dir()).unwrap();
    let brain = scene.up();
    for name in ["a", "b"] {
        scene.wait_state(name, "latched");
        scene.run(&["start", name]).expect(4);
        scene.run(&["run", "--name", name, "--", "true"]).expect(4);
    }
    let status = scene.json(0, &["status"]);
    assert_eq!(
        (&status["latched"], &status["latch"]["scope"]),
        (&true.into(), &serde_json::json!(["all"])),
        "{status:#}"
    );
    assert_eq!((&status["latch"]["by"], &status["latch"]["reason"]), (&"operator".into(), &"enough".into()));
    scene.json(0, &["reset", "--reason", "looked at it"]);
    for name in ["a", "b"] {
        scene.wait_state(name, "stopped");
    }
    scene.json(0, &["start", "a"]);
    scene.wait_state("a", "running");
    assert_eq!(scene.status("b")["state"], "stopped");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn a_name_latches_that_name_alone() {
    let scene = Scene::new();
    scene.house().config(CONFIG);
    let brain = scene.up();
    scene.wait_state("a", "running");
    let before = scene.wait_state("b", "running");
    scene.json(0, &["now", "a"]);
    scene.wait_state("a", "latched");
    assert_eq!(scene.status("b")["pid"], before["pid"]);
    assert_eq!(scene.json(0, &["status"])["latch"]["scope"], serde_json::json!(["a"]));
    scene.run(&["start", "a"]).expect(4);
    scene.json(0, &["restart", "b"]);
    scene.json(0, &["reset", "a"]);
    scene.json(0, &["start", "a"]);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// A latch that was damaged is a latch.
#[test]
fn a_damaged_latch_holds() {
    let scene = Scene::new();
    scene.json(3, &["now"]);
    let slot = scene.house().state_dir().join("latch/all");
    let length = usize::try_from(std::fs::metadata(&slot).unwrap().len()).unwrap();
    std::fs::write(&slot, vec![7; length]).unwrap();
    assert_ne!(scene.run(&["run", "--", "true"]).code, 0);
    scene.json(0, &["reset"]);
    scene.run(&["run", "--", "true"]).expect(0);
    scene.expect_nothing_left();
}

/// What cannot be looked at is latched, and is not taken for nothing.
#[test]
fn a_file_in_place_of_the_latch_or_of_the_incidents_is_an_error() {
    let scene = Scene::new();
    scene.run(&["run", "--", "true"]).expect(0);
    let state = scene.house().state_dir();
    for (place, commands) in [
        ("latch", &[&["reset"][..], &["run", "--", "true"], &["status"]][..]),
        ("incidents", &[&["incident", "list"], &["incident", "show", "0"]]),
    ] {
        let _ = std::fs::remove_dir_all(state.join(place));
        std::fs::write(state.join(place), "").unwrap();
        for command in commands {
            let outcome = scene.run(command);
            assert!(outcome.code != 0 && outcome.stderr.contains(place), "{command:?}: {outcome:?}");
        }
        std::fs::remove_file(state.join(place)).unwrap();
    }
    scene.run(&["run", "--", "true"]).expect(0);
    scene.expect_nothing_left();
}

#[test]
fn what_was_not_released_is_said() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["reset"]).expect(0).stdout, "nothing was latched\n");
    scene.json(3, &["now"]);
    let said = scene.run(&["reset", "a"]).expect(0).stdout;
    assert!(said.starts_with("nothing was released") && said.contains("`estop reset` without names"), "{said}");
    assert_eq!(scene.json(0, &["reset", "a"])["latched"], true);
    scene.json(0, &["reset"]);
    assert_eq!(scene.run(&["reset", "a"]).expect(0).stdout, "not latched: a\n");
}
