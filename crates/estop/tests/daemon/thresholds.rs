//! What else than the hard limits a workload is stopped by.

use serde_json::Value;

use crate::scene::{Scene, until};

/// Runs `body` with these keys until it is stopped; what the critical-failure log says of it.
#[track_caller]
fn stopped(body: &str, keys: &str) -> Value {
    let scene = Scene::new();
    scene.house().config(&format!(
        "[workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\non_breach = \"stop\"\nstop = [{{ signal = \"TERM\", wait = \"100ms\" }}]\n{keys}"
    ));
    let brain = scene.up();
    scene.wait_state("a", "stopped");
    let log = scene.house().state_dir().join("critical-failures.jsonl");
    let entry = || -> Option<Value> {
        let text = std::fs::read_to_string(&log).ok()?;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).find(|entry: &Value| entry["event"] == "stop")
    };
    until("it is written down", || entry().is_some());
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
    entry().unwrap()
}

const SPIN: &str = "while :; do :; done";

#[test]
fn a_share_of_the_limit_is_reached_before_it() {
    let breach = stopped("sleep 1000", "time_max = \"60s\"\nlimits.time.stop = \"2% of max\"\n");
    assert_eq!((&breach["limit"]["metric"], &breach["limit"]["value"]), (&"time".into(), &1.2.into()), "{breach:#}");
}

#[test]
fn a_rung_that_has_to_last_is_reached_when_it_has() {
    let breach = stopped(SPIN, "limits.cpu.stop = \"20% for 1500ms\"\n");
    assert_eq!(breach["limit"]["metric"], "cpu", "{breach:#}");
    assert!(breach["reason"].as_str().unwrap().ends_with("the limit of 0.20 for 1.5 s"), "{breach:#}");
}

#[test]
fn what_it_writes_in_a_second_is_watched() {
    let body = "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done";
    let breach = stopped(body, "limits.output.stop = \"1KiB\"\nlog_max = \"256KiB\"\n");
    assert_eq!(breach["limit"]["metric"], "output", "{breach:#}");
}

#[cfg(unix)]
#[test]
fn open_descriptors_are_counted_over_the_whole_tree() {
    let python = "import time; f=[open('/dev/null') for _ in range(40)]; time.sleep(1000)";
    let body = format!("python3 -c \"{python}\" & python3 -c \"{python}\" & wait");
    let breach = stopped(&body, "limits.open_files.stop = 80\n");
    assert_eq!(breach["limit"]["metric"], "open-files", "{breach:#}");
    assert!(breach["value"].as_f64().unwrap() < 120.0, "{breach:#}");
}

/// Both need what root has on every host of the tests.
#[cfg(unix)]
#[test]
fn the_kernel_tells_of_throttling_and_pressure() {
    if !crate::scene::is_root() {
        return;
    }
    let breach = stopped(SPIN, "cpu_max = \"10%\"\nlimits.cpu_throttled.stop = \"30%\"\n");
    assert_eq!(breach["limit"]["metric"], "cpu-throttled", "{breach:#}");
    if !std::path::Path::new("/proc/pressure/cpu").exists() {
        return eprintln!("NOT TESTED: this kernel does not tell of pressure");
    }
    let breach = stopped(
        "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait",
        "limits.cpu_pressure.stop = \"20%\"\n",
    );
    assert_eq!(breach["limit"]["metric"], "cpu-pressure", "{breach:#}");
}

