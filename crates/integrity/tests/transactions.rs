//! Transactions through the library: whole or not at all, first committer wins, many together.

#![cfg(not(windows))]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};

use estop_integrity::operations::OperationOrigin;
use estop_integrity::progress::{Phase, Progress, Silent};
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::transaction::{ChangedBy, MOST_OPEN};
use estop_integrity::writers::{Frozen, Hold, Writer, Writers};
use estop_integrity::{Error, NoWriters, RecoveryPoint, SnapshotManager, StorePath, Transaction};
use support::{Place, snapshot};

fn path(name: &str) -> StorePath {
    name.parse().unwrap()
}

fn put(transaction: &mut Transaction<'_>, name: &str, content: &str) {
    transaction.put(&path(name), &mut content.as_bytes(), None).unwrap();
}

/// Every file with its content.
fn files(place: &Place) -> BTreeMap<PathBuf, String> {
    let names = place.look().into_keys().filter(|name| place.kb().join(name).is_file());
    names.map(|name| (name.clone(), fs::read_to_string(place.kb().join(name)).unwrap())).collect()
}

fn of(pairs: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
    pairs.iter().map(|(name, content)| (PathBuf::from(name), (*content).to_owned())).collect()
}

/// Nothing about the store is unknown to the history: a look at it finds no change.
fn assert_known(manager: &SnapshotManager) {
    let status = manager.status(&Silent).unwrap();
    assert_eq!(status.dirty_files, 0, "a commit is known without a look");
    let diff = manager.diff(&RecoveryPoint::Lsn(manager.lsn()), None, &Silent).unwrap();
    assert_eq!(diff.differences, [], "a commit is known without a look");
}

#[test]
fn nothing_changes_before_the_commit_and_everything_with_it() {
    let place = Place::new();
    place.write("kept", "kept");
    place.write("changed", "long ago");
    place.write("d/gone", "gone");
    place.write("d/deep/er", "deep");
    place.write("old", "moved");
    let manager = place.open();
    snapshot(&manager);
    place.write("changed", "before");
    let before = place.look();
    let mut transaction = manager.begin();
    put(&mut transaction, "changed", "after");
    put(&mut transaction, "new/dir/file", "new");
    transaction.delete(&path("d")).unwrap();
    put(&mut transaction, "d", "a file where a directory was");
    transaction.rename(&path("old"), &path("new/name")).unwrap();
    transaction.rename(&path("changed"), &path("renamed")).unwrap();
    assert_eq!(place.look(), before);
    let report = transaction.commit(&Silent).unwrap();
    let after = of(&[
        ("kept", "kept"),
        ("renamed", "after"),
        ("new/dir/file", "new"),
        ("d", "a file where a directory was"),
        ("new/name", "moved"),
    ]);
    assert_eq!(files(&place), after);
    assert_eq!((report.put, report.deleted, report.together), (4, 4, 1), "{report:?}");
    assert_known(&manager);
    drop(manager);
    let manager = place.open();
    assert!(manager.recovered_transactions().is_empty());
    assert_known(&manager);
    let operations = manager.operations().unwrap();
    let own: Vec<_> = operations.iter().filter(|it| it.transaction.as_ref() == Some(&report.transaction)).collect();
    assert!(own.iter().all(|it| it.origin == OperationOrigin::Transaction && it.lsn == report.lsn));
    assert!(own.iter().any(|it| it.path == path("renamed") && it.before.is_none() && it.after.is_some()));
    assert!(own.iter().any(|it| it.path == path("d/gone") && it.before.is_some() && it.after.is_none()));
    let back = RollbackRequest::new(RecoveryPoint::Lsn(report.lsn - 1));
    assert!(manager.rollback(&back, &NoWriters, &Silent).unwrap().verified);
    assert_eq!(files(&place)[&PathBuf::from("changed")], "before", "what was never snapshotted is in the history");
}

#[test]
fn the_first_committer_wins_and_the_second_learns_who_it_was() {
    let place = Place::new();
    place.write("shared", "0");
    place.write("d/x", "0");
    let manager = place.open();
    let (mut first, mut second, mut third) = (manager.begin(), manager.begin(), manager.begin());
    put(&mut first, "shared", "first");
    put(&mut second, "other", "second");
    put(&mut second, "shared", "second");
    first.delete(&path("d")).unwrap();
    put(&mut third, "d/y", "third");
    let winner = first.commit(&Silent).unwrap();
    let refused = second.commit(&Silent).unwrap_err();
    assert!(refused.is_refusal());
    let Error::Conflict { path: at, by, .. } = refused else { panic!("{refused}") };
    assert_eq!((at.as_str(), by), ("shared", ChangedBy::Transaction(winner.transaction.clone(), Some(winner.lsn))));
    let refused = third.commit(&Silent).unwrap_err();
    assert!(matches!(&refused, Error::Conflict { path, .. } if path == "d"), "{refused}");
    assert_eq!(files(&place), of(&[("shared", "first")]), "and nothing of them is done");
}

