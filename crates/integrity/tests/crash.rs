//! Killing estop at every system call that changes a file, and looking at what the next opening makes of it.
//!
//! The killing is done by `strace --inject`. Where there is no strace (or it may not trace), the tests say so and pass.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use estop_integrity::log::Outcome;
use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::{KBSnapshot, NoWriters, SnapshotManager, Store, StoreConfig};
use support::{Place, snapshot, to};

/// The calls that change files, and every how many of each are tried: strace counts each of them by itself.
const CALLS: [(&str, usize); 18] = [
    ("fsync", 1),
    ("fdatasync", 1),
    ("syncfs", 1),
    ("rename", 1),
    ("renameat2", 1),
    ("unlink", 1),
    ("unlinkat", 1),
    ("rmdir", 1),
    ("mkdir", 1),
    ("mkdirat", 1),
    ("linkat", 1),
    ("symlinkat", 1),
    ("ftruncate", 1),
    ("fchmod", 1),
    ("utimensat", 1),
    ("fchownat", 1),
    ("write", 3),
    ("pwrite64", 5),
];

const KILL: &str = "signal=KILL";

const PLACE: &str = "ESTOP_TEST_PLACE";
const ACTION: &str = "ESTOP_TEST_ACTION";

/// What the killed process does; run by name in a process of its own.
#[test]
#[ignore = "the process that the other tests kill"]
fn child() {
    let place = PathBuf::from(std::env::var_os(PLACE).expect("started by another test"));
    let store = Store::open(StoreConfig::new("kb", place.join("kb"), place.join("vault"))).unwrap();
    let manager = SnapshotManager::open(store).unwrap();
    match std::env::var(ACTION).unwrap().as_str() {
        "open" => {}
        "snapshot" => drop(snapshot(&manager)),
        "prune" => drop(manager.prune(&Retention { last: 1, ..Retention::default() }, false).unwrap()),
        point => {
            let request = RollbackRequest::new(point.parse().unwrap());
            assert!(manager.rollback(&request, &NoWriters, &Silent).unwrap().verified);
        }
    }
}

enum Died {
    /// Killed, or it gave up.
    Killed,
    /// It did what it was to do.
    Finished,
}

/// Runs `action` in a process of its own, in which the `at`-th `call` meets with `fate`.
fn run(place: &Place, action: &str, (call, at): (&str, usize), fate: &str) -> Died {
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:{fate}:when={at}")]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--test-threads=1", "child"]);
    command.env(PLACE, place.dir.path()).env(ACTION, action).env_remove("RUST_BACKTRACE");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Died::Finished;
    }
    let failed = text.contains("FAILED") && fate == KILL;
    assert!(!failed, "{text}{}", String::from_utf8_lossy(&output.stderr));
    Died::Killed
}

fn strace_works() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-q", "-o", "/dev/null", "-e", "inject=fsync:signal=KILL:when=1", "true"]);
    let works = strace.stdin(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !works {
        eprintln!("SKIPPED: strace is not installed or may not trace, so nothing was killed");
    }
    works
}

/// Kills `action` at every call worth it, each time in a place of its own, and lets `check` look at what is left.
fn kill_everywhere<T>(
    prepare: impl Fn(&Place) -> (String, T) + Sync,
    check: impl Fn(&Place, &T, &str) + Sync,
) -> usize {
    if !strace_works() {
        return 0;
    }
    let kills = AtomicUsize::new(0);
    for (call, step) in CALLS {
        let next = AtomicUsize::new(1);
        let work = || {
            loop {
                let at = next.fetch_add(step, Ordering::Relaxed);
                let place = Place::new();
                let (action, memory) = prepare(&place);
                let died = run(&place, &action, (call, at), KILL);
                check(&place, &memory, &format!("killed at {call} {at}"));
                match died {
                    Died::Killed => kills.fetch_add(1, Ordering::Relaxed),
                    Died::Finished => break,
                };
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(work);
            scope.spawn(work);
        });
    }
    kills.into_inner()
}

type Look = BTreeMap<PathBuf, String>;

/// A small store with one of each kind, a snapshot of it, and then each of them changed.
fn changed_store(place: &Place) -> (KBSnapshot, Look, Look) {
    let kb = place.kb();
    place.write("kept", "kept");
    place.write("changed", "before");
    place.write("d/gone", "gone");
    place.write("d/e/deep", "deep");
    place.write("one", "two names");
    fs::hard_link(kb.join("one"), kb.join("d/two")).unwrap();
    symlink("kept", kb.join("link")).unwrap();
    let good = snapshot(&place.open());
    let wanted = place.look();
    place.write("changed", "after");
    fs::remove_dir_all(kb.join("d")).unwrap();
    place.write("d", "a file where a directory was");
    fs::remove_file(kb.join("link")).unwrap();
    place.write("link/x/y", "a directory where a link was");
    fs::remove_file(kb.join("one")).unwrap();
    place.write("one", "another");
    place.write("extra", "extra");
    (good, wanted, place.look())
}

