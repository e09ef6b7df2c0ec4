//! Killing estop in the middle of what it does, and looking at what the next opening makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[cfg_attr(unix, path = "crash/traced.rs")]
#[cfg_attr(windows, path = "crash/reported.rs")]
mod killing;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use estop_integrity::log::Outcome;
use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::{KBSnapshot, NewSnapshot, NoWriters, SnapshotManager, Store, StoreConfig};
use killing::{FEWEST, fatal, kill_everywhere};
use support::{Place, snapshot, to};

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
        "snapshot" => drop(manager.create(&NewSnapshot::default(), &NoWriters, &fatal()).unwrap()),
        "prune" => drop(manager.prune(&Retention { last: 1, ..Retention::default() }, false).unwrap()),
        point => {
            let request = RollbackRequest::new(point.parse().unwrap());
            assert!(manager.rollback(&request, &NoWriters, &fatal()).unwrap().verified);
        }
    }
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
    #[cfg(unix)]
    std::os::unix::fs::symlink("kept", kb.join("link")).unwrap();
    #[cfg(windows)]
    place.write("link", "kept");
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
    assert!(kills == 0 || kills > FEWEST, "only {kills} kills: were the calls traced?");
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
    assert!(kills == 0 || kills > FEWEST / 5, "only {kills} kills");
}
