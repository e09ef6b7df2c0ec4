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
        // What it was at is written down before it is gone. Where the tree is looked at by no copy of the guardian, less is.
        #[cfg(unix)]
        if options.len() < 2 {
            let log = std::fs::read_to_string(scene.house().state_dir().join("critical-failures.jsonl")).unwrap();
            let breach = log.lines().find(|line| line.contains("\"event\":\"breach\"")).unwrap();
            let told = breach.contains("\"arguments\":\"sleep 1000\"") && breach.contains("\"open\":[\"");
            // On a host that is slow there is no time for all of it before the kill.
            let late = breach.contains("\"unfinished\":[\"") || breach.contains("\"tree\":[]");
            assert!(told || late, "{log}");
        }
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
fn cpu_time_is_limited() {
    for &options in TIERS {
        let scene = Scene::new();
        let busy = ["sh", "-c", "while :; do :; done"];
        let incident = breaches(&scene, &[options, &["--cpu-time-max", "300ms", "--time-max", "5m"]].concat(), &busy);
        assert!(incident["reason"].as_str().unwrap().starts_with("cpu-time"), "{incident:#}");
    }
}

/// Bounded itself, so that a limit that does not hold fails the test and nothing else.
#[cfg(unix)]
const SLOW_HOG: [&str; 3] = [
    "python3",
    "-c",
    "import time\nkept = []\nfor _ in range(400):\n    kept.append(bytearray(1 << 20))\n    time.sleep(0.002)\ntime.sleep(1000)",
];
#[cfg(windows)]
const SLOW_HOG: [&str; 3] = ["hog", "400", "slowly"];

#[test]
fn memory_is_limited() {
    for &options in TIERS {
        let scene = Scene::new();
        let incident = breaches(&scene, &[options, &["--memory-max", "64MiB"]].concat(), &SLOW_HOG);
        assert!(incident["reason"].as_str().unwrap().starts_with("memory"), "{incident:#}");
    }
}

#[test]
fn memory_of_one_process_is_limited() {
    for &options in TIERS {
        let scene = Scene::new();
        let incident = breaches(&scene, &[options, &["--process-memory-max", "64MiB"]].concat(), &SLOW_HOG);
        assert!(incident["reason"].as_str().unwrap().starts_with("process-memory"), "{incident:#}");
    }
}

