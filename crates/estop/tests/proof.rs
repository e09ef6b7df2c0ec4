//! What `now` and `stop` answer is true: no success while a job may run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

#[cfg(unix)]
use scene::signal;
use scene::{Held, Running, Scene, Signal, until};

#[cfg(unix)]
const TRACKED: [&str; 2] = ["--no-cgroup", "--no-pid-namespace"];

fn sleeper(scene: &Scene, name: &str, options: &[&str]) -> Running {
    let sign = format!("sign-{name}");
    let body = format!("echo > {}; exec sleep 1000", scene.path().join(&sign).display());
    scene.guard(name, options, &["sh", "-c", &body], &sign)
}

fn guardian(scene: &Scene, name: &str) -> Held {
    Held::new(u32::try_from(scene.status(name)["guardian"]["pid"].as_u64().unwrap()).unwrap())
}

/// `now`, with no more than `limit` descriptors.
#[cfg(unix)]
fn now_with(scene: &Scene, limit: &str) -> house::Outcome {
    let plain = scene.command(&["--json", "now"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]).arg(plain.get_program());
    command.args(plain.get_args()).current_dir(scene.path());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    scene.start(&mut command).wait()
}

#[cfg(unix)]
#[test]
fn without_descriptors_it_is_never_a_success_while_something_runs() {
    let scene = Scene::new();
    let jobs: Vec<Running> = (0..6).map(|job| sleeper(&scene, &format!("w{job}"), &TRACKED)).collect();
    for limit in 3..16 {
        let outcome = now_with(&scene, &format!("-n {limit}"));
        let left = scene.workload_alive();
        assert!(outcome.code != 0 || left.is_empty(), "{limit} descriptors: {outcome:?}, alive: {left:#?}");
    }
    scene.run(&["now"]);
    for job in jobs {
        job.wait();
    }
    scene.expect_nothing_left();
}

#[cfg(unix)]
#[test]
fn a_low_soft_limit_is_raised() {
    let scene = Scene::new();
    let jobs: Vec<Running> = (0..6).map(|job| sleeper(&scene, &format!("w{job}"), &["--no-cgroup"])).collect();
    let answer = now_with(&scene, "-S -n 12").expect(0).json();
    assert_eq!(answer["jobs"].as_array().unwrap().len(), 6, "{answer:#}");
    for job in jobs {
        job.wait().expect(124);
    }
    scene.expect_nothing_left();
}

/// With its guardian, and `run` that would inherit from it, the only trace of what wiped its environment has gone.
#[cfg(unix)]
#[test]
fn a_lost_lineage_is_not_called_empty() {
    let scene = Scene::new();
    let sign = scene.path().join("sign");
    let body = format!("env -i setsid sleep 1017.31 & echo > {}; exec sleep 1000", sign.display());
    let running = scene.guard("w", &TRACKED, &["sh", "-c", &body], "sign");
    let guardian = guardian(&scene, "w");
    let orphan = guardian.children();
    running.signal(Signal::KILL);
    guardian.signal(Signal::KILL);
    running.wait().expect(137);
    for _ in 0..2 {
        let answer = scene.json(3, &["now"]);
        assert_eq!(answer["jobs"][0]["name"], "w", "{answer:#}");
        assert_eq!(answer["jobs"][0]["proven_empty"], false, "{answer:#}");
        assert_eq!(answer["jobs"][0]["proof"], serde_json::json!([]), "{answer:#}");
        assert!(answer["searched"].to_string().contains("guardian"), "{answer:#}");
    }
    assert!(!orphan.is_empty());
    end_sleepers("1017.31");
}