#[test]
fn a_change_outside_of_transactions_conflicts_whoever_noticed_it() {
    let place = Place::new();
    place.write("edited", "0");
    place.write("dir/a", "0");
    let manager = place.open();
    snapshot(&manager);
    let conflict = |change: &dyn Fn(&mut Transaction<'_>), meanwhile: &dyn Fn()| {
        let mut transaction = manager.begin();
        change(&mut transaction);
        put(&mut transaction, "beside", "never");
        meanwhile();
        match transaction.commit(&Silent) {
            Err(Error::Conflict { path, by, .. }) => (path, by),
            other => panic!("{other:?}"),
        }
    };
    let (at, by) = conflict(&|it| put(it, "edited", "1"), &|| place.write("edited", "by hand"));
    assert_eq!((at.as_str(), by), ("edited", ChangedBy::Program));
    let seen = || {
        place.write("edited", "by hand again");
        snapshot(&manager);
    };
    let (at, by) = conflict(&|it| put(it, "edited", "1"), &seen);
    assert!(at == "edited" && matches!(by, ChangedBy::Observed(..)), "{by:?}");
    let (at, _) = conflict(&|it| it.delete(&path("dir")).unwrap(), &|| place.write("dir/new", "x"));
    assert_eq!(at, "dir/new");
    let (at, _) = conflict(&|it| put(it, "fresh", "1"), &|| place.write("fresh", "by hand"));
    assert_eq!(at, "fresh");
    let point = RecoveryPoint::from(&manager.list().unwrap()[0].id);
    place.write("edited", "wrong");
    let (at, by) = conflict(&|it| put(it, "edited", "1"), &|| {
        assert!(manager.rollback(&RollbackRequest::new(point.clone()), &NoWriters, &Silent).unwrap().verified);
    });
    assert!(at == "edited" && matches!(by, ChangedBy::Rollback(_)), "{by:?}");
    assert!(!place.kb().join("beside").exists());
}

#[test]
fn what_does_not_fit_is_refused_when_it_is_asked_for() {
    let place = Place::new();
    place.write("d/x", "0");
    place.write("f", "0");
    let manager = place.open();
    let mut transaction = manager.begin();
    let mut nothing = std::io::empty();
    assert!(matches!(transaction.put(&path("d"), &mut nothing, None), Err(Error::Unfit { .. })));
    assert!(matches!(transaction.put(&path("f/x"), &mut nothing, None), Err(Error::Unfit { .. })));
    assert!(matches!(transaction.delete(&path("absent")), Err(Error::NoSuchPath { .. })));
    assert!(matches!(transaction.rename(&path("d"), &path("d/in/itself")), Err(Error::Unfit { .. })));
    assert!(matches!(transaction.rename(&path("f"), &path("d")), Err(Error::Unfit { .. })));
    transaction.delete(&path("d")).unwrap();
    assert!(matches!(transaction.delete(&path("d/x")), Err(Error::NoSuchPath { .. })), "it sees its own changes");
    transaction.rollback().unwrap();
    assert_eq!(files(&place), of(&[("d/x", "0"), ("f", "0")]));
}

