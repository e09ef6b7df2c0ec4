//! Limits that are given on the command line.

use serde_json::Value;

use crate::scene::{Scene, TIERS, until};

fn incident_of(scene: &Scene, summary: &std::path::Path) -> Value {
    let summary: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    assert_eq!(summary["stopped_by"], "critical-stop", "{summary:#}");
    scene.json(0, &["incident", "show", summary["incident"].as_str().unwrap()])
}

/// Runs `command` into a limit, by `CRITICAL_STOP`, and gives the incident.
#[track_caller]
fn breaches(scene: &Scene, options: &[&str], command: &[&str]) -> Value {
    let summary = scene.path().join("summary.json");
    let given = [&["run", "--name", "w", "--summary", summary.to_str().unwrap()], options, &["--"], command].concat();
    scene.run(&given).expect(124);
    scene.expect_nothing_left();
    let incident = incident_of(scene, &summary);
    assert_eq!((&incident["trigger"], &incident["outcome"]), (&"limit".into(), &"stopped".into()), "{incident:#}");
    assert_eq!(incident["workloads"], serde_json::json!(["w"]));
    // A breach latches the name that breached.
    scene.run(&["run", "--name", "w", "--", "true"]).expect(4);
    scene.run(&["run", "--name", "other", "--", "true"]).expect(0);
    scene.json(0, &["reset"]);
    assert_eq!(scene.json(0, &["record", "verify"])["ok"], true);
    incident
}

#[test]
fn time_is_limited() {
    for &options in TIERS {
        let scene = Scene::new();
        let incident = breaches(&scene, &[options, &["--time-max", "300ms"]].concat(), &["sleep", "1000"]);
        assert!(incident["reason"].as_str().unwrap().contains("time"), "{incident:#}");
    }
}

/// The kernel caps it where there is a cgroup; where there is none, this must not be tried: nothing caps a bomb there.
#[test]
fn a_fork_bomb_is_capped_and_stopped() {
    let scene = Scene::new();
    #[cfg(unix)]
    {
        let words = ["run", "--pids-max", "5", "--require-tier", "kernel", "--", "sh", "-c", "cat /proc/self/cgroup"];
        let probe = scene.run(&words);
        if probe.code == 4 || !probe.stdout.contains("/estop/") {
            return;
        }
    }
    let incident = breaches(&scene, &["--pids-max", "40", "--require-tier", "kernel"], &[&scene.villain(), "bomb"]);
    assert!(incident["reason"].as_str().unwrap().contains("pids"), "{incident:#}");
}

#[test]
fn memory_is_limited() {
    // Bounded itself, so that a limit that does not hold fails the test and nothing else.
    #[cfg(unix)]
    let hog = [
        "python3",
        "-c",
        "import time\nkept = []\nfor _ in range(400):\n    kept.append(bytearray(1 << 20))\n    time.sleep(0.002)\ntime.sleep(1000)",
    ];
    #[cfg(windows)]
    let hog = ["hog", "400", "slowly"];
    for &options in TIERS {
        let scene = Scene::new();
        let incident = breaches(&scene, &[options, &["--memory-max", "64MiB"]].concat(), &hog);
        assert!(incident["reason"].as_str().unwrap().contains("memory"), "{incident:#}");
    }
}

/// Faster than any sampling: where the kernel enforces the limit, it strikes first, and that is a breach all the same.
#[test]
fn memory_taken_at_once_is_a_breach_too() {
    let scene = Scene::new();
    #[cfg(unix)]
    let hog = "python3 -c \"kept = b'x' * (300 << 20)\nimport time\ntime.sleep(1000)\"";
    #[cfg(windows)]
    let hog = "hog 300 once";
    let incident = breaches(&scene, &["--memory-max", "64MiB"], &["sh", "-c", &format!("{hog}; exec sleep 1000")]);
    assert!(incident["reason"].as_str().unwrap().contains("memory"), "{incident:#}");
}

#[test]
fn a_breach_that_freezes_holds_until_it_is_stopped() {
    let scene = Scene::new();
    let running = scene.guard(
        "w",
        &["--time-max", "300ms", "--on-breach", "freeze"],
        &[&scene.villain(), "beat", "main"],
        "canary/main",
    );
    scene.wait_state("w", "frozen");
    let written = scene.written();
    scene.json(0, &["status"]);
    assert_eq!(written, scene.written(), "it is frozen and writes");
    let answer = scene.json(0, &["stop", "w"]);
    assert_eq!(answer["jobs"][0]["proven_empty"], true);
    running.wait().expect(124);
    assert_eq!(scene.json(0, &["status"])["latched"], false, "a freeze is no emergency");
    scene.expect_nothing_left();
}

#[test]
fn a_breach_that_stops_asks_first() {
    let scene = Scene::new();
    let body = "trap 'echo asked > asked; exit 0' TERM; echo > sign; while :; do sleep 0.05; done";
    let summary = scene.path().join("summary.json");
    let options = ["--time-max", "300ms", "--on-breach", "stop", "--summary", summary.to_str().unwrap()];
    let running = scene.guard("w", &options, &["sh", "-c", body], "sign");
    running.wait().expect(124);
    until("it was asked", || scene.path().join("asked").exists());
    let told: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    assert_eq!((&told["stopped_by"], &told["incident"]), (&"limit".into(), &Value::Null), "{told:#}");
    scene.expect_nothing_left();
}

#[test]
fn limits_that_leave_nothing_to_run_with_are_refused_before_anything_starts() {
    let scene = Scene::new();
    for option in [["--time-max", "0s"], ["--cpu-max", "0"], ["--memory-max", "0"], ["--pids-max", "0"]] {
        let sign = scene.path().join("started").display().to_string();
        let refused = scene.run(&[&["run"], &option[..], &["--", "touch", &sign]].concat()).expect(2);
        assert!(refused.stderr.contains(option[0]), "{refused:?}");
        assert!(!std::path::Path::new(&sign).exists());
    }
    scene.expect_nothing_left();
}

/// What estop itself has in the job does not count.
#[test]
fn as_many_processes_as_are_allowed_run() {
    let scene = Scene::new();
    let body = "sleep 0.3 & sleep 0.3 & sleep 0.3 & wait";
    for options in [&["--pids-max", "4"][..], &["--pids-max", "4", "--no-pid-namespace"]] {
        scene.run(&[&["run"], options, &["--", "sh", "-c", body]].concat()).expect(0);
    }
    scene.run(&["run", "--pids-max", "1", "--", "true"]).expect(0);
    scene.run(&["run", "--pids-max", "99999999999999", "--", "true"]).expect(0);
    scene.expect_nothing_left();
}
