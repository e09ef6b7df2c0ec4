//! Incidents that outlive the daemon.

use std::path::Path;

use serde_json::Value;

use crate::scene::{Scene, Signal, until};

/// A workload that ruins its store on a word, and holds a secret.
fn house(scene: &Scene, limits: &str) {
    scene.house().file("kb/note", "as it was");
    let kb = scene.path().join("kb").display().to_string();
    let body = "echo > sign; while [ ! -e ruin ]; do sleep 0.02; done; echo ruined > kb/note; echo > kb/more; echo > ruined; sleep 1000";
    let directory = scene.path().display().to_string();
    scene.house().config(&format!(
        "[store.kb]\npath = {kb:?}\n[secret.key]\ngenerate = {{ length = 20 }}\n\
         [workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\ndirectory = {directory:?}\nstores = [\"kb\"]\nprotect = [\"kb\"]\n\
         secrets = {{ KEY = \"key\" }}\n{limits}"
    ));
    scene.house().feed(&["secret", "put", "key"], "the-first-value").expect(0);
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn wait_closed(scene: &Scene) -> Value {
    let mut incident = Value::Null;
    until("the incident is closed", || {
        let list = scene.json(0, &["incident", "list"]);
        let Some(id) = list["incidents"][0]["id"].as_str() else { return false };
        incident = scene.json(0, &["incident", "show", id]);
        !incident["closed"].is_null()
    });
    incident
}

#[track_caller]
fn expect_recovered(scene: &Scene, incident: &Value) {
    assert_eq!(incident["outcome"], "recovered", "{incident:#}");
    for step in incident["steps"].as_array().unwrap() {
        assert!(["done", "skipped"].contains(&step["state"].as_str().unwrap()), "{incident:#}");
    }
    assert_eq!(read(&scene.path().join("kb/note")), "as it was");
    assert!(!scene.path().join("kb/more").exists());
    let key = scene.run(&["secret", "get", "key"]).expect(0).stdout;
    assert!(!key.contains("the-first-value") && key.trim().len() == 20, "it was not rotated");
    assert_eq!(scene.json(0, &["record", "verify"])["ok"], true);
    assert_eq!(scene.json(0, &["incident", "list"])["incidents"].as_array().unwrap().len(), 1);
}

/// The limit fires without a daemon; the next one does what is left to do.
#[test]
fn a_limit_fires_without_the_daemon_and_the_next_one_recovers() {
    let scene = Scene::new();
    house(&scene, "");
    let brain = scene.up();
    until("it runs", || scene.path().join("sign").exists());
    brain.signal(Signal::KILL);
    brain.wait().expect(137);
    std::fs::write(scene.path().join("ruin"), "").unwrap();
    until("it has ruined its store", || scene.path().join("ruined").exists());
    scene.json(0, &["limit", "set", "a", "time_max=100ms"]);
    until("the limit has ended it", || scene.workload_alive().is_empty());
    assert_eq!(read(&scene.path().join("kb/note")), "ruined\n", "nobody is there to put it back");
    let brain = scene.up();
    let incident = wait_closed(&scene);
    assert_eq!(incident["trigger"], "limit");
    expect_recovered(&scene, &incident);
    scene.wait_state("a", "latched");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Killed in the middle of an incident: the next daemon goes on where it was.
#[test]
fn an_incident_in_the_middle_is_resumed() {
    let scene = Scene::new();
    house(&scene, "");
    // The rotation waits until the test lets it go on, so that the daemon is killed in the middle of it.
    let hook = scene.house().script(
        "hook",
        &format!("echo > {0}/hooked; while [ ! -e {0}/go-on ]; do sleep 0.02; done", scene.path().display()),
    );
    let text = read(&scene.path().join("estop.toml"))
        .replace("length = 20 }", &format!("length = 20 }}\nnotify = [{{ exec = [{hook:?}] }}]"));
    scene.house().config(&text);
    let brain = scene.up();
    until("it runs", || scene.path().join("sign").exists());
    std::fs::write(scene.path().join("ruin"), "").unwrap();
    until("it has ruined its store", || scene.path().join("ruined").exists());
    let answer = scene.json(0, &["now"]);
    let id = answer["incident"].as_str().unwrap().to_owned();
    until("it rotates", || scene.path().join("hooked").exists());
    brain.signal(Signal::KILL);
    brain.wait().expect(137);
    std::fs::write(scene.path().join("go-on"), "").unwrap();
    assert!(scene.json(0, &["incident", "show", &id])["closed"].is_null(), "it was not in the middle");
    let brain = scene.up();
    let incident = wait_closed(&scene);
    assert_eq!(incident["id"], id.as_str());
    expect_recovered(&scene, &incident);
    until("what the killed daemon had run has ended", || scene.workload_alive().is_empty());
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// By `estop now` with the daemon there: it is handed the incident.
#[test]
fn the_daemon_carries_an_operators_incident_through() {
    let scene = Scene::new();
    house(&scene, "");
    let brain = scene.up();
    until("it runs", || scene.path().join("sign").exists());
    std::fs::write(scene.path().join("ruin"), "").unwrap();
    until("it has ruined its store", || scene.path().join("ruined").exists());
    scene.json(0, &["now", "a"]);
    expect_recovered(&scene, &wait_closed(&scene));
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// An emergency in a foreground run that was killed before it could do its part.
#[test]
fn the_daemon_takes_up_what_a_killed_run_left() {
    let scene = Scene::new();
    let note = scene.house().file("kb/note", "as it was");
    let kb = note.parent().unwrap().display().to_string();
    let body = format!("echo ruined > {}; echo > {kb}/more; echo > sign; exec sleep 1000", note.display());
    let run = scene.guard("w", &["--protect", &kb, "--time-max", "2s"], &["sh", "-c", &body], "sign");
    run.signal(Signal::STOP);
    until("the limit has struck", || scene.workload_alive().is_empty());
    assert_eq!(read(&note), "ruined\n");
    run.signal(Signal::KILL);
    run.wait();
    assert_eq!(scene.json(0, &["incident", "list"])["incidents"], serde_json::json!([]));

    let brain = scene.up();
    let incident = wait_closed(&scene);
    assert_eq!((&incident["outcome"], &incident["trigger"]), (&"recovered".into(), &"limit".into()), "{incident:#}");
    assert_eq!(read(&note), "as it was");
    assert!(!Path::new(&kb).join("more").exists());
    until("its directory is cleared", || !scene.run_dir().join("jobs/w").exists());
    assert_eq!(scene.json(0, &["status"])["latched"], true);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// What it protects, itself: removed, or with something else in its place.
#[test]
fn a_protected_directory_that_was_taken_away_is_put_back() {
    let deeds = [("rm -rf kb", false), ("mv kb away; echo > kb", true), ("mv kb away; ln -s away kb", true)];
    // Links need a privilege on Windows.
    for (deed, there) in deeds.into_iter().filter(|(deed, _)| cfg!(unix) || !deed.contains("ln")) {
        let scene = Scene::new();
        let note = scene.house().file("kb/note", "as it was");
        let kb = note.parent().unwrap().to_owned();
        #[cfg(unix)]
        std::fs::set_permissions(&kb, std::os::unix::fs::PermissionsExt::from_mode(0o751)).unwrap();
        let (directory, path) = (scene.path().display().to_string(), kb.display().to_string());
        let body = format!("cd {directory}; {deed}; echo > sign; exec sleep 1000");
        let run = scene.guard("w", &["--protect", &path, "--time-max", "1s"], &["sh", "-c", &body], "sign");
        let outcome = run.wait().expect(124);
        assert!(outcome.stderr.contains("recovered"), "{deed}: {outcome:?}");
        assert_eq!(read(&note), "as it was", "{deed}");
        let found = std::fs::symlink_metadata(&kb).unwrap();
        assert!(found.is_dir());
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&found) & 0o7777, 0o751);
        assert_eq!(std::fs::symlink_metadata(scene.path().join("kb.aside-1")).is_ok(), there, "{deed}");

        // By hand, and by a daemon that is not kept from starting.
        std::fs::remove_dir_all(&kb).unwrap();
        let list = scene.run(&["snapshot", "list", &path]).expect(1);
        assert!(list.stderr.contains("estop rollback"), "{list:?}");
        scene.json(0, &["rollback", &path, "--to", &jiff::Timestamp::now().to_string()]);
        assert!(kb.is_dir());
        scene.expect_nothing_left();
    }
}

#[test]
fn a_store_that_was_taken_away_keeps_no_daemon_from_starting() {
    let scene = Scene::new();
    house(&scene, "");
    let brain = scene.up();
    scene.wait_state("a", "running");
    scene.json(0, &["stop", "a"]);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    std::fs::remove_dir_all(scene.path().join("kb")).unwrap();
    let brain = scene.up();
    scene.wait_state("a", "failed");
    scene.json(0, &["rollback", "kb", "--to", &jiff::Timestamp::now().to_string()]);
    assert_eq!(read(&scene.path().join("kb/note")), "as it was");
    scene.json(0, &["start", "a"]);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Whatever snapshots are made of the damage meanwhile.
#[test]
fn a_run_is_put_back_to_what_it_began_with() {
    let scene = Scene::new();
    let note = scene.house().file("kb/note", "as it was");
    let kb = note.parent().unwrap().display().to_string();
    let body = format!("echo ruined > {}; echo > sign; exec sleep 1000", note.display());
    let run = scene.guard("w", &["--protect", &kb], &["sh", "-c", &body], "sign");
    scene.json(0, &["snapshot", "create", &kb]);
    scene.run(&["run", "--name", "other", "--protect", &kb, "--", "true"]).expect(0);
    scene.run(&["run", "--name", "w", "--protect", &kb, "--", "true"]).expect(4);
    scene.json(0, &["now", "w"]);
    run.wait().expect(124);
    assert_eq!(read(&note), "as it was");
    scene.expect_nothing_left();
}

#[test]
fn a_restart_is_approved_once_the_latch_is_released() {
    let scene = Scene::new();
    scene.house().config(
        "[workload.a]\ncommand = [\"sleep\", \"1000\"]\n[recovery]\non_critical_stop = [\"rollback\", \"rotate\", \"restart\"]\n",
    );
    let brain = scene.up();
    scene.wait_state("a", "running");
    let id = scene.json(0, &["now", "a"])["incident"].as_str().unwrap().to_owned();
    until("it waits for a person", || scene.run(&["incident", "show", &id]).stdout.contains("waits for approval"));
    let refused = scene.run(&["incident", "approve", &id]).expect(4);
    assert!(refused.stderr.contains("estop reset"), "{refused:?}");
    scene.json(0, &["reset"]);
    assert_eq!(scene.json(0, &["incident", "approve", &id])["outcome"], "recovered");
    scene.wait_state("a", "running");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}