#[cfg(unix)]
#[test]
fn no_link_is_followed_out_of_the_store_and_modes_are_kept_or_given() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(place.kb().join("d")).unwrap();
    symlink(&outside, place.kb().join("link")).unwrap();
    place.write("script", "0");
    fs::set_permissions(place.kb().join("script"), fs::Permissions::from_mode(0o4755)).unwrap();
    let manager = place.open();
    let mut transaction = manager.begin();
    assert!(matches!(transaction.put(&path("link/x"), &mut &b"x"[..], None), Err(Error::Unfit { .. })));
    put(&mut transaction, "d/x", "x");
    put(&mut transaction, "script", "1");
    transaction.put(&path("private"), &mut &b"x"[..], Some(0o600)).unwrap();
    fs::remove_dir(place.kb().join("d")).unwrap();
    symlink(&outside, place.kb().join("d")).unwrap();
    assert!(matches!(transaction.commit(&Silent), Err(Error::Conflict { path, .. }) if path == "d"));
    let mut transaction = manager.begin();
    put(&mut transaction, "script", "1");
    transaction.put(&path("private"), &mut &b"x"[..], Some(0o600)).unwrap();
    transaction.commit(&Silent).unwrap();
    let mode = |name: &str| fs::metadata(place.kb().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("script"), mode("private")), (0o755, 0o600), "set-uid bits do not outlive another content");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn names_of_one_file_are_known_after_one_of_them_is_replaced() {
    let place = Place::new();
    place.write("a", "one file");
    for name in ["b", "c"] {
        fs::hard_link(place.kb().join("a"), place.kb().join(name)).unwrap();
    }
    let manager = place.open();
    snapshot(&manager);
    for (name, left) in [("a", "bc"), ("b", "c")] {
        let mut transaction = manager.begin();
        put(&mut transaction, name, "its own");
        transaction.commit(&Silent).unwrap();
        assert_known(&manager);
        assert!(left.chars().all(|name| fs::read(place.kb().join(name.to_string())).unwrap() == b"one file"));
    }
}

#[test]
fn an_open_transaction_outlives_its_process_a_prune_and_not_a_rollback_of_its_paths() {
    let place = Place::new();
    place.write("a", "0");
    let manager = place.open();
    let first = snapshot(&manager);
    let mut kept = manager.begin();
    put(&mut kept, "b", &"kept in the vault ".repeat(1000));
    kept.keep().unwrap();
    let id = kept.id().to_string();
    let mut over = manager.begin();
    put(&mut over, "a", "never");
    over.keep().unwrap();
    let loser = over.id().to_string();
    drop((kept, over));
    manager.prune(&Retention { last: 1, ..Retention::default() }, false).unwrap();
    place.write("a", "1");
    snapshot(&manager);
    manager.rollback(&RollbackRequest::new(support::to(&first)), &NoWriters, &Silent).unwrap();
    place.write("a", "2");
    drop(manager);
    let manager = place.open();
    assert_eq!(manager.open_transactions().unwrap().len(), 2);
    manager.resume(&id).unwrap().commit(&Silent).unwrap();
    assert!(matches!(manager.resume(&loser).unwrap().commit(&Silent), Err(Error::Conflict { .. })));
    assert_eq!(fs::read_to_string(place.kb().join("b")).unwrap().len(), 18_000);
    assert!(matches!(manager.resume(&id), Err(Error::NoSuchTransaction { .. })));
    assert!(manager.committed(&id).unwrap().unwrap().already);
    assert!(manager.committed(&loser).unwrap().is_none());
    manager.give_up(&loser).unwrap();
    assert!(manager.open_transactions().unwrap().is_empty());
    let many: Vec<_> = (0..MOST_OPEN).map(|_| manager.begin()).collect();
    for it in &many {
        it.keep().unwrap();
    }
    assert!(matches!(manager.begin().keep(), Err(Error::TooManyTransactions { .. })));
    for it in many {
        it.rollback().unwrap();
    }
    assert_eq!(fs::read_dir(place.vault().join("transactions")).unwrap().count(), 0);
}

/// Holds up the first one that prepares its files, until it is let go.
#[derive(Default)]
struct HeldUp {
    arrived: AtomicBool,
    go: Mutex<bool>,
    gone: Condvar,
}

impl Progress for HeldUp {
    fn report(&self, phase: Phase, _done: u64, _total: u64) {
        if phase == Phase::Staging && !self.arrived.swap(true, Ordering::SeqCst) {
            let mut go = self.go.lock().unwrap();
            while !*go {
                go = self.gone.wait(go).unwrap();
            }
        }
    }
}

