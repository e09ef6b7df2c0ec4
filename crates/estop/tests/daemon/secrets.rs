//! Secrets reach the workload that they are for, and nothing and nobody else.

use crate::scene::{Running, Scene, until};

const FIRST: &str = "the-first-value-of-the-secret";

fn walk(dir: &std::path::Path, visit: &mut impl FnMut(&std::path::Path)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        } else {
            visit(&entry.path());
        }
    }
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// The secret stands nowhere in clear, but where it is meant to be.
#[track_caller]
fn expect_hidden(scene: &Scene, value: &str) {
    walk(&scene.house().state_dir(), &mut |path| {
        let delivered =
            path.components().any(|part| part.as_os_str() == "jobs") && path.parent().unwrap().ends_with("secrets");
        let bytes = std::fs::read(path).unwrap_or_default();
        assert!(delivered || !contains(&bytes, value), "{} holds the secret in clear", path.display());
    });
    #[cfg(unix)]
    for pid in std::fs::read_dir("/proc").unwrap().flatten() {
        let bytes = std::fs::read(pid.path().join("cmdline")).unwrap_or_default();
        assert!(!contains(&bytes, value), "{} shows the secret", String::from_utf8_lossy(&bytes));
    }
}

/// The secret is known to be where the workload has got it, and gets a new version.
#[track_caller]
fn rotate_what_is_exposed(scene: &Scene) {
    expect_hidden(scene, FIRST);
    let exposure = scene.json(0, &["secret", "exposure", "a/key"]).to_string();
    assert!(exposure.contains("\"a\"") && exposure.contains("file") && exposure.contains("env"), "{exposure}");
    let rotated = scene.json(0, &["rotate", "a/key"]);
    assert_eq!(rotated["rotations"][0]["promoted"], true, "{rotated:#}");
}

/// The daemon ends, the file `outside` with it, and the new value stands nowhere in clear.
#[track_caller]
fn nothing_is_left_of(scene: &Scene, brain: Running, outside: &std::path::Path, value: &str) {
    expect_hidden(scene, value);
    scene.json(0, &["down"]);
    assert!(!outside.exists(), "a secret was left behind");
    let log = brain.wait().expect(0).stderr;
    assert!(!log.contains(FIRST) && !log.contains(value), "{log}");
    scene.expect_nothing_left();
}

