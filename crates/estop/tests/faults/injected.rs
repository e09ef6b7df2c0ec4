//! System calls that fail in the guardian: what it answers is true, and what it cannot do `now` does without it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::trace::{Traced, guardian, is_group_kill, kill_path, name_of, villains, works};
use crate::scene::{Scene, until};

const ERRORS: [&str; 6] = ["ENOMEM", "EMFILE", "ENOSPC", "EINTR", "EPERM", "EIO"];
/// Once, and from then on.
const TIMES: [&str; 2] = ["1", "1+"];
/// They cannot fail.
const INFALLIBLE: [&str; 3] = ["geteuid", "getpid", "restart_syscall"];
/// The calls by which a guardian kills.
const KILLS: &str = "pwrite64,pidfd_send_signal,kill";
/// The options by which a run gets each tier.
const TIERS: [&[&str]; 3] = [&[], &["--no-cgroup"], &["--no-cgroup", "--no-pid-namespace"]];

/// The calls that a guardian makes from the order to its answer.
fn calls_of(options: &[&str]) -> Vec<String> {
    let scene = Scene::new();
    let run = villains(&scene, options);
    let traced = Traced::attach(guardian(&scene, "w"), &[]);
    scene.json(0, &["now"]);
    run.wait().expect(124);
    let calls = traced.calls();
    let (heard, killed) = kill_path(&calls);
    let answered = killed + calls[killed..].iter().position(|call| call.starts_with("sendto(")).unwrap();
    let names: BTreeSet<&str> = calls[heard..=answered].iter().map(|call| name_of(call)).collect();
    names.into_iter().filter(|name| !INFALLIBLE.contains(name)).map(str::to_owned).collect()
}

/// Orders a stop of a guardian in which `call` fails. Whether it was proven.
fn stop_with(options: &[&str], call: &str, error: &str, times: &str) -> bool {
    let case = format!("{call} {error} {times} {options:?}");
    let scene = Scene::new();
    let run = villains(&scene, options);
    let inject = format!("inject={call}:error={error}:when={times}");
    let traced = Traced::attach(guardian(&scene, "w"), &["-e", &format!("trace={call}"), "-e", &inject]);
    let outcome = scene.run(&["--json", "now"]);
    let left = scene.workload_alive();
    assert!([0, 3].contains(&outcome.code), "{case}: {outcome:?}");
    let answer = outcome.json();
    let jobs = answer["jobs"].as_array().unwrap();
    let claimed = jobs.iter().any(|job| job["proven_empty"] == true);
    assert!(left.is_empty() || !claimed, "{case}: claimed, and alive: {left:#?} {answer:#}");
    assert_eq!(outcome.code == 0, claimed, "{case}: {answer:#}");
    // An answer that says that it is latched is true too.
    let holds = scene.json(0, &["status"])["latched"] == Value::Bool(true);
    assert!(holds || answer["latched"] == false, "{case}: {answer:#}");
    // The fault passes: nothing is left that nobody ends.
    traced.detach();
    if !claimed {
        scene.run(&["--json", "now"]);
    }
    let ended = run.wait();
    assert!([124, 125].contains(&ended.code), "{case}: {ended:?}");
    scene.expect_nothing_left();
    claimed
}

/// A call of each kind, the error and the tier another for each: the whole is `scripts/test --faults`.
#[test]
fn a_stop_in_which_a_call_fails_is_proven_or_says_that_it_is_not() {
    if !works() {
        return;
    }
    let calls = calls_of(&[]);
    assert!(calls.len() >= 8, "{calls:?}");
    let mut proven = 0;
    for (index, call) in calls.iter().enumerate() {
        proven += u32::from(stop_with(&[], call, ERRORS[index % ERRORS.len()], "1+"));
    }
    println!("{} of {} stops were proven", proven, calls.len());
    assert!(proven as usize * 2 > calls.len(), "only {proven} of {calls:?}");
}

/// Each call fails in each way, once and for good.
fn each_call_in_each_way(options: &[&str]) {
    assert!(works());
    let calls = calls_of(options);
    let (mut stops, mut proven) = (0, 0);
    for call in &calls {
        for (error, times) in ERRORS.iter().flat_map(|error| TIMES.map(|times| (error, times))) {
            stops += 1;
            proven += u32::from(stop_with(options, call, error, times));
        }
        println!("{options:?} up to {call}: {stops} stops, {proven} proven, no false claim");
    }
}