/// Ends the processes of this test that nothing marks any more.
#[cfg(unix)]
fn end_sleepers(seconds: &str) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments == format!("sleep\0{seconds}\0").into_bytes() {
            signal(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_stop_of_several_is_proven_only_if_every_one_is() {
    let scene = Scene::new();
    let one = sleeper(&scene, "one", &[]);
    let two = sleeper(&scene, "two", &["--no-cgroup"]);
    let guardian = guardian(&scene, "two");
    two.signal(Signal::KILL);
    guardian.signal(Signal::KILL);
    two.wait().expect(137);
    until("the kernel has ended it", || scene.workload_alive().len() == 1);
    // Nothing is left of `two`, and `one` ends: that is proven.
    let answer = scene.json(0, &["stop", "one", "two"]);
    assert_eq!(answer["unreachable"], serde_json::json!([]), "{answer:#}");
    one.wait();
    #[cfg(unix)]
    a_job_that_nothing_holds_together_is_not_proven(&scene);
    let left = scene.workload_alive();
    assert!(left.is_empty(), "alive: {left:#?}");
}

/// What a dead guardian left of it is ended all the same.
#[cfg(unix)]
fn a_job_that_nothing_holds_together_is_not_proven(scene: &Scene) {
    let (three, four) = (sleeper(scene, "three", &[]), sleeper(scene, "four", &TRACKED));
    let guardian = guardian(scene, "four");
    four.signal(Signal::KILL);
    guardian.signal(Signal::KILL);
    four.wait().expect(137);
    let answer = scene.json(3, &["stop", "three", "four"]);
    assert_eq!(answer["jobs"].as_array().unwrap().len(), 2, "{answer:#}");
    assert_eq!(answer["jobs"][1]["proven_empty"], false, "{answer:#}");
    three.wait();
}

#[cfg(unix)]
#[test]
fn roots_order_reaches_the_guardians_of_another_user() {
    let Some(scene) = Scene::ordinary() else { return };
    let running = sleeper(&scene, "w", &[]);
    let mut command = scene.house().command(&["--json", "now"]);
    let answer = scene.start(&mut command).wait().expect(0).json();
    assert_eq!(answer["unreachable"], serde_json::json!([]), "{answer:#}");
    assert_eq!((&answer["latched"], &answer["latch_durable"]), (&true.into(), &true.into()), "{answer:#}");
    // The incident is root's now, and not for the user's eyes.
    running.wait();
    scene.expect_nothing_left();
}

#[test]
fn a_stopped_guardian_runs_again_once_its_job_is_ended() {
    let scene = Scene::new();
    let running = sleeper(&scene, "w", &[]);
    let guardian = guardian(&scene, "w");
    guardian.signal(Signal::STOP);
    until("it is stopped", || guardian.has_stopped());
    scene.json(0, &["now"]);
    running.wait();
    scene.expect_nothing_left();
}

/// A record may name any directory; only the job's own groups are removed.
#[cfg(unix)]
#[test]
fn directories_that_a_record_names_are_not_removed() {
    let scene = Scene::new();
    let running = sleeper(&scene, "w", &[]);
    let path = scene.run_dir().join("jobs/w/job.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    scene.json(0, &["now"]);
    running.wait().expect(124);
    scene.run(&["reset"]).expect(0);
    let tail = format!("estop/{}/w.{}", record["instance"].as_str().unwrap(), record["id"].as_str().unwrap());
    let bait = [scene.path().join("bait"), scene.path().join(tail)];
    for dir in &bait {
        std::fs::create_dir_all(dir).unwrap();
    }
    record["handle"]["controllers"] = serde_json::json!(bait);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path.with_file_name("lock"), "").unwrap();
    std::fs::write(&path, record.to_string()).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    scene.json(3, &["now"]);
    assert!(bait.iter().all(|dir| dir.is_dir()));
}

/// Holds whoever opens the file for longer than any test, by a lease on it.
#[cfg(unix)]
const HOLD: &str = "import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, 1024, fcntl.F_WRLCK)
print('held', flush=True)
signal.pause()";

/// As on a disk that does not answer: whoever opens the latch waits.
#[cfg(unix)]
#[test]
fn a_latch_that_never_answers_does_not_hold_up_the_kill() {
    let scene = Scene::new();
    let running = sleeper(&scene, "w", &[]);
    let latch = scene.house().state_dir().join("latch/all");
    // The guardian goes on with the one that it has opened.
    std::fs::copy(&latch, latch.with_extension("new")).unwrap();
    std::fs::rename(latch.with_extension("new"), &latch).unwrap();
    let holder = scene.start(std::process::Command::new("python3").args(["-c", HOLD]).arg(&latch));
    until("the latch is held", || holder.output().contains("held"));
    let answer = scene.json(0, &["now"]);
    assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
    assert_eq!((&answer["latched"], &answer["latch_durable"]), (&false.into(), &false.into()), "{answer:#}");
    drop(holder);
    running.wait();
    scene.expect_nothing_left();
}