#[test]
fn what_nobody_can_observe_is_refused() {
    let scene = Scene::new();
    let running = scene.guard(
        "w",
        &[],
        &["sh", "-c", &format!("echo > {}; exec sleep 1000", scene.path().join("sign").display())],
        "sign",
    );
    let refused = scene.json(4, &["limit", "set", "w", "output.stop=1KiB"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("its caller's own streams"), "{refused:#}");
    scene.json(0, &["limit", "set", "w", "time_max=1h", "time.warn=50% of max", "pids.stop=500 for 10s"]);
    let limits = scene.json(0, &["limit", "set", "w", "open_files.warn=4000"]);
    assert_eq!(
        limits["thresholds"]["time_seconds"]["warn"],
        serde_json::json!({"at": 0.5, "of_max": true, "for_seconds": 0.0}),
        "{limits:#}"
    );
    #[cfg(unix)]
    until("the program is counted, and nothing of estop's own", || scene.status("w")["processes"] == 1);
    scene.json(0, &["now"]);
    running.wait().expect(124);
    scene.expect_nothing_left();
}

/// A host has always more than one in a hundred bytes of its memory in use.
#[test]
fn the_memory_of_the_host_is_watched_too() {
    let breach = stopped("sleep 1000", "limits.host_memory.stop = \"1%\"\n");
    assert_eq!(breach["limit"]["metric"], "host-memory", "{breach:#}");
    assert!(breach["value"].as_f64().unwrap() < 1.0, "{breach:#}");
}

#[test]
fn a_freeze_ends_by_its_rule_as_often_as_that_allows() {
    let scene = Scene::new();
    let ticks = scene.path().join("ticks");
    scene.house().config(
        "[workload.a]\ncommand = [\"sh\", \"-c\", \"while :; do echo >>ticks; sleep 0.05; done\"]\n\
         limits.time.freeze = \"300ms\"\nthaw_after = \"300ms\"\nthaw_max = 2\n",
    );
    let brain = scene.up();
    let frozen = || scene.status("a")["state"] == "frozen";
    until("it was let run on twice, and stands still for good", || {
        let status = scene.status("a");
        status["thaws"] == 2 && status["state"] == "frozen"
    });
    let written = || std::fs::metadata(&ticks).map_or(0, |metadata| metadata.len());
    let before = written();
    // So long does a freeze by the rule last at most.
    let since = std::time::Instant::now();
    until("the rule's time is over", || since.elapsed() > std::time::Duration::from_millis(900));
    assert!(frozen() && written() == before, "it ran on");
    scene.json(0, &["thaw", "a"]);
    until("a person lets it run on", || written() > before);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Slowing down needs what root has on every host of the tests.
#[cfg(unix)]
#[test]
fn a_rung_slows_it_down_to_itself_until_the_limit_is_changed() {
    if !crate::scene::is_root() {
        return;
    }
    let scene = Scene::new();
    scene
        .house()
        .config(&format!("[workload.a]\ncommand = [\"sh\", \"-c\", \"{SPIN}\"]\nlimits.cpu.throttle = \"30%\"\n"));
    let brain = scene.up();
    let throttled = || scene.status("a")["throttled"].clone();
    until("it is slowed down", || throttled() == serde_json::json!(["cpu"]));
    until("it has no more than the rung", || scene.status("a")["cpu_cores"].as_f64().unwrap() < 0.4);
    assert_eq!(scene.status("a")["limits"]["cpu_max_cores"], Value::Null, "the limits are what they were");
    scene.json(0, &["limit", "set", "a", "cpu.throttle=none"]);
    assert_eq!(throttled(), serde_json::json!([]));
    until("it has all it wants", || scene.status("a")["cpu_cores"].as_f64().unwrap() > 0.35);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Needs a whole cgroup v2, as `scripts/vm` has it.
#[cfg(unix)]
#[test]
fn one_that_only_waits_for_memory_goes_up_the_ladder() {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !crate::scene::is_root() || !controllers.contains("memory") {
        return eprintln!("NOT TESTED: there is no cgroup v2 with the controller `memory` (scripts/test --vm has it)");
    }
    let hog = "b=[]\nimport time\nwhile len(b)<100: b.append(bytearray(4<<20)); time.sleep(0.01)";
    let body = format!("python3 -c '{hog}'; sleep 1000");
    let breach = stopped(&body, "limits.memory.throttle = \"64MiB\"\nlimits.memory.stop = \"1GiB\"\n");
    assert_eq!(breach["limit"]["metric"], "memory", "{breach:#}");
    assert!(breach["reason"].as_str().unwrap().ends_with("did not get on"), "{breach:#}");
}

#[test]
fn what_a_person_wants_frozen_no_rule_lets_run_on() {
    let scene = Scene::new();
    let ticks = scene.path().join("ticks");
    scene.house().config(
        "[workload.a]\ncommand = [\"sh\", \"-c\", \"while :; do echo >>ticks; sleep 0.05; done\"]\n\
         limits.time.freeze = \"300ms\"\nthaw_after = \"2s\"\n",
    );
    let brain = scene.up();
    scene.wait_state("a", "frozen");
    scene.json(0, &["freeze", "a"]);
    // The rule may have come first.
    let thaws = scene.status("a")["thaws"].clone();
    let written = || std::fs::metadata(&ticks).map_or(0, |metadata| metadata.len());
    let (before, since) = (written(), std::time::Instant::now());
    until("the rule's time is over", || since.elapsed() > std::time::Duration::from_millis(2500));
    let status = scene.status("a");
    assert_eq!((&status["state"], &status["thaws"]), (&"frozen".into(), &thaws), "{status:#}");
    assert_eq!(written(), before, "it ran on");
    scene.json(0, &["thaw", "a"]);
    until("that person lets it run on", || written() > before);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Needs a whole cgroup v2, as `scripts/vm` has it, and a disk.
#[cfg(unix)]
#[test]
fn one_that_writes_too_much_is_slowed_down_on_its_devices() {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !crate::scene::is_root() || !controllers.contains("io") {
        return eprintln!("NOT TESTED: there is no cgroup v2 with the controller `io` (scripts/test --vm has it)");
    }
    let scene = Scene::new();
    let Some(disk) = crate::scene::frozen::Freezable::mount(&scene.path()) else { return };
    let file = disk.path().join("written");
    let dd = format!("dd if=/dev/zero of={} bs=64k count=8 oflag=direct conv=notrunc 2>/dev/null", file.display());
    scene.house().config(&format!(
        "[workload.a]\ncommand = [\"sh\", \"-c\", \"while :; do {dd}; done\"]\nlimits.io.throttle = \"512KiB\"\n"
    ));
    let brain = scene.up();
    until("it is slowed down", || scene.status("a")["throttled"] == serde_json::json!(["io"]));
    let written = || scene.status("a")["io_bytes"].as_u64().unwrap();
    let mut last = (std::time::Instant::now(), written());
    until("it writes no more than the rung", || {
        let (since, before) = last;
        if since.elapsed() < std::time::Duration::from_secs(3) {
            return false;
        }
        let seconds = since.elapsed().as_secs_f64();
        let now = written();
        last = (std::time::Instant::now(), now);
        // Its reading and writing are limited each, and what is asked for at once is let through at once.
        u32::try_from(now - before).is_ok_and(|bytes| f64::from(bytes) / seconds < f64::from(1 << 20))
    });
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}
