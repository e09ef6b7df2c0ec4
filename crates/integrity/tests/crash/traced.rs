//! Killing, and failing, at every system call that changes a file: by `strace --inject`. Where there is no strace (or it may not
//! trace), the tests say so and pass.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use estop_integrity::progress::{Progress, Silent};
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::{KBSnapshot, NoWriters, SnapshotManager};

use super::{ACTION, COMMIT, Look, PLACE, changed_store, contents, transaction_over};
use crate::support::{Place, snapshot, to};

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

/// A rollback is killed more often than that.
pub(crate) const FEWEST: usize = 50;

const KILL: &str = "signal=KILL";

/// In the process that is killed, nothing is done for that.
pub(crate) fn fatal() -> impl Progress {
    Silent
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
pub(crate) fn kill_everywhere<T>(
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
fn a_prune_killed_anywhere_loses_nothing_that_is_kept() {
    let prepare = |place: &Place| {
        // One in pages, one in chunks; little of each is left on the device.
        let page = |number: u16| number.to_le_bytes().repeat(2048);
        let mut pages: Vec<u8> = (0..300).flat_map(page).collect();
        pages[..16].copy_from_slice(b"SQLite format 3\0");
        for round in 0..3 {
            place.write("big", vec![round; 50_000]);
            place.write(format!("kept {round}"), format!("{round}"));
            pages[4096 * 7 * (usize::from(round) + 1)..][..4096].fill(round);
            pages[4096 * 40 + 100] = round;
            place.write("pages", &pages);
            place.write("chunks", [&pages[4096 * 20..], &[round; 1000]].concat());
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
        drop(manager);
        let (manager, _) = SnapshotManager::rebuild(place.store()).unwrap();
        assert!(manager.verify(&to(&kept), &Silent).unwrap().ok, "{when}: rebuilt");
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

#[test]
fn a_commits_recovery_killed_anywhere_is_taken_up_again() {
    if !strace_works() {
        return;
    }
    // The rename at which to kill, so that the commit is decided and half of it done.
    let half = (1..20).find(|at| {
        let place = Place::new();
        let (id, before, wanted) = transaction_over(&place);
        let killed = matches!(run(&place, &format!("{COMMIT}{id}"), ("renameat2", *at), KILL), Died::Killed);
        killed && place.look() != before && contents(&place) != wanted && place.kb().join("new").exists()
    });
    let half = half.expect("a rename at which the commit is half done");
    let interrupt = |place: &Place| {
        let (id, _, wanted) = transaction_over(place);
        assert!(matches!(run(place, &format!("{COMMIT}{id}"), ("renameat2", half), KILL), Died::Killed));
        ("open".to_owned(), (id, wanted))
    };
    let check = |place: &Place, (id, wanted): &(String, BTreeMap<PathBuf, Vec<u8>>), when: &str| {
        let manager = place.open();
        assert_eq!(&contents(place), wanted, "{when}");
        assert!(manager.committed(id).unwrap().is_some(), "{when}");
        assert!(manager.open_transactions().unwrap().is_empty(), "{when}");
    };
    let kills = kill_everywhere(interrupt, check);
    assert!(kills > 20, "only {kills} kills");
}