#[test]
fn commits_that_come_together_share_their_synchronisations() {
    const MANY: usize = 16;
    let place = Place::new();
    let manager = place.open();
    snapshot(&manager);
    let drafts: Vec<_> = (0..MANY)
        .map(|number| {
            let mut transaction = manager.begin();
            put(&mut transaction, &format!("{number}/file"), &number.to_string());
            transaction
        })
        .collect();
    let held = HeldUp::default();
    let before = manager.log().synchronisations();
    let together = std::thread::scope(|scope| {
        let mut drafts = drafts.into_iter();
        let first = drafts.next().unwrap();
        let leader = scope.spawn(|| first.commit(&held).unwrap().together);
        while !held.arrived.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let others: Vec<_> = drafts.map(|it| scope.spawn(move || it.commit(&Silent).unwrap().together)).collect();
        while manager.commits_waiting() < MANY - 1 {
            std::thread::yield_now();
        }
        *held.go.lock().unwrap() = true;
        held.gone.notify_all();
        assert_eq!(leader.join().unwrap(), 1);
        others.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(together, vec![MANY as u64 - 1; MANY - 1]);
    let synchronisations = manager.log().synchronisations() - before;
    assert_eq!(synchronisations, 4, "decision and end of the first, and of all others together");
    assert_eq!(files(&place).len(), MANY);
    assert_known(&manager);
}

#[test]
fn many_threads_with_files_of_their_own_all_commit_and_one_of_those_with_the_same() {
    let place = Place::new();
    place.write("shared", "0");
    let manager = &place.open();
    let (start, won) = (&Barrier::new(8), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let mut contested = manager.begin();
                put(&mut contested, "shared", &thread.to_string());
                start.wait();
                for round in 0..10 {
                    let mut own = manager.begin();
                    put(&mut own, &format!("{thread}/{round}"), &format!("{thread} {round}"));
                    put(&mut own, &format!("{thread}/latest"), &round.to_string());
                    own.commit(&Silent).unwrap();
                }
                won.fetch_add(usize::from(contested.commit(&Silent).is_ok()), Ordering::SeqCst);
            });
        }
    });
    assert_eq!(won.load(Ordering::SeqCst), 1);
    let found = files(&place);
    assert_eq!(found.len(), 8 * 11 + 1);
    assert!((0..8).all(|thread| found[&PathBuf::from(format!("{thread}/latest"))] == "9"));
    assert_known(manager);
}

/// Writers that tell what they saw while they stood still.
struct Watchers<F: Fn() + Send + Sync + 'static>(Arc<F>);

struct Watching<F: Fn() + Send + Sync + 'static>(Arc<F>);

impl<F: Fn() + Send + Sync> Hold for Watching<F> {
    fn has_held(&mut self) -> Result<(), String> {
        self.0();
        Ok(())
    }
}

impl<F: Fn() + Send + Sync + 'static> Writers for Watchers<F> {
    fn freeze(&self) -> Result<Frozen, String> {
        self.0();
        Ok(Frozen::new(vec!["agent".to_owned()], Watching(Arc::clone(&self.0))))
    }

    fn alive(&self) -> Result<Vec<Writer>, String> {
        Ok(Vec::new())
    }
}

#[test]
fn who_stands_still_sees_the_state_before_and_the_state_after() {
    let place = Place::new();
    place.write("a", "0");
    let manager = place.open();
    let mut transaction = manager.begin();
    put(&mut transaction, "a", "1");
    put(&mut transaction, "b", "1");
    let (seen, kb) = (Arc::new(Mutex::new(Vec::new())), place.kb());
    let look = {
        let seen = Arc::clone(&seen);
        move || seen.lock().unwrap().push((fs::read_to_string(kb.join("a")).unwrap(), kb.join("b").exists()))
    };
    let report = transaction.commit_frozen(&Watchers(Arc::new(look)), &Silent).unwrap();
    assert!(report.frozen_seconds > 0.0 && report.freeze_error.is_none());
    assert_eq!(*seen.lock().unwrap(), [("0".to_owned(), false), ("1".to_owned(), true)]);
}

#[cfg(unix)]
#[test]
fn what_the_store_refuses_is_put_back_whole_and_harms_no_other() {
    use std::os::unix::fs::PermissionsExt as _;
    // The mode of a directory binds no privileged user.
    let place = Place::new();
    place.write("a/x", "0");
    place.write("z/y", "0");
    let manager = place.open();
    snapshot(&manager);
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                support::obey_modes();
                let mut transaction = manager.begin();
                put(&mut transaction, "a/x", "1");
                put(&mut transaction, "z/y", "1");
                fs::set_permissions(place.kb().join("z"), fs::Permissions::from_mode(0o555)).unwrap();
                let refused = transaction.commit(&Silent).unwrap_err();
                let Error::CommitFailed { path, outcome, .. } = &refused else { panic!("{refused}") };
                assert_eq!(path, "z/y", "{refused}");
                assert!(outcome.contains("put back"), "{refused}");
            })
            .join()
            .unwrap();
    });
    fs::set_permissions(place.kb().join("z"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(files(&place), of(&[("a/x", "0"), ("z/y", "0")]));
    let mut transaction = manager.begin();
    put(&mut transaction, "z/y", "2");
    transaction.commit(&Silent).unwrap();
    assert_eq!(files(&place), of(&[("a/x", "0"), ("z/y", "2")]));
}
