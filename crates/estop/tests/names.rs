//! One name after another: jobs of the same name, of which one ends, or loses its guardian, while the next starts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use scene::{Held, Running, Scene, Signal, runs, until};
use serde_json::Value;

#[test]
fn a_run_that_ends_while_the_next_of_its_name_starts_keeps_its_end() {
    let scene = Scene::new();
    for _ in 0..8 {
        let first = scene.spawn(&["run", "--name", "w", "--", "sh", "-c", "sleep 0.05; exit 7"]);
        let others: Vec<_> =
            (0..3).map(|_| scene.spawn(&["run", "--name", "w", "--", "sh", "-c", "sleep 0.02; exit 7"])).collect();
        for one in std::iter::once(first).chain(others) {
            let outcome = one.wait();
            let refused = outcome.code == 4 && outcome.stderr.contains("already running");
            assert!(outcome.code == 7 || refused, "{outcome:?}");
        }
    }
    let left = std::fs::read_dir(scene.run_dir().join("jobs"))
        .unwrap()
        .flatten()
        .map(|dir| std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>());
    assert_eq!(left.collect::<Vec<_>>(), Vec::<Vec<std::path::PathBuf>>::new());
    scene.expect_nothing_left();
}

#[test]
fn a_job_is_not_ended_by_the_run_of_an_earlier_one_of_its_name() {
    let scene = Scene::new();
    let first = begin(&scene, &[], "first");
    kill_guardian(&scene, &first);
    follow(&scene, first);
}

#[test]
fn what_a_dead_guardian_left_is_ended_before_the_next_job_of_its_name_starts() {
    let scene = Scene::new();
    let first = begin(&scene, &["--no-pid-namespace"], "first");
    let record = record(&scene);
    kill_guardian(&scene, &first);
    if record["tier"] == "kernel" {
        // On Windows a job ends with its guardian, always.
        assert_eq!(scene.workload_alive().is_empty(), cfg!(windows), "there is something to end");
        return follow(&scene, first);
    }
    // Without a group of its own nobody but its own run can tell whether all of it has ended: its record must not go.
    let refused = scene.run(&["run", "--name", "w", "--", "true"]).expect(125);
    assert!(refused.stderr.contains("earlier w"), "{refused:?}");
    first.signal(Signal::CONT);
    first.wait().expect(125);
    scene.run(&["run", "--name", "w", "--", "true"]).expect(0);
    scene.expect_nothing_left();
}

#[test]
fn the_daemon_ends_what_dead_guardians_left_of_runs() {
    let scene = Scene::new();
    let first = begin(&scene, &["--no-pid-namespace"], "first");
    let record = record(&scene);
    kill_guardian(&scene, &first);
    // Its run cannot see to it any more.
    first.signal(Signal::KILL);
    first.wait();
    let daemon = scene.up();
    if record["tier"] == "kernel" {
        until("what was left is ended", || scene.workload_alive().is_empty());
        until("its record is gone", || !scene.run_dir().join("jobs/w").exists());
    }
    daemon.leave();
    scene.json(if record["tier"] == "kernel" { 3 } else { 0 }, &["now"]);
    scene.expect_nothing_left();
}

#[cfg(unix)]
#[test]
fn an_end_is_told_and_its_incident_carried_through_when_the_disk_is_full() {
    let scene = Scene::new();
    std::fs::create_dir_all(scene.run_dir()).unwrap();
    let Some(small) = SmallDisk::mount(&scene.run_dir(), "256k") else { return };
    let running = begin(&scene, &["--time-max", "2s"], "first");
    let full = std::fs::write(scene.run_dir().join("fill"), vec![1; 1 << 20]);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let ended = running.wait().expect(124);
    assert!(ended.stderr.contains("incident"), "{ended:?}");
    let incidents = scene.json(0, &["incident", "list"]);
    assert_eq!(incidents["incidents"][0]["trigger"], "limit", "{incidents:#}");
    scene.expect_nothing_left();
    drop(small);
}

