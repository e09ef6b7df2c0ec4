//! What the daemon does by itself: snapshots, their rotation, new values for secrets.

use crate::scene::{Scene, until};

/// The snapshots of the store, as the schedule made them.
fn scheduled(scene: &Scene) -> Vec<String> {
    let list = scene.json(0, &["snapshot", "list", "kb"]);
    let made = list["snapshots"].as_array().unwrap().iter().filter(|snapshot| snapshot["origin"] == "schedule");
    made.map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn snapshots_are_made_and_rotated_but_none_is_given_up_while_their_workload_is_latched() {
    let scene = Scene::new();
    let kb = scene.house().file("kb/note", "text");
    let kb = kb.parent().unwrap();
    scene.house().config(&format!(
        "[store.kb]\npath = {kb:?}\nsnapshot_every = \"1s\"\nkeep = {{ last = 2 }}\n\
         [workload.a]\ncommand = [\"sleep\", \"1000\"]\nprotect = [\"kb\"]\n"
    ));
    let brain = scene.up();
    let mut seen = std::collections::BTreeSet::new();
    until("old ones make room for new ones", || {
        seen.extend(scheduled(&scene));
        seen.len() > 3
    });
    until("two are kept", || scheduled(&scene).len() <= 2);

    scene.json(0, &["now", "a"]);
    until("the incident is closed", || {
        let list = scene.json(0, &["incident", "list"]);
        list["incidents"].as_array().unwrap().iter().all(|incident| incident["closed"].is_string())
    });
    until("they are still made, and all are kept", || scheduled(&scene).len() > 4);
    scene.json(0, &["reset"]);
    until("two are kept again", || scheduled(&scene).len() <= 2);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn a_secret_gets_a_new_value_when_it_is_due_and_one_without_a_schedule_keeps_its_own() {
    let scene = Scene::new();
    scene.house().config("[secret.due]\nrotate_every = \"1s\"\n[secret.still]\n");
    for name in ["due", "still"] {
        scene.house().feed(&["secret", "put", name], "the first value").expect(0);
    }
    let brain = scene.up();
    until("it was rotated twice", || {
        let versions = scene.json(0, &["secret", "versions", "due"]);
        versions["versions"].as_array().unwrap().len() > 2
    });
    assert_eq!(scene.json(0, &["secret", "versions", "still"])["versions"].as_array().unwrap().len(), 1);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}
