//! Whatever a workload does to get away, nothing of it is left: in every tier that this host offers, as root and as an
//! ordinary user. Looked for without asking estop.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use scene::Scene;

/// Runs a program on a host that lets nobody mount anything.
#[cfg(unix)]
const WITHOUT_MOUNTS: &str = include_str!("scene/without-mounts.py");

/// How a run is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The main process exits and leaves everything else behind.
    ByItself,
    /// `estop now`.
    Now,
    /// A limit.
    Limit,
    /// `estop stop`, which the villains ignore.
    Stop,
}

fn ends_everything(scene: &Scene, options: &[&str], tier: &str, end: End) {
    let villain = scene.villain();
    let mut all = vec!["--grace", "300ms", "--pids-max", "400"];
    all.extend(options);
    if end == End::Limit {
        all.extend(["--time-max", "2s"]);
    }
    let how = if end == End::ByItself { "leave" } else { "stay" };
    let summary = scene.path().join("summary.json").display().to_string();
    all.extend(["--summary", &summary, "--require-tier", tier]);
    let mut arguments = vec!["run", "--name", "w"];
    arguments.extend(&all);
    arguments.extend(["--", &villain, "everything", how]);
    let run = scene.spawn(&arguments);
    let ready = scene.canary().join("ready");
    match end {
        End::ByItself => {
            let outcome = run.wait().expect(0);
            assert!(ready.exists(), "{outcome:?}");
        }
        End::Limit => {
            run.wait().expect(124);
        }
        End::Now | End::Stop => {
            scene::until("everything runs", || ready.exists());
            let order = if end == End::Now { "now" } else { "stop" };
            let answer = scene.json(0, &[order, "w"]);
            let job = &answer["jobs"][0];
            assert_eq!((&job["proven_empty"], &job["tier"]), (&true.into(), &tier.into()), "{answer:#}");
            assert!(job["processes_before"].as_u64().unwrap() > 25 + 8, "{answer:#}");
            assert!(!job["proof"].as_array().unwrap().is_empty(), "{answer:#}");
            // At the moment of the answer, not some time later.
            let left = scene.workload_alive();
            assert!(left.is_empty(), "{end:?} answered, alive: {left:#?}");
            run.wait().expect(124);
        }
    }
    scene.expect_nothing_left();
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    assert_eq!(summary["tier"], tier);
}

fn all_ends(new: impl Fn() -> Option<Scene>, options: &[&str], tier: &str) {
    for end in [End::ByItself, End::Now, End::Limit, End::Stop] {
        let Some(scene) = new() else { return };
        eprintln!("{tier} {options:?} {end:?}");
        ends_everything(&scene, options, tier, end);
    }
}

#[cfg(unix)]
const TRACKED: [&str; 2] = ["--no-cgroup", "--no-pid-namespace"];

/// Where the tests are run by an ordinary user without a delegated cgroup, there is no kernel tier to test.
#[cfg(unix)]
fn has_cgroups() -> bool {
    let scene = Scene::new();
    let code = scene.run(&["run", "--require-tier", "kernel", "--", "true"]).code;
    assert!(code == 0 || code == 4, "{code}");
    assert!(!scene::is_root() || code == 0 || !std::path::Path::new("/sys/fs/cgroup/cgroup.procs").exists());
    code == 0
}

#[cfg(windows)]
#[test]
fn job_object() {
    all_ends(|| Some(Scene::new()), &[], "kernel");
}

#[cfg(unix)]
#[test]
fn cgroup_and_namespace() {
    if has_cgroups() {
        all_ends(|| Some(Scene::new()), &[], "kernel");
    }
}

#[cfg(unix)]
#[test]
fn cgroup_alone() {
    if has_cgroups() {
        all_ends(|| Some(Scene::new()), &["--no-pid-namespace"], "kernel");
    }
}