/// The program itself fills the filesystem on which state and store are: what is kept for that is given up.
#[cfg(unix)]
#[test]
fn a_program_that_fills_the_disk_is_recovered_from_like_any_other() {
    let scene = Scene::new();
    std::fs::create_dir(scene.house().state_dir()).unwrap();
    let Some(small) = SmallDisk::mount(&scene.house().state_dir(), "24m") else { return };
    let home = scene.house().state_dir().join("home");
    let kb = scene.house().file(home.join("kb/note"), "as it was").parent().unwrap().display().to_string();
    let state = home.join("state").display().to_string();
    scene.house().config("[secret.token]\n");
    let estop = |words: &[&str]| scene.run(&[&["--json", "--state-dir", &state], words].concat());
    scene.house().feed(&["--state-dir", &state, "secret", "put", "token"], "leaked").expect(0);
    let body = format!(
        "cd {kb}; echo ruined > note; cat /dev/zero > fill; touch {}; exec sleep 1000",
        scene.path().join("sign").display()
    );
    let options =
        ["--state-dir", &state, "run", "--name", "w", "--protect", &kb, "--secret", "TOKEN=token", "--time-max", "3s"];
    let ended = scene.run(&[&options[..], &["--", "sh", "-c", &body]].concat()).expect(124);
    assert!(scene.path().join("sign").exists(), "the disk was not full: {ended:?}");
    assert_eq!(std::fs::read_to_string(home.join("kb/note")).unwrap(), "as it was", "{ended:?}");
    let incidents = estop(&["incident", "list"]).expect(0).json();
    assert_eq!(incidents["incidents"][0]["outcome"], "recovered", "{ended:?}");
    let id = incidents["incidents"][0]["id"].as_str().unwrap();
    let shown = scene.run(&["--state-dir", &state, "incident", "show", id]).expect(0).stdout;
    assert!(shown.contains(&format!("--state-dir {state} rollback ")), "the undo leads to another estop: {shown}");
    assert_ne!(scene.run(&["--state-dir", &state, "secret", "get", "token"]).expect(0).stdout, "leaked");
    let log = std::fs::read_to_string(home.join("state/critical-failures.jsonl")).unwrap();
    assert!(log.contains("\"breach\""), "{log}");
    scene.expect_nothing_left();
    drop(small);
}

#[cfg(unix)]
#[test]
fn an_emergency_whose_guardian_died_is_carried_through_by_its_run() {
    let scene = Scene::new();
    let first = begin(&scene, &["--no-pid-namespace"], "first");
    let proven = record(&scene)["tier"] == "kernel";
    kill_guardian(&scene, &first);
    let answer = scene.json(if proven { 0 } else { 3 }, &["now"]);
    first.signal(Signal::CONT);
    let lost = first.wait().expect(125);
    if proven {
        let shown = scene.json(0, &["incident", "show", answer["incident"].as_str().unwrap()]);
        assert_eq!(shown["outcome"], "stopped", "{lost:?} {shown:#}");
    }
    scene.expect_nothing_left();
}

#[test]
fn one_emergency_of_many_jobs_is_one_incident_however_they_end() {
    let scene = Scene::new();
    let one = scene.guard("one", &[], &["sh", "-c", &touch(&scene, "one")], "one");
    let other = scene.guard("other", &[], &["sh", "-c", &touch(&scene, "other")], "other");
    let answer = scene.json(0, &["now", "--category", "1"]);
    let (one, other) = (one.wait().expect(124), other.wait().expect(124));
    let incidents = scene.json(0, &["incident", "list"]);
    let incidents = incidents["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 1, "{incidents:#?}");
    assert_eq!(incidents[0]["id"], answer["incident"]);
    let shown = scene.json(0, &["incident", "show", answer["incident"].as_str().unwrap()]);
    assert_eq!((&shown["workloads"], &shown["outcome"]), (&serde_json::json!(["one", "other"]), &"stopped".into()));
    for ended in [one, other] {
        assert!(ended.stderr.contains("CRITICAL_STOP"), "{ended:?}");
    }
    scene.expect_nothing_left();
}

fn touch(scene: &Scene, sign: &str) -> String {
    format!("trap 'sleep 0.3; exit 0' TERM; touch {}; while :; do sleep 0.05; done", scene.path().join(sign).display())
}

/// A disk that is soon full.
#[cfg(unix)]
struct SmallDisk(std::path::PathBuf);

#[cfg(unix)]
impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(path: &std::path::Path, size: &str) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"]).arg(path);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }
}

#[cfg(unix)]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

fn begin(scene: &Scene, options: &[&str], sign: &str) -> Running {
    let path = scene.path().join(sign).display().to_string();
    scene.guard("w", options, &["sh", "-c", &format!("sleep 1000 & touch {path}; wait")], sign)
}

fn record(scene: &Scene) -> Value {
    serde_json::from_slice(&std::fs::read(scene.run_dir().join("jobs/w/job.json")).unwrap()).unwrap()
}

/// Kills the guardian while its run cannot notice.
fn kill_guardian(scene: &Scene, run: &Running) {
    let guardian = Held::new(u32::try_from(record(scene)["guardian"]["pid"].as_u64().unwrap()).unwrap());
    run.signal(Signal::STOP);
    guardian.signal(Signal::KILL);
    until("the guardian has ended", || guardian.has_ended());
}

/// Starts a second job of the name, and lets the first one's run notice only then.
fn follow(scene: &Scene, first: Running) {
    let earlier = scene.workload_alive();
    let mut second = begin(scene, &[], "second");
    let left: Vec<_> = earlier.keys().filter(|pid| runs(u64::from(**pid))).collect();
    assert!(left.is_empty(), "{left:?} of {earlier:#?}");
    first.signal(Signal::CONT);
    let lost = first.wait().expect(125);
    // It may not even have heard that its command had begun.
    assert!(lost.stderr.contains("guardian") && lost.stderr.contains("died"), "{lost:?}");
    assert!(second.is_alive());
    assert_eq!(scene.status("w")["state"], "running");
    scene.json(0, &["now"]);
    second.wait().expect(124);
    scene.expect_nothing_left();
}