#[test]
fn a_rollback_killed_anywhere_ends_in_the_old_or_the_new_state() {
    let (old, new) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let prepare = |place: &Place| {
        let memory = changed_store(place);
        (memory.0.id.to_string(), memory)
    };
    let check = |place: &Place, (good, wanted, wrecked): &(KBSnapshot, Look, Look), when: &str| {
        let manager = place.open();
        let seen = place.look();
        let recovered = manager.recovered();
        assert!(recovered.is_none_or(|it| it.outcome != Outcome::Differs), "{when}: {recovered:?}");
        if seen == *wanted {
            new.fetch_add(1, Ordering::Relaxed);
        } else {
            assert_eq!(&seen, wrecked, "{when}: neither the old nor the new state");
            old.fetch_add(1, Ordering::Relaxed);
        }
        assert!(manager.verify(&to(good), &Silent).unwrap().ok, "{when}");
        for safety in manager.list().unwrap() {
            assert!(manager.verify(&to(&safety), &Silent).unwrap().ok, "{when}: {}", safety.id);
        }
        let report = manager.rollback(&RollbackRequest::new(to(good)), &NoWriters, &Silent).unwrap();
        assert!(report.verified, "{when}: {:?}", report.errors);
        assert_eq!(&place.look(), wanted, "{when}: and rolled back again");
        drop(manager);
        assert!(place.open().recovered().is_none(), "{when}: recovered a second time");
    };
    let kills = kill_everywhere(prepare, check);
    eprintln!("{kills} kills: {} ended in the old state, {} in the new", old.into_inner(), new.into_inner());
    assert!(kills == 0 || kills > 50, "only {kills} kills: were the calls traced?");
}

#[test]
fn a_recovery_killed_anywhere_is_taken_up_again() {
    if !strace_works() {
        return;
    }
    // The rename at which to kill, so that the rollback is decided and half of it done.
    let half = (1..20).find(|at| {
        let place = Place::new();
        let (good, wanted, wrecked) = changed_store(&place);
        let killed = matches!(run(&place, good.id.as_str(), ("renameat2", *at), KILL), Died::Killed);
        killed && place.look() != wanted && place.look() != wrecked && place.kb().join("d").is_dir()
    });
    let half = half.expect("a rename at which the rollback is half done");
    let interrupt = |place: &Place| {
        let memory = changed_store(place);
        assert!(matches!(run(place, memory.0.id.as_str(), ("renameat2", half), KILL), Died::Killed));
        ("open".to_owned(), memory)
    };
    let check = |place: &Place, (good, wanted, _): &(KBSnapshot, Look, Look), when: &str| {
        let manager = place.open();
        assert_eq!(&place.look(), wanted, "{when}");
        assert!(manager.verify(&to(good), &Silent).unwrap().ok, "{when}");
    };
    let kills = kill_everywhere(interrupt, check);
    assert!(kills > 30, "only {kills} kills");
}

#[test]
fn a_snapshot_killed_anywhere_is_there_whole_or_not_at_all() {
    let prepare = |place: &Place| ("snapshot".to_owned(), changed_store(place).0);
    let check = |place: &Place, good: &KBSnapshot, when: &str| {
        let manager = place.open();
        let all = manager.list().unwrap();
        assert!(all[0] == *good && all.len() <= 2, "{when}: {all:?}");
        let next = snapshot(&manager);
        for one in all.iter().chain([&next]) {
            let report = manager.verify(&to(one), &Silent).unwrap();
            assert!(report.ok, "{when}: {:?}", report.errors);
        }
        if let Some(second) = all.get(1) {
            assert_eq!(second.checksum, next.checksum, "{when}: it holds something else than the store");
        }
    };
    let kills = kill_everywhere(prepare, check);
    assert!(kills == 0 || kills > 10, "only {kills} kills");
}

#[test]
fn a_prune_killed_anywhere_loses_nothing_that_is_kept() {
    let prepare = |place: &Place| {
        for round in 0..3 {
            place.write("big", vec![round; 50_000]);
            place.write(format!("kept {round}"), format!("{round}"));
            snapshot(&place.open());
        }
        let manager = place.open();
        ("prune".to_owned(), manager.list().unwrap())
    };
    let check = |place: &Place, all: &Vec<KBSnapshot>, when: &str| {
        let manager = place.open();
        let left = manager.list().unwrap();
        assert_eq!(left.last(), all.last(), "{when}");
        assert!(left.len() == 3 || left.len() == 1, "{when}: {left:?}");
        manager.prune(&Retention { last: 1, ..Retention::default() }, false).unwrap();
        let kept = snapshot(&manager);
        for one in manager.list().unwrap() {
            let report = manager.verify(&to(&one), &Silent).unwrap();
            assert!(report.ok, "{when}: {:?}", report.errors);
        }
        assert_eq!(kept.checksum, all[2].checksum, "{when}");
    };
    let kills = kill_everywhere(prepare, check);
    assert!(kills == 0 || kills > 10, "only {kills} kills");
}

#[test]
fn a_rollback_on_a_failing_device_ends_in_the_old_or_the_new_state() {
    if !strace_works() {
        return;
    }
    let mut failures = 0;
    for (call, fate, last) in [
        ("fdatasync", "error=EIO", 6),
        ("fsync", "error=EIO", 25),
        ("write", "error=ENOSPC", 12),
        ("pwrite64", "error=EIO", 40),
    ] {
        for at in (1..=last).step_by(if call == "pwrite64" { 6 } else { 2 }) {
            let place = Place::new();
            let (good, wanted, wrecked) = changed_store(&place);
            let died = run(&place, good.id.as_str(), (call, at), fate);
            failures += usize::from(matches!(died, Died::Killed));
            let manager = place.open();
            let seen = place.look();
            let when = format!("{call} {at} failed");
            assert!(seen == wanted || (seen == wrecked && matches!(died, Died::Killed)), "{when}: {seen:?}");
            for one in manager.list().unwrap() {
                assert!(manager.verify(&to(&one), &Silent).unwrap().ok, "{when}: {}", one.id);
            }
            let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
            assert!(report.verified, "{when}: {:?}", report.errors);
        }
    }
    assert!(failures > 3, "only {failures} of the failures were felt");
}
