//! Changed bytes in the vault are noticed, told, and never restored as if they were the truth; a lost catalogue is made anew.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::verify::FaultKind;
use estop_integrity::{Error, NewSnapshot, NoWriters, RecoveryPoint, SnapshotManager};
use support::{Place, furnish, snapshot, to, wreck};

fn files_in(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = all.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    found.sort();
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_a_pack_is_told_and_stops_a_rollback_before_anything_changes() {
    let place = Place::new();
    place.write("whole", "not damaged");
    place.write("damaged", blake3::hash(b"noise").as_bytes());
    let manager = place.open();
    let good = snapshot(&manager);
    let pack = files_in(&place.vault().join("packs"), ".pack").remove(0);
    let bytes = fs::read(&pack).unwrap();
    let at = bytes.windows(32).position(|window| window == blake3::hash(b"noise").as_bytes()).unwrap();
    flip(&pack, at);
    let report = manager.verify(&to(&good), &Silent).unwrap();
    assert!(!report.ok);
    let found: Vec<_> = report.errors.iter().map(|error| (error.path.as_str(), error.kind)).collect();
    assert_eq!(found, [("damaged", FaultKind::Content)]);

    place.write("damaged", "gone");
    place.write("whole", "gone too");
    let wrecked = place.look();
    let refused = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap_err();
    assert!(matches!(refused, Error::NotRestorable { count: 1, .. }), "{refused}");
    assert_eq!(place.look(), wrecked);
    let mut request = RollbackRequest::new(to(&good));
    request.paths = vec!["whole".parse().unwrap()];
    assert!(manager.rollback(&request, &NoWriters, &Silent).unwrap().verified);
    assert_eq!(fs::read(place.kb().join("whole")).unwrap(), b"not damaged");

    fs::remove_file(&pack).unwrap();
    drop(manager);
    let report = place.open().verify(&to(&good), &Silent).unwrap();
    assert!(report.errors.iter().any(|error| error.path == "damaged" && error.kind == FaultKind::Missing));
}

#[test]
fn content_of_a_lost_pack_is_stored_again_when_it_is_met() {
    let place = Place::new();
    place.write("note", "still there");
    let lost = snapshot(&place.open());
    fs::remove_file(place.vault().join("packs/00000001.pack")).unwrap();
    let manager = place.open();
    assert!(!manager.verify(&to(&lost), &Silent).unwrap().ok);
    place.write("copy", "still there");
    let next = snapshot(&manager);
    let report = manager.verify(&to(&next), &Silent).unwrap();
    assert!(report.ok, "{:?}", report.errors);
}

#[test]
fn a_flipped_bit_in_the_log_is_noticed() {
    let place = Place::new();
    place.write("note", "x");
    let good = snapshot(&place.open());
    let segment = files_in(&place.vault().join("log"), "").into_iter().find(|path| !path.ends_with("lock")).unwrap();
    let bytes = fs::read(&segment).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // The header, and the records, which begin with the second page; what is between is spare, or there twice.
    for at in (0..92).chain(4096..used).step_by(13) {
        flip(&segment, at);
        let noticed = match SnapshotManager::open(place.store()) {
            Err(_) => true,
            Ok(manager) => manager.verify(&to(&good), &Silent).map_or(true, |report| !report.ok),
        };
        assert!(noticed, "byte {at} of {used} flipped, nobody noticed");
        fs::write(&segment, &bytes).unwrap();
    }
    assert!(place.open().verify(&to(&good), &Silent).unwrap().ok);
}

#[test]
fn a_flipped_bit_in_the_catalogue_is_noticed_and_a_rebuild_helps() {
    let place = Place::new();
    for number in 0..40 {
        place.write(format!("note {number}"), format!("note {number}"));
    }
    let manager = place.open();
    let (first, wanted) = (snapshot(&manager), place.look());
    place.write("note 1", "changed");
    snapshot(&manager);
    drop(manager);
    let catalogue = place.vault().join("catalogue.sqlite");
    let bytes = fs::read(&catalogue).unwrap();
    let mut noticed = 0;
    for at in (0..bytes.len()).step_by(if cfg!(windows) { 397 } else { 97 }) {
        flip(&catalogue, at);
        let outcome = SnapshotManager::open(place.store()).and_then(|manager| manager.verify(&to(&first), &Silent));
        match outcome {
            Ok(report) if report.ok => {}
            Ok(_) => noticed += 1,
            Err(error) => {
                assert!(error.to_string().contains("estop snapshot rebuild kb"), "byte {at}: {error}");
                noticed += 1;
            }
        }
        for stray in files_in(&place.vault(), "-wal").iter().chain(&files_in(&place.vault(), "-shm")) {
            fs::remove_file(stray).unwrap();
        }
        fs::write(&catalogue, &bytes).unwrap();
    }
    assert!(noticed > 10, "{noticed}: the flips did not reach anything");

    fs::write(&catalogue, b"not a database at all, and long enough to be read as a header of one by mistake, perhaps")
        .unwrap();
    let error = SnapshotManager::open(place.store()).unwrap_err();
    assert!(error.to_string().contains("estop snapshot rebuild kb"), "{error}");
    let (manager, report) = SnapshotManager::rebuild(place.store()).unwrap();
    assert_eq!((report.contents, report.faults.len()), (41, 0));
    assert!(manager.rollback(&RollbackRequest::new(to(&first)), &NoWriters, &Silent).unwrap().verified);
    assert_eq!(place.look(), wanted);
}

/// Everything that can be asked about a store's history.
fn answers(manager: &SnapshotManager) -> Vec<String> {
    let all = manager.list().unwrap();
    let mut answers = vec![format!("{all:?}")];
    for lsn in 1..=manager.lsn() {
        let diff = manager.diff(&RecoveryPoint::Lsn(lsn), Some(&RecoveryPoint::Lsn(manager.lsn())), &Silent);
        answers.push(diff.map_or_else(|error| error.to_string(), |diff| format!("{:?}", diff.differences)));
    }
    for one in &all {
        let report = manager.verify(&to(one), &Silent).unwrap();
        assert!(report.ok, "{:?}", report.errors);
        answers.push(format!("{report:?}"));
    }
    answers
}

#[test]
fn a_catalogue_made_anew_gives_the_same_answers() {
    let place = Place::new();
    furnish(&place);
    let manager = place.open();
    let good = snapshot(&manager);
    wreck(&place);
    snapshot(&manager);
    manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    manager.pin(good.id.as_str(), true).unwrap();
    for round in 0..3 {
        place.write("counter", [round]);
        snapshot(&manager);
    }
    manager.prune(&Retention { last: 2, ..Retention::default() }, false).unwrap();
    place.write("counter", "last");
    snapshot(&manager);
    let told = answers(&manager);
    drop(manager);
    assert_eq!(answers(&place.open()), told, "opened again");
    fs::remove_file(place.vault().join("catalogue.sqlite")).unwrap();
    assert_eq!(answers(&place.open()), told, "folded from the log");
    let (manager, report) = SnapshotManager::rebuild(place.store()).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert_eq!(answers(&manager), told, "rebuilt");
}

#[test]
fn a_lost_log_is_not_taken_for_a_new_store() {
    let place = Place::new();
    place.write("note", "x");
    snapshot(&place.open());
    fs::remove_dir_all(place.vault().join("log")).unwrap();
    let error = SnapshotManager::open(place.store()).unwrap_err();
    assert!(error.to_string().contains("log is empty"), "{error}");
}

#[test]
fn pruning_keeps_what_the_rules_keep_and_frees_the_rest() {
    let place = Place::new();
    let manager = place.open();
    let mut all = Vec::new();
    for round in 0..6_u8 {
        let mut noise = vec![0; 300_000];
        blake3::Hasher::new().update(&[round]).finalize_xof().fill(&mut noise);
        place.write("noise", noise);
        place.write("number", [round]);
        let wanted = NewSnapshot { pinned: round == 1, ..NewSnapshot::default() };
        all.push((manager.create(&wanted, &NoWriters, &Silent).unwrap(), place.look()));
    }
    let size = |place: &Place| -> u64 {
        files_in(&place.vault().join("packs"), ".pack").iter().map(|pack| pack.metadata().unwrap().len()).sum()
    };
    let before = size(&place);
    let rules = Retention { last: 2, ..Retention::default() };
    let told = manager.prune(&rules, true).unwrap();
    assert_eq!((told.removed.len(), size(&place), manager.list().unwrap().len()), (3, before, 6));
    let report = manager.prune(&rules, false).unwrap();
    assert_eq!(report.removed, told.removed);
    assert_eq!(report.removed, [&all[0], &all[2], &all[3]].map(|(made, _)| made.id.clone()));
    let after = size(&place);
    assert!((900_000..1_000_000).contains(&after), "{before} bytes before, {after} after: three of six are needed");
    assert_eq!(report.freed_bytes, before);
    for (made, seen) in [&all[1], &all[4], &all[5]] {
        assert!(manager.rollback(&RollbackRequest::new(to(made)), &NoWriters, &Silent).unwrap().verified);
        assert_eq!(&place.look(), seen);
    }
    for (gone, _) in [&all[0], &all[3]] {
        for way in [RecoveryPoint::Lsn(gone.lsn), RecoveryPoint::Time(gone.created)] {
            let refused = manager.rollback(&RollbackRequest::new(way), &NoWriters, &Silent).unwrap_err().to_string();
            assert!(refused.contains("was pruned") && refused.contains(all[1].0.id.as_str()), "{refused}");
        }
        assert!(manager.show(gone.id.as_str()).is_err());
    }
}

#[test]
fn the_rules_of_retention() {
    let place = Place::new();
    let manager = place.open();
    let one = snapshot(&manager);
    let at = |time: &str, pinned: bool| {
        let mut made = one.clone();
        made.created = time.parse().unwrap();
        made.id = serde_json::from_value(serde_json::Value::String(time.to_owned())).unwrap();
        made.pinned = pinned;
        made
    };
    let all = [
        at("2026-01-31T10:00:00Z", false),
        at("2026-02-01T10:10:00Z", false),
        at("2026-02-01T10:50:00Z", false),
        at("2026-02-02T11:00:00Z", true),
        at("2026-02-02T12:00:00Z", false),
        at("2026-02-08T09:00:00Z", false),
        at("2026-02-09T09:00:00Z", false),
    ];
    let now = "2026-02-09T10:00:00Z".parse().unwrap();
    let kept = |rules: Retention| -> Vec<usize> {
        let surplus = rules.surplus(&all, now);
        (0..all.len()).filter(|at| !surplus.contains(&all[*at].id)).collect()
    };
    let none = Retention::default();
    assert_eq!(kept(none), [3, 6], "the pinned and the latest");
    assert_eq!(kept(Retention { last: 3, ..none }), [3, 4, 5, 6]);
    assert_eq!(kept(Retention { hourly: 5, ..none }), [2, 3, 4, 5, 6]);
    assert_eq!(kept(Retention { daily: 3, ..none }), [3, 4, 5, 6]);
    assert_eq!(kept(Retention { weekly: 3, ..none }), [2, 3, 5, 6]);
    assert_eq!(kept(Retention { monthly: 2, ..none }), [0, 3, 6]);
    assert_eq!(kept(Retention { within: Some(Duration::from_hours(26)), ..none }), [3, 5, 6]);
}