#[cfg(unix)]
#[test]
fn namespace_alone() {
    all_ends(|| Some(Scene::new()), &["--no-cgroup"], "namespace");
}

#[cfg(unix)]
#[test]
fn tracked() {
    all_ends(|| Some(Scene::new()), &TRACKED, "tracked");
}

#[cfg(unix)]
#[test]
fn namespace_of_an_ordinary_user() {
    all_ends(Scene::ordinary, &["--no-cgroup"], "namespace");
}

#[cfg(unix)]
#[test]
fn delegated_cgroup_of_an_ordinary_user() {
    for options in [&[][..], &["--no-pid-namespace"]] {
        all_ends(Scene::delegated, options, "kernel");
    }
}

#[cfg(unix)]
#[test]
fn tracked_of_an_ordinary_user() {
    all_ends(Scene::ordinary, &TRACKED, "tracked");
}

#[cfg(unix)]
#[test]
fn a_tier_that_cannot_be_had_is_refused_before_anything_starts() {
    let cases: [(&[&str], &str); 3] = [(&["--no-cgroup"], "kernel"), (&TRACKED, "namespace"), (&TRACKED, "kernel")];
    for new in [|| Some(Scene::new()), Scene::ordinary as fn() -> Option<Scene>] {
        for (options, tier) in cases {
            let Some(scene) = new() else { continue };
            let sign = scene.path().join("started").display().to_string();
            let mut arguments = vec!["run", "--require-tier", tier];
            arguments.extend(options);
            arguments.extend(["--", "touch", &sign]);
            let outcome = scene.run(&arguments).expect(4);
            assert!(outcome.stderr.contains(tier), "{outcome:?}");
            assert!(!std::path::Path::new(&sign).exists());
            scene.expect_nothing_left();
        }
    }
}

/// Some distributions let everybody make a user namespace, and nobody mount anything in it.
#[cfg(unix)]
#[test]
fn where_namespaces_can_be_made_but_not_used_the_next_tier_is_taken_and_shown() {
    for new in [|| Some(Scene::new()), Scene::ordinary as fn() -> Option<Scene>] {
        let Some(scene) = new() else { continue };
        let run = |required: &str| {
            let estop = scene.command(&["run", "--no-cgroup", "--require-tier", required, "--", "true"]);
            let mut filtered = std::process::Command::new("python3");
            filtered.args(["-c", WITHOUT_MOUNTS]).arg(estop.get_program()).args(estop.get_args());
            filtered.envs(estop.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(scene.path());
            scene.start(&mut filtered).wait()
        };
        run("tracked").expect(0);
        let refused = run("namespace").expect(4);
        assert!(refused.stderr.contains("mounts"), "{refused:?}");
        scene.expect_nothing_left();
    }
}

/// Since Linux 6.14 a process is killed at birth that is made in a group by one whose own group was killed once and lives on.
#[cfg(unix)]
#[test]
fn below_a_cgroup_that_was_killed_once_jobs_start_all_the_same() {
    if !scene::is_root() {
        return;
    }
    let scene = Scene::new();
    let group = scene::group::Group::new();
    std::fs::write(group.path().join("cgroup.kill"), "1").unwrap();
    for options in [&["--require-tier", "kernel"][..], &["--require-tier", "kernel", "--no-pid-namespace"]] {
        let body = "cat /proc/self/cgroup; exit 7";
        let estop = scene.command(&[&["run"], options, &["--", "sh", "-c", body]].concat());
        let mut inside = std::process::Command::new("sh");
        inside.args(["-c", "echo $$ > \"$0/cgroup.procs\"; exec \"$@\""]).arg(group.path());
        inside.arg(estop.get_program()).args(estop.get_args()).current_dir(scene.path());
        inside.envs(estop.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = scene.start(&mut inside).wait().expect(7);
        assert!(ended.stdout.contains("/estop/"), "{ended:?}");
    }
    scene.expect_nothing_left();
}