#[test]
#[ignore = "takes many minutes: scripts/test --faults"]
fn kernel_a_stop_in_which_any_call_fails_in_any_way_is_proven_or_says_that_it_is_not() {
    each_call_in_each_way(TIERS[0]);
}

#[test]
#[ignore = "takes many minutes: scripts/test --faults"]
fn namespace_a_stop_in_which_any_call_fails_in_any_way_is_proven_or_says_that_it_is_not() {
    each_call_in_each_way(TIERS[1]);
}

#[test]
#[ignore = "takes many minutes: scripts/test --faults"]
fn tracked_a_stop_in_which_any_call_fails_in_any_way_is_proven_or_says_that_it_is_not() {
    each_call_in_each_way(TIERS[2]);
}

/// The guardian may not kill; whoever orders it may.
#[test]
fn where_the_kernel_refuses_the_guardian_the_kill_now_does_without_it() {
    if !works() {
        return;
    }
    for options in TIERS {
        let scene = Scene::new();
        let run = villains(&scene, options);
        let inject = ["-e", &format!("trace={KILLS}"), "-e", &format!("inject={KILLS}:error=EPERM")];
        let traced = Traced::attach(guardian(&scene, "w"), &inject);
        let answer = scene.json(0, &["now"]);
        let left = scene.workload_alive();
        assert!(left.is_empty(), "{options:?}: alive: {left:#?} {answer:#}");
        assert_eq!(answer["jobs"][0]["survivors"], serde_json::json!([]), "{answer:#}");
        // It notices by itself that there is nothing left to kill.
        run.wait().expect(124);
        drop(traced);
        scene.expect_nothing_left();
    }
}

/// A copy of the guardian is a child of it, as every orphan of a tracked job: it is not counted, not killed, and awaited for no proof.
#[test]
fn a_copy_that_is_kept_waiting_is_nobody_of_the_job() {
    if !works() {
        return;
    }
    for options in &TIERS[1..] {
        let scene = Scene::new();
        let run = villains(&scene, options);
        // Where there is no cgroup, that is how the latch is written, and nothing else.
        let inject = ["-f", "-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=300s"];
        let traced = Traced::attach(guardian(&scene, "w"), &inject);
        std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
        run.wait().expect(124);
        assert!(!traced.others().is_empty(), "{options:?}: nobody is kept waiting");
        // From here on they write.
        drop(traced);
        let mut stop = Value::Null;
        until("the stop is written down", || {
            let log = scene.house().state_dir().join("critical-failures.jsonl");
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let mut entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            stop = entries.find(|entry| entry["event"] == "stop").unwrap_or_default();
            stop.is_object()
        });
        assert_eq!((&stop["stop"]["proven_empty"], &stop["stop"]["survivors"]), (&true.into(), &serde_json::json!([])));
        scene.expect_nothing_left();
    }
}

/// It is told for the emergency that it was, and not for a program that somebody has killed.
#[test]
fn an_emergency_that_a_guardian_never_heard_of_is_read_from_the_latch() {
    if !works() {
        return;
    }
    for options in TIERS {
        let scene = Scene::new();
        let run = villains(&scene, options);
        let traced = Traced::attach(guardian(&scene, "w"), &["-e", "inject=recvmsg:error=ENOMEM"]);
        let answer = scene.json(0, &["now"]);
        assert_eq!(answer["unreachable"], serde_json::json!(["w"]), "{answer:#}");
        let ended = run.wait().expect(124);
        assert!(ended.stderr.contains("estop now"), "{ended:?}");
        drop(traced);
        scene.expect_nothing_left();
    }
}

/// Without a copy that could wait for the disk, the latch comes after the kill.
#[test]
fn where_no_process_can_be_made_the_kill_comes_first_and_the_latch_is_set_all_the_same() {
    if !works() {
        return;
    }
    let scene = Scene::new();
    let run = villains(&scene, &["--require-tier", "kernel", "--time-max", "3s"]);
    let traced = Traced::attach(guardian(&scene, "w"), &["-e", "inject=clone3:error=EAGAIN"]);
    // By its own limit: nobody else sets the latch.
    run.wait().expect(124);
    let calls = traced.calls();
    let killed = calls.iter().rposition(|call| is_group_kill(call)).unwrap();
    let latched = calls.iter().position(|call| call.starts_with("pwrite64(") && call.contains("/latch/")).unwrap();
    assert!(killed < latched, "{:#?}", &calls[latched..=killed]);
    assert_eq!(scene.json(0, &["status"])["latch"]["scope"], serde_json::json!(["w"]));
    scene.expect_nothing_left();
}
