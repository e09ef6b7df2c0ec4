//! From the order to the kill a guardian opens nothing.

use super::trace::{Traced, guardian, kill_path, name_of, villains, works};
use crate::scene::{Scene, is_root};

/// What it may call. None of these looks up a path, makes a descriptor, or asks the kernel for memory.
const ALLOWED: [&str; 16] = [
    "recvmsg",
    "sendto",
    "geteuid",
    "getpid",
    "read",
    "pread64",
    "pwrite64",
    "poll",
    "ppoll",
    "waitid",
    "pidfd_send_signal",
    "sched_setscheduler",
    "fcntl",
    "close",
    "clock_gettime",
    "restart_syscall",
];

/// What it does beside, and goes on without if it is refused: the copies that write the latch and the evidence.
const OPTIONAL: [&str; 2] = ["clone3", "pipe2"];

#[test]
fn from_the_order_to_the_kill_nothing_is_opened_and_no_memory_is_asked_for() {
    if !works() || !is_root() {
        return;
    }
    let scene = Scene::new();
    let run = villains(&scene, &["--require-tier", "kernel"]);
    let traced = Traced::attach(guardian(&scene, "w"), &[]);
    let now = scene.spawn(&["--json", "now"]);
    let caller = now.pid();
    let answer = now.wait().expect(0).json();
    assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
    run.wait().expect(124);
    let calls = traced.calls();
    let (heard, killed) = kill_path(&calls);
    let accepted = heard + calls[heard..killed].iter().position(|call| call.starts_with("sendto(")).unwrap();
    // Whether the caller is inside a job. It is obeyed where that cannot be told: see `injected`.
    let looks = |index: usize, call: &str| {
        index < accepted
            && call.starts_with("open")
            && (call.contains(&format!("\"/proc/{caller}/")) || call.contains("/status\""))
    };
    let forbidden: Vec<&String> = (heard..=killed)
        .filter(|&index| {
            let (call, name) = (calls[index].as_str(), name_of(&calls[index]));
            let duplicates = name == "fcntl" && call.contains("F_DUPFD");
            !(ALLOWED.contains(&name) && !duplicates || OPTIONAL.contains(&name) || looks(index, call))
        })
        .map(|index| &calls[index])
        .collect();
    assert!(forbidden.is_empty(), "{forbidden:#?} in {:#?}", &calls[heard..=killed]);
    scene.expect_nothing_left();
}
