//! A workload that wants to be rid of its guard: what it tries, and what comes of it, seen from inside and outside.
//!
//! What each isolation cannot prevent stands in the tests by name, so that it is a decision and no surprise.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use scene::{Running, Scene, is_root, runs, until};
use serde_json::Value;

/// Every attempt prints `NAME yes` or `NAME no`.
const ATTEMPTS: &str = include_str!("scene/attempts.py");

/// A scene with a workload that has tried everything, and what it says of it.
struct Tried {
    scene: Scene,
    run: Running,
    bystander: Running,
    guardian: u64,
    said: BTreeMap<String, bool>,
}

/// What the villain is to keep its hands off, a guardian of somebody else's, and the villain's arguments.
fn prepare(scene: &Scene, options: &[&str]) -> (Running, Vec<String>) {
    scene.open_to_others();
    std::fs::set_permissions(scene.canary(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let script = scene.house().file("attempts.py", ATTEMPTS);
    let kb = scene.path().join("kb");
    let note = scene.house().file("kb/note", "text");
    let program = scene.path().join("estop-copy");
    std::fs::copy(house::ESTOP, &program).unwrap();
    if scene.is_ordinary() {
        crate::scene::give(&kb);
        crate::scene::give(&note);
    }
    let mut child =
        scene.command(&["secret", "put", "other"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"not-its-own").unwrap();
    assert!(child.wait().unwrap().success());
    scene.json(0, &["snapshot", "create", kb.to_str().unwrap()]);
    // It does not wait for a disk that takes its time.
    until("something is latched", || scene.json(3, &["now", "latched"])["latched"] == true);
    let command = ["sh", "-c", "echo > $CANARY/bystander; exec sleep 1000"];
    let bystander = scene.guard("bystander", options, &command, "canary/bystander");
    let victim = scene.status("bystander")["guardian"]["pid"].as_u64().unwrap();
    let paths = [script, program, scene.house().state_dir(), scene.run_dir(), kb];
    let mut arguments: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    arguments.extend([scene.instance(), victim.to_string()]);
    (bystander, arguments)
}

/// What the villain says of its attempts.
fn said(scene: &Scene) -> BTreeMap<String, bool> {
    let text = std::fs::read_to_string(scene.canary().join("tried")).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap()).map(|(name, did)| (name.to_owned(), did == "yes")).collect()
}

/// Lets the villain try, with estop as the scene's user, started with `options`.
fn tried(scene: Scene, options: &[&str]) -> Tried {
    let (bystander, arguments) = prepare(&scene, options);
    let command: Vec<&str> = ["python3"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let run = scene.guard("w", options, &command, "canary/tried");
    let guardian = scene.status("w")["guardian"]["pid"].as_u64();
    let guardian = guardian.unwrap_or_else(|| panic!("its guardian is gone: {}", run.errors()));
    let said = said(&scene);
    assert_eq!(scene.status("bystander")["state"], "running");
    Tried { scene, run, bystander, guardian, said }
}

impl Tried {
    /// Nothing that it tried came off, but for what stands in `cannot_prevent`.
    #[track_caller]
    fn expect_held(self, cannot_prevent: &[&str]) {
        let came_off: Vec<&str> = self.said.iter().filter(|(_, did)| **did).map(|(name, _)| name.as_str()).collect();
        assert!(self.said.len() >= 16, "not everything was tried: {:?}", self.said);
        assert_eq!(came_off, cannot_prevent, "{:#?}; {}", self.said, self.run.errors());
        // From outside.
        let scene = self.scene;
        assert!(runs(self.guardian), "its guardian is gone");
        let status = scene.json(0, &["status"]);
        assert_eq!(status["latch"]["scope"], serde_json::json!(["latched"]), "the latch was touched: {status:#}");
        let workload = scene.status("w");
        assert_eq!(
            (&workload["state"], &workload["guardian"]["alive"]),
            (&Value::from("running"), &true.into()),
            "{workload:#}"
        );
        assert_eq!(scene.run(&["secret", "get", "other"]).expect(0).stdout, "not-its-own");
        let kb = scene.path().join("kb").display().to_string();
        assert_eq!(scene.json(0, &["snapshot", "verify", &kb])["ok"], true);
        let answer = scene.json(0, &["now", "w"]);
        assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
        self.run.wait().expect(124);
        scene.json(0, &["now", "bystander"]);
        self.bystander.wait().expect(124);
        scene.expect_nothing_left();
    }
}

/// Without a guard around it the same program does come off with it: the attempts are real ones.
#[test]
fn nothing_but_the_guard_prevents_it() {
    let scene = Scene::new();
    let (bystander, arguments) = prepare(&scene, &[]);
    let mut command = scene.command(&[]);
    let mut villain = std::process::Command::new("python3");
    for (name, value) in command.env("UNGUARDED", "1").get_envs() {
        if let Some(value) = value {
            villain.env(name, value);
        }
    }
    let free = scene.start(villain.args(&arguments));
    until("it has tried everything", || scene.canary().join("tried").exists());
    let said = said(&scene);
    for name in [
        "resets_the_latch",
        "reads_a_secret_by_command",
        "reads_the_key_of_all_secrets",
        "lists_the_secrets",
        "deletes_the_state",
        "sees_a_vault",
        "renames_a_vault_away",
        "deletes_a_snapshot",
        "lifts_a_limit",
        "connects_to_a_socket",
        "connects_by_the_known_name",
        "writes_the_now_file",
        "signals_a_guardian",
    ] {
        assert!(said[name], "{name}: {said:#?}; {}", free.errors());
    }
    // What an ordinary user cannot do to its own processes either, where ptrace is restricted.
    assert!(
        !is_root() || said["traces_a_guardian"] && said["reads_a_guardians_memory"],
        "{said:#?}; {}",
        free.errors()
    );
    drop((bystander, free));
}

/// A caller inside a job gets no verb that weakens its guard, also if it was handed a way to the sockets.
#[test]
fn a_descriptor_that_was_handed_down_does_not_help() {
    for options in [&[][..], &["--no-pid-namespace"], &["--no-cgroup"], &["--no-cgroup", "--no-pid-namespace"]] {
        let scene = Scene::new();
        scene.house().config("[workload.other]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n");
        let _brain = scene.up();
        let _bystander = scene.guard("bystander", &[], &["sh", "-c", "echo > sign; exec sleep 1000"], "sign");
        let program = scene.path().join("estop-copy");
        std::fs::copy(house::ESTOP, &program).unwrap();
        let inside = "for order in 'freeze w' 'limit set w time_max=none' 'inspect w' 'stop w' 'start other' 'freeze bystander'; do \
                      ESTOP_STATE_DIR=/tmp ESTOP_RUN_DIR=/proc/self/fd/3 \"$0\" $order >> $CANARY/answers 2>&1; echo \"code $?\" >> $CANARY/answers; \
                      done; echo > $CANARY/tried; exec sleep 1000";
        let script = format!("exec 3<'{}'; exec \"$@\"", scene.run_dir().display());
        let mut shell = std::process::Command::new("sh");
        for (name, value) in scene.command(&[]).get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        shell.args(["-c", &script, "sh", house::ESTOP, "run", "--name", "w"]).args(options);
        let running = scene.start(shell.args(["--", "sh", "-c", inside]).arg(&program));
        until("it has tried", || scene.canary().join("tried").exists());
        let answers = std::fs::read_to_string(scene.canary().join("answers")).unwrap();
        assert_eq!(answers.matches("the caller is inside a").count(), 6, "{options:?}: {answers}");
        assert!(!answers.contains("code 0"), "{answers}");
        for (name, state) in [("w", "running"), ("bystander", "running"), ("other", "stopped")] {
            assert_eq!(scene.status(name)["state"], state, "{name}");
        }
        scene.json(0, &["now", "w"]);
        running.wait().expect(124);
    }
}

/// Under estop's own user, without a namespace and without Landlock, nothing prevents a signal to the guardian; it ends the
/// job, not the guard.
#[test]
fn who_can_kill_its_guardian_ends_with_it() {
    for new in [|| Some(Scene::new()), Scene::ordinary as fn() -> Option<Scene>] {
        let Some(scene) = new() else { continue };
        let villain = scene.villain();
        let body = format!(
            "{villain} session; {villain} daemon; {villain} nameless; while [ ! -s canary/nameless ]; do sleep 0.02; done; kill -9 $PPID; sleep 1000"
        );
        scene.run(&["run", "--no-cgroup", "--no-pid-namespace", "--no-landlock", "--", "sh", "-c", &body]).expect(125);
        scene.expect_nothing_left();
    }
}

#[test]
fn another_user_under_a_root_estop() {
    if is_root() {
        tried(Scene::new(), &["--user", "nobody"]).expect_held(&[]);
    }
}

#[test]
fn another_user_without_a_pid_namespace() {
    if is_root() {
        tried(Scene::new(), &["--user", "nobody", "--no-pid-namespace"]).expect_held(&[]);
    }
}

#[test]
fn an_ordinary_users_estop() {
    if let Some(scene) = Scene::ordinary() {
        tried(scene, &[]).expect_held(&[]);
    }
}

/// Root inside a PID namespace, without new privileges and with Landlock.
#[test]
fn root_in_a_namespace() {
    if is_root() {
        tried(Scene::new(), &[]).expect_held(&[]);
    }
}

/// Who can write to the state directory can forge the latch and take snapshots away.
#[test]
fn a_state_directory_that_others_can_change_is_refused_but_not_for_an_emergency() {
    let scene = Scene::new();
    let state = scene.path().join("shared");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    let kb = scene.house().file("kb/note", "text");
    let (state, kb) = (state.display().to_string(), kb.parent().unwrap().display().to_string());
    for words in [&["run", "--", "true"][..], &["snapshot", "create", &kb], &["secret", "list"], &["up"]] {
        let refused = scene.run(&[&["--state-dir", &state], words].concat());
        assert!(refused.expect(2).stderr.contains("chmod 700"), "{words:?}");
    }
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "something was written there");
    scene.run(&["--state-dir", &state, "now"]).expect(3);
    scene.expect_nothing_left();
}
