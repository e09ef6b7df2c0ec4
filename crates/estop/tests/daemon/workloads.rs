//! Several workloads from one file: start, stop, restart, limits, output, ends.

use std::time::Duration;

use estop_watchdog::guardian::Client;
use estop_watchdog::guardian::table::State;
use estop_watchdog::registry::RunDir;

use crate::scene::{Scene, Signal, signal, spent_by, taken_by, until};

/// Wine 8 keeps a process in its list for ever, in no job, that was ended while it was being made: so many are no survivors.
fn ghosts() -> usize {
    #[cfg(windows)]
    return usize::from(estop_watchdog::job::windows::is_wine());
    #[cfg(unix)]
    0
}

#[test]
fn each_workload_is_started_shown_and_stopped() {
    let scene = Scene::new();
    let villain = scene.villain();
    for store in ["kb", "other"] {
        scene.house().file(format!("{store}/note"), "text");
    }
    let (kb, other) = (scene.path().join("kb"), scene.path().join("other"));
    scene.house().config(&format!(
        "[store.kb]\npath = {kb:?}\n[store.other]\npath = {other:?}\n\
         [workload.a]\ncommand = [\"sh\", \"-c\", \"echo out; echo err >&2; exec sleep 1000\"]\nstores = [\"kb\"]\n\
         [workload.b]\ncommand = [{villain:?}, \"everything\"]\ngrace = \"200ms\"\nstores = [\"kb\", \"other\"]\n\
         [workload.c]\ncommand = [\"true\"]\nautostart = false\n"
    ));
    let brain = scene.up();
    let a = scene.wait_state("a", "running");
    let b = scene.wait_state("b", "running");
    assert_eq!(scene.status("c")["state"], "stopped");
    for workload in [&a, &b] {
        assert!(workload["tier"].is_string() && workload["isolation"].is_string(), "{workload:#}");
        assert!(workload["guardian"]["alive"] == true && workload["restarts"] == 0, "{workload:#}");
        for field in ["processes", "memory_bytes", "memory_peak_bytes", "uptime_seconds", "cpu_cores", "pid"] {
            assert!(workload[field].is_number(), "{field}: {workload:#}");
        }
    }
    let status = scene.json(0, &["status"]);
    assert_eq!(status["brain"]["pid"], brain.pid());
    assert_eq!(status["stores"].as_array().unwrap().len(), 2, "{status:#}");
    assert_eq!((&status["latched"], &status["orphaned"]), (&false.into(), &serde_json::json!([])));
    until("its output is there", || scene.run(&["logs", "a"]).stdout == "out\nerr\n");
    until("all of b is there", || scene.canary().join("ready").exists());
    let inspected = scene.json(0, &["inspect", "b"]);
    assert!(inspected["processes"].as_array().unwrap().len() > 30, "{inspected:#}");

    scene.json(0, &["freeze", "b"]);
    assert_eq!(scene.status("b")["state"], "frozen");
    let written = scene.written();
    scene.json(0, &["status"]);
    assert_eq!(scene.written(), written, "it is frozen and writes");
    scene.json(0, &["thaw", "b"]);
    until("it writes again", || scene.written() != written);

    let stopped = scene.json(0, &["stop", "b"]);
    assert_eq!(
        (&stopped["jobs"][0]["proven_empty"], &stopped["latched"]),
        (&true.into(), &false.into()),
        "{stopped:#}"
    );
    let written = scene.written();
    let left: Vec<String> = scene.workload_alive().into_values().filter(|shown| shown.contains("villain")).collect();
    assert!(left.len() <= ghosts(), "{left:#?} after {stopped:#}");
    assert_eq!(scene.written(), written, "{left:#?} writes after {stopped:#}");
    scene.wait_state("b", "stopped");
    scene.json(0, &["restart", "a"]);
    let again = scene.wait_state("a", "running");
    assert_ne!(again["pid"], a["pid"]);
    scene.run(&["start", "no-such"]).expect(2);
    let partly = scene.json(2, &["start", "no-such", "a", "c", "no-other"]);
    let message = partly["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("3 of 4 were not started: ") && message.contains("no-other"), "{message}");
    scene.run(&["freeze", "a", "no-such"]).expect(1);
    assert_eq!(scene.status("a")["state"], "running", "it was frozen though the command failed");
    scene.run(&["up"]).expect(4);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[cfg(unix)]
#[test]
fn who_ends_the_daemon_decides_what_becomes_of_its_workloads() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let brain = scene.up();
    let before = scene.wait_state("a", "running");
    brain.signal(Signal::TERM);
    brain.wait().expect(0);
    let without = scene.status("a");
    assert_eq!((&without["state"], &without["pid"]), (&"running".into(), &before["pid"]), "SIGTERM is for the daemon");
    let brain = scene.up();
    brain.signal(Signal::INT);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn what_fails_is_started_again_and_what_was_stopped_is_not() {
    let scene = Scene::new();
    scene.house().config(
        "[workload.failing]\ncommand = [\"sh\", \"-c\", \"echo x >> $CANARY/failing; exit 1\"]\nrestart = \"on-failure\"\n\
         [workload.ending]\ncommand = [\"sh\", \"-c\", \"echo x >> $CANARY/ending\"]\nrestart = \"on-failure\"\n\
         [workload.steady]\ncommand = [\"sleep\", \"1000\"]\nrestart = \"always\"\n",
    );
    let brain = scene.up();
    let times = |name: &str| std::fs::read_to_string(scene.canary().join(name)).unwrap_or_default().lines().count();
    until("it was started again", || times("failing") >= 2);
    assert!(scene.status("failing")["restarts"].as_u64().unwrap() >= 1);
    assert_eq!((times("ending"), scene.status("ending")["last_exit"]["code"].clone()), (1, 0.into()));
    // Killed from outside, it has failed.
    let first = scene.wait_state("steady", "running");
    signal(u32::try_from(first["pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    until("another runs", || {
        let now = scene.status("steady");
        now["state"] == "running" && now["pid"] != first["pid"] && now["restarts"] == 1
    });
    scene.json(0, &["stop", "steady"]);
    scene.wait_state("steady", "stopped");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn a_limit_that_is_lowered_while_it_runs_trips() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"sleep\", \"1000\"]\ntime_max = \"10h\"\n");
    let brain = scene.up();
    scene.wait_state("a", "running");
    let answer = scene.json(0, &["limit", "set", "a", "memory_max=100MiB", "pids.warn=50"]);
    assert_eq!(answer["limits"]["memory_max_bytes"], 100 << 20, "{answer:#}");
    assert_eq!(answer["thresholds"]["pids"], serde_json::json!({"warn": 50.0}));
    let shown = &scene.status("a")["thresholds"];
    assert!(shown["pids"]["warn"] == 50.0 && shown["memory_bytes"] == serde_json::json!({}), "{shown:#}");
    scene.run(&["limit", "set", "a", "memory_max=little"]).expect(2);
    assert_eq!(scene.status("a")["limits"]["memory_max_bytes"], 100 << 20);
    scene.json(0, &["limit", "set", "a", "time_max=100ms"]);
    scene.wait_state("a", "latched");
    until("its incident is recorded", || scene.json(0, &["incident", "list"])["incidents"][0]["trigger"] == "limit");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// An idle guardian costs next to nothing, which it did not when it was woken by its own cgroup for ever.
#[test]
fn an_idle_guardian_is_idle() {
    let scene = Scene::new();
    let sign = scene.path().join("sign");
    let running = scene.guard("w", &[], &["sh", "-c", &format!("echo > {}; exec sleep 1000", sign.display())], "sign");
    let guardian = u32::try_from(scene.status("w")["guardian"]["pid"].as_u64().unwrap()).unwrap();
    let spent = || spent_by(guardian);
    let (begun, before) = (std::time::Instant::now(), spent());
    until("a second has passed", || begun.elapsed().as_secs() >= 1);
    let (spent, passed) = (spent().saturating_sub(before), begun.elapsed());
    assert!(spent * 5 < passed, "{spent:?} of {passed:?}");
    scene.json(0, &["now"]);
    running.wait().expect(124);
}

/// A snapshot freezes by a lease, asks at its end whether the job was thawed meanwhile, and gives the lease back.
#[test]
fn a_job_that_several_hold_runs_when_the_last_lets_go_and_counts_it() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let brain = scene.up();
    scene.wait_state("a", "running");
    let dir = RunDir::at(&scene.run_dir()).job("a");
    let (mut one, mut other) = (Client::new(&dir).unwrap(), Client::new(&dir).unwrap());
    let lease = Some(Duration::from_mins(1));
    let frozen = one.freeze(lease).unwrap();
    assert_eq!((frozen.state, frozen.thaws), (State::Frozen, 0));
    other.freeze(lease).unwrap();
    let held = one.end_lease().unwrap();
    assert_eq!((held.state, held.thaws), (State::Frozen, 0), "somebody else still wants it to stand still");
    let run_on = other.end_lease().unwrap();
    assert_eq!((run_on.state, run_on.thaws), (State::Running, 1));

    one.freeze(Some(Duration::from_millis(1))).unwrap();
    until("the lease ends by itself", || one.status().unwrap().state == State::Running);
    assert_eq!(one.freeze(lease).unwrap().thaws, 2);
    scene.json(0, &["thaw", "a"]);
    assert_eq!(one.status().unwrap().thaws, 3, "an operator does not wait for leases");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn a_stop_reaches_a_workload_that_waits_for_its_next_start() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"false\"]\nrestart = \"on-failure\"\n[workload.b]\ncommand = [\"sleep\", \"1000\"]\n");
    let brain = scene.up();
    until("it waits for its next start", || {
        let status = scene.status("a");
        status["state"] == "starting" && !status["last_exit"].is_null()
    });
    scene.run(&["stop", "a"]).expect(0);
    assert_eq!(scene.status("a")["state"], "stopped");
    let restarts = scene.status("a")["restarts"].clone();
    // Somebody who was not stopped is started meanwhile, and so is everything that was still on its way.
    scene.json(0, &["restart", "b"]);
    assert_eq!((&scene.status("a")["state"], &scene.status("a")["restarts"]), (&"stopped".into(), &restarts));

    for order in ["stop", "now"] {
        scene.wait_state("b", "running");
        let answer = scene.json(3, &[order, "b", "no-such"]);
        assert!(answer["next_action"].as_str().unwrap().contains("no-such"), "{answer:#}");
        scene.wait_state("b", if order == "now" { "latched" } else { "stopped" });
        if order == "stop" {
            scene.json(0, &["start", "b"]);
        }
    }
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Nobody but the daemon is there to hear it.
#[test]
fn the_file_now_reaches_a_workload_that_waits_for_its_next_start() {
    let scene = Scene::new();
    scene.house().config("[workload.a]\ncommand = [\"false\"]\nrestart = \"on-failure\"\n");
    let brain = scene.up();
    let waits = || {
        let status = scene.status("a");
        status["state"] == "starting" && !status["last_exit"].is_null()
    };
    until("it waits for its next start", waits);
    std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
    scene.wait_state("a", "latched");
    // An order is obeyed once.
    scene.json(0, &["reset"]);
    scene.json(0, &["start", "a"]);
    until("it waits for its next start again", waits);
    let restarts = scene.status("a")["restarts"].as_u64().unwrap();
    until("it is started once more", || scene.status("a")["restarts"].as_u64().unwrap() > restarts);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// What a workload writes must not fill the disk.
#[test]
fn the_output_of_a_workload_is_bounded_and_its_newest_is_shown() {
    let scene = Scene::new();
    let body = "i=0; while [ $i -lt 10 ]; do i=$((i+1)); head -c 400000 /dev/zero | tr '\\0' x; echo; echo line $i; sleep 0.2; done; echo last; exec sleep 1000";
    scene.house().config(&format!("[workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\nlog_max = \"1MiB\"\n"));
    let brain = scene.up();
    scene.wait_state("a", "running");
    until("it has written it all", || scene.run(&["logs", "a"]).stdout.ends_with("last\n"));
    let log = scene.house().state_dir().join("logs/a.log");
    let held = || taken_by(&log);
    until("the older half was given back", || held() < 2 << 20);
    let shown = scene.run(&["logs", "a"]).expect(0).stdout;
    assert!(shown.starts_with('x') || shown.starts_with("line"), "{}", &shown[..20]);
    assert!(shown.contains("line 10\n") && !shown.contains("line 1\n"));
    let object = scene.json(0, &["logs", "a"]);
    assert_eq!(object["lines"].as_array().unwrap().last().unwrap(), "last");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}