#[cfg(unix)]
fn delivers(user: &str) {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let scene = Scene::new();
    scene.open_to_others();
    std::fs::set_permissions(scene.canary(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let body = "trap 'cat \"$ESTOP_SECRETS_DIR/file\" > $CANARY/after' HUP; \
                printf %s \"$KEY\" > $CANARY/variable; cat \"$ESTOP_SECRETS_DIR/file\" > $CANARY/file; \
                stat -c %a \"$ESTOP_SECRETS_DIR/file\" \"$ESTOP_SECRETS_DIR\" > $CANARY/modes; \
                ls -A \"$STATE\" > $CANARY/state 2>&1; find \"$STATE\" -type f > $CANARY/found 2>/dev/null; \
                echo > $CANARY/ready; while :; do sleep 0.02; done";
    scene.house().config(&format!(
        "[secret.\"a/key\"]\ngenerate = {{ length = 30 }}\nnotify = [{{ signal = \"HUP\", workload = \"a\" }}]\n\
         [secret.other]\ngenerate = {{ length = 30 }}\n\
         [workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\n{user}\nsecrets = {{ KEY = \"a/key\" }}\nsecret_files = {{ file = \"a/key\" }}\n\
         environment = {{ STATE = {:?} }}\n",
        scene.house().state_dir().display().to_string()
    ));
    scene.house().feed(&["secret", "put", "a/key"], FIRST).expect(0);
    scene.house().feed(&["secret", "put", "other"], "not-its-own").expect(0);
    let brain = scene.up();
    let read = |name: &str| std::fs::read_to_string(scene.canary().join(name)).unwrap_or_default();
    until("it has looked", || scene.canary().join("ready").exists());
    assert_eq!((read("variable").as_str(), read("file").as_str()), (FIRST, FIRST));
    assert_eq!(read("modes"), "600\n700\n");
    // Inside, nothing of the state directory is to be seen but the workload's own secrets.
    let found = read("found");
    assert!(found.lines().all(|line| line.ends_with("/jobs/a/secrets/file")), "seen inside: {found}");
    let outside = scene.run_dir().join("jobs/a/secrets/file");
    let metadata = std::fs::metadata(&outside).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    rotate_what_is_exposed(&scene);
    until("it was told, and read the new value", || read("after").len() == 30);
    assert_eq!(read("after"), scene.run(&["secret", "get", "a/key"]).stdout.trim_end());
    let replaced = std::fs::metadata(&outside).unwrap();
    assert_eq!((replaced.mode() & 0o7777, replaced.uid()), (0o600, metadata.uid()));
    nothing_is_left_of(&scene, brain, &outside, &read("after"));
}

#[test]
fn as_estops_own_user() {
    #[cfg(unix)]
    delivers("");
    #[cfg(windows)]
    delivers_by_polling();
}

/// There is no signal by which a workload could be told: it looks again when the test says so.
#[cfg(windows)]
fn delivers_by_polling() {
    let scene = Scene::new();
    let body = "printf %s \"$KEY\" > $CANARY/variable; cat \"$ESTOP_SECRETS_DIR/file\" > $CANARY/file; echo > $CANARY/ready; \
                while [ ! -e $CANARY/again ]; do sleep 0.02; done; \
                cat \"$ESTOP_SECRETS_DIR/file\" > $CANARY/after; echo > $CANARY/looked; sleep 1000";
    scene.house().config(&format!(
        "[secret.\"a/key\"]\ngenerate = {{ length = 30 }}\n\
         [workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\nsecrets = {{ KEY = \"a/key\" }}\nsecret_files = {{ file = \"a/key\" }}\n"
    ));
    scene.house().feed(&["secret", "put", "a/key"], FIRST).expect(0);
    let brain = scene.up();
    let read = |name: &str| std::fs::read_to_string(scene.canary().join(name)).unwrap_or_default();
    until("it has looked", || scene.canary().join("ready").exists());
    assert_eq!((read("variable").as_str(), read("file").as_str()), (FIRST, FIRST));
    let outside = scene.run_dir().join("jobs/a/secrets/file");
    rotate_what_is_exposed(&scene);
    std::fs::write(scene.canary().join("again"), "").unwrap();
    until("it has read the new value", || scene.canary().join("looked").exists());
    assert_eq!(read("after"), scene.run(&["secret", "get", "a/key"]).stdout.trim_end());
    nothing_is_left_of(&scene, brain, &outside, &read("after"));
}

#[cfg(unix)]
#[test]
fn as_another_user() {
    if crate::scene::is_root() {
        delivers("user = \"nobody\"");
    }
}

/// A program may say its secrets; whoever looks at its output need not see them.
#[test]
fn what_it_says_of_its_secrets_is_masked_when_it_is_shown() {
    let scene = Scene::new();
    let body = "echo \"key is $KEY.\"; echo > $CANARY/said; exec sleep 1000";
    scene.house().config(&format!(
        "[secret.\"a/key\"]\ngenerate = {{ length = 30 }}\n\
         [workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\nsecrets = {{ KEY = \"a/key\" }}\n\
         [workload.b]\ncommand = [\"sh\", \"-c\", \"echo no secrets; exec sleep 1000\"]\n"
    ));
    scene.house().feed(&["secret", "put", "a/key"], FIRST).expect(0);
    let brain = scene.up();
    until("it has said it", || scene.canary().join("said").exists());
    until("it is shown", || scene.run(&["logs", "a"]).stdout == "key is ***.\n");
    assert_eq!(scene.json(0, &["logs", "a"])["lines"], serde_json::json!(["key is ***."]));
    let follows = scene.spawn(&["logs", "a", "--follow"]);
    until("it is followed", || follows.output() == "key is ***.\n");
    drop(follows);
    until("others are shown as they are", || scene.run(&["logs", "b"]).stdout == "no secrets\n");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}
