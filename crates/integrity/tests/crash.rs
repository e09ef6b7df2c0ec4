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
use estop_integrity::{KBSnapshot, NewSnapshot, NoWriters, SnapshotManager, Store, StoreConfig, StorePath};
use killing::{FEWEST, fatal, kill_everywhere};
use support::{Place, snapshot, to};

const PLACE: &str = "ESTOP_TEST_PLACE";
const ACTION: &str = "ESTOP_TEST_ACTION";
/// What stands before the name of a transaction that is to be committed.
const COMMIT: &str = "commit ";

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
        commit if commit.starts_with(COMMIT) => {
            let transaction = manager.resume(&commit[COMMIT.len()..]).unwrap();
            assert_eq!(transaction.commit(&fatal()).unwrap().together, 1);
        }
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

/// A kept transaction over the store of [`changed_store`]: its name, the files before, and those after it.
fn transaction_over(place: &Place) -> (String, Look, BTreeMap<PathBuf, Vec<u8>>) {
    changed_store(place);
    let manager = place.open();
    snapshot(&manager);
    place.write("changed", "edited, and not seen");
    let path = |name: &str| name.parse::<StorePath>().unwrap();
    let big = vec![7; 300_000];
    let mut transaction = manager.begin();
    transaction.put(&path("changed"), &mut &b"by the transaction"[..], None).unwrap();
    transaction.put(&path("new/er/file"), &mut &b"new"[..], None).unwrap();
    transaction.put(&path("big"), &mut big.as_slice(), None).unwrap();
    transaction.delete(&path("link")).unwrap();
    transaction.put(&path("link"), &mut &b"a file where a directory was"[..], None).unwrap();
    transaction.delete(&path("d")).unwrap();
    transaction.put(&path("d/x"), &mut &b"a directory where a file was"[..], None).unwrap();
    transaction.rename(&path("extra"), &path("new/extra")).unwrap();
    transaction.keep().unwrap();
    let wanted: [(&str, &[u8]); 8] = [
        ("kept", b"kept"),
        ("one", b"another"),
        ("changed", b"by the transaction"),
        ("new/er/file", b"new"),
        ("big", &big),
        ("link", b"a file where a directory was"),
        ("d/x", b"a directory where a file was"),
        ("new/extra", b"extra"),
    ];
    let wanted = wanted.iter().map(|(name, content)| (PathBuf::from(name), content.to_vec())).collect();
    (transaction.id().to_string(), place.look(), wanted)
}

fn contents(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let names = place.look().into_keys().filter(|name| place.kb().join(name).is_file());
    names.map(|name| (name.clone(), fs::read(place.kb().join(name)).unwrap())).collect()
}

#[test]
#[cfg_attr(windows, ignore = "new files have other access rules than their transaction says")]
fn a_commit_killed_anywhere_is_done_whole_or_not_at_all() {
    let (old, new) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let prepare = |place: &Place| {
        let (id, before, wanted) = transaction_over(place);
        (format!("{COMMIT}{id}"), (id, before, wanted))
    };
    let check = |place: &Place, (id, before, wanted): &(String, Look, BTreeMap<PathBuf, Vec<u8>>), when: &str| {
        let manager = place.open();
        let recovered = manager.recovered_transactions();
        assert!(recovered.iter().all(|it| it.outcome == Outcome::Verified), "{when}: {recovered:?}");
        if contents(place) == *wanted {
            new.fetch_add(1, Ordering::Relaxed);
            assert!(manager.committed(id).unwrap().is_some(), "{when}: the log does not know it");
            assert!(manager.resume(id).is_err(), "{when}: it is done, and open");
        } else {
            assert_eq!(&place.look(), before, "{when}: neither the old nor the new state");
            old.fetch_add(1, Ordering::Relaxed);
            assert!(
                manager.committed(id).unwrap().is_none(),
                "{when}: nothing of it is done, and the log says that it is"
            );
            manager.resume(id).unwrap().commit(&Silent).unwrap();
            assert_eq!(&contents(place), wanted, "{when}: committed again");
        }
        assert_eq!(manager.status(&Silent).unwrap().dirty_files, 0, "{when}: not all of it is known");
        let made = snapshot(&manager);
        assert!(manager.verify(&to(&made), &Silent).unwrap().ok, "{when}");
        drop(manager);
        let manager = place.open();
        assert!(manager.recovered_transactions().is_empty(), "{when}: recovered a second time");
        assert_eq!(fs::read_dir(place.vault().join("staging")).unwrap().count(), 0, "{when}");
    };
    let kills = kill_everywhere(prepare, check);
    eprintln!("{kills} kills: {} ended in the old state, {} in the new", old.into_inner(), new.into_inner());
    assert!(kills == 0 || kills > FEWEST / 2, "only {kills} kills: were the calls traced?");
}