#[test]
fn together_processes_may_have_more_than_each_of_them() {
    #[cfg(unix)]
    let hog = "python3 -c \"kept = b'x' * (40 << 20)\nimport time\ntime.sleep(1000)\"";
    #[cfg(windows)]
    let hog = "hog 40 once";
    for &options in TIERS {
        let scene = Scene::new();
        let body = format!("{hog} & {hog} & {hog} & echo > sign; exec sleep 1000");
        let options = [options, &["--process-memory-max", "100MiB", "--grace", "100ms"]].concat();
        let running = scene.guard("w", &options, &["sh", "-c", &body], "sign");
        until("they have more", || scene.status("w")["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 110 << 20));
        let status = scene.status("w");
        assert_eq!((&status["state"], &status["last_breach"]), (&"running".into(), &Value::Null), "{status:#}");
        assert_eq!(status["limits"]["process_memory_max_bytes"], 100 << 20);
        scene.json(0, &["stop", "w"]);
        running.wait().expect(124);
        scene.expect_nothing_left();
    }
}

/// A limit that nothing enforces must not be taken for one that holds.
/// A guardian would watch what the kernel does not enforce, unless that is not enough.
#[test]
fn what_only_the_guardian_would_enforce_is_refused_where_the_kernel_is_asked_for() {
    let scene = Scene::new();
    // The memory of one process no cgroup limits, and under Wine nothing is known of a rate.
    #[cfg(unix)]
    let limit = ["--process-memory-max", "1GiB"];
    #[cfg(windows)]
    let limit = ["--io-max", "1GiB"];
    let refused = scene.run(&["run", limit[0], limit[1], "--enforce-by-kernel", "--", "touch", "begun"]).expect(4);
    assert!(refused.stderr.contains(&limit[0][2..].replace('-', "_")), "{refused:?}");
    assert!(!scene.path().join("begun").exists(), "it was started");
    scene.run(&["run", "--time-max", "1h", "--enforce-by-kernel", "--", "true"]).expect(0);
    scene.expect_nothing_left();
}

#[test]
fn what_nothing_enforces_here_is_refused_before_anything_starts() {
    let scene = Scene::new();
    let doctor = scene.json(0, &["doctor"]);
    let had = |name: &str| {
        doctor["checks"].as_array().unwrap().iter().any(|check| check["name"] == name && check["ok"] == true)
    };
    let (weight, io) = (had("cpu-weight-limit"), had("io-limit"));
    // Without a cgroup, Linux has neither.
    let bare: &[&[&str]] = if cfg!(unix) { &[&["--no-cgroup"]] } else { &[] };
    let none = bare
        .iter()
        .flat_map(|&options| [(options, ["--cpu-weight", "50"], false), (options, ["--io-max", "1GiB"], false)]);
    let here: [(&[&str], _, _); 2] = [(&[], ["--cpu-weight", "50"], weight), (&[], ["--io-max", "1GiB"], io)];
    for (options, limit, enforced) in here.into_iter().chain(none) {
        let sign = scene.path().join("started");
        let ran = scene.run(&[&["run"], options, &limit, &["--", "touch", sign.to_str().unwrap()]].concat());
        if enforced {
            ran.expect(0);
            std::fs::remove_file(sign).unwrap();
        } else {
            let refused = ran.expect(4);
            let named = limit[0].trim_start_matches('-').replace('-', "_");
            assert!(refused.stderr.contains(&named) && refused.stderr.contains("enforces"), "{refused:?}");
            assert!(!sign.exists());
        }
    }
    scene.expect_nothing_left();
}

/// The kernel's own file says what it was told, in either version of cgroups.
#[cfg(unix)]
#[test]
fn a_weight_reaches_the_kernel_and_can_be_changed() {
    let scene = Scene::new();
    if scene.run(&["run", "--cpu-weight", "50", "--", "true"]).code == 4 {
        return;
    }
    let options = ["--cpu-weight", "50", "--grace", "100ms"];
    let running = scene.guard("w", &options, &["sh", "-c", "echo > sign; exec sleep 1000"], "sign");
    let status = scene.status("w");
    assert_eq!(
        (&status["limits"]["cpu_weight"], &status["enforced_by_kernel"]["cpu_weight"]),
        (&50.into(), &true.into())
    );
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", status["pid"])).unwrap();
    let group = groups.lines().find_map(|line| line.split(':').nth(2).filter(|path| path.contains("/estop/"))).unwrap();
    let told = || {
        let read =
            |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u32>().ok();
        let v1 = read(&format!("cpu{group}/cpu.shares")).map(|shares| shares * 100 / 1024);
        v1.or_else(|| read(&format!("{group}/cpu.weight"))).unwrap()
    };
    assert_eq!(told(), 50);
    scene.json(0, &["limit", "set", "w", "cpu_weight=200"]);
    assert_eq!(told(), 200);
    scene.run(&["limit", "set", "w", "cpu_weight=0"]).expect(2);
    scene.json(0, &["limit", "set", "w", "cpu_weight=none"]);
    assert_eq!(told(), 100);
    scene.json(0, &["stop", "w"]);
    running.wait().expect(124);
    scene.expect_nothing_left();
}

/// What was in force stays in force.
#[test]
fn a_limit_that_is_refused_while_it_runs_changes_nothing() {
    let scene = Scene::new();
    let options =
        ["--time-max", "1h", "--grace", "100ms", if cfg!(unix) { "--no-cgroup" } else { "--allow-new-privs" }];
    let running = scene.guard("w", &options, &["sh", "-c", "echo > sign; exec sleep 1000"], "sign");
    let before = scene.status("w");
    let refused = scene.run(&["limit", "set", "w", "cpu_time_max=1h", "io_max=1GiB"]);
    if refused.code != 0 {
        let refused = refused.expect(4);
        assert!(refused.stderr.contains("io_max"), "{refused:?}");
        assert_eq!(scene.status("w")["limits"], before["limits"]);
    }
    let answer =
        scene.json(0, &["limit", "set", "w", "cpu_time_max=1h", "process_memory_max=1GiB", "cpu_time.warn=50m"]);
    let limits = &answer["limits"];
    assert_eq!(
        (&limits["cpu_time_max_seconds"], &limits["process_memory_max_bytes"]),
        (&3600.0.into(), &(1 << 30).into())
    );
    assert_eq!(answer["thresholds"]["cpu_time_seconds"], serde_json::json!({"warn": 3000.0}));
    scene.json(0, &["stop", "w"]);
    running.wait().expect(124);
    scene.expect_nothing_left();
}

#[test]
fn what_a_run_has_used_is_told() {
    let scene = Scene::new();
    let summary = scene.path().join("summary.json");
    let summary_file = summary.to_str().unwrap();
    let given =
        ["run", "--cpu-time-max", "200ms", "--on-breach", "stop", "--grace", "100ms", "--summary", summary_file, "--"];
    scene.run(&[&given[..], &["sh", "-c", "while :; do :; done"]].concat()).expect(124);
    let told: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    let peak = &told["peak"];
    assert!(peak["cpu_seconds"].as_f64().unwrap() >= 0.2, "{told:#}");
    assert!(peak["memory_bytes"].as_u64().unwrap() > 0 && (peak["io_bytes"].is_null() || peak["io_bytes"].is_u64()));
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
    for option in [
        ["--time-max", "0s"],
        ["--cpu-max", "0"],
        ["--memory-max", "0"],
        ["--pids-max", "0"],
        ["--process-memory-max", "0"],
        ["--cpu-weight", "0"],
        ["--cpu-weight", "10001"],
        ["--cpu-time-max", "0s"],
        ["--io-max", "0"],
    ] {
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
