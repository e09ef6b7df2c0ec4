//! The main job, through the front door: snapshot a knowledge base, wreck it, roll it back, undo that.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::state::ChangeKind;
use estop_integrity::verify::{FaultKind, sqlite_integrity};
use estop_integrity::writers::{Frozen, Hold, Writer};
use estop_integrity::{Error, NewSnapshot, NoWriters, Origin, RecoveryPoint, SnapshotManager, Writers};
use support::{Place, furnish, look, redress, set_modified, snapshot, to, wreck};

#[test]
fn what_was_wrecked_comes_back_byte_for_byte_and_the_rollback_can_be_undone() {
    let place = Place::new();
    furnish(&place);
    let manager = place.open();
    let before = place.look();
    let good = snapshot(&manager);
    assert_eq!(good.files, good.changed_files);
    assert_eq!(usize::try_from(good.files + good.directories).unwrap() + 1, before.len());
    wreck(&place);
    let wrecked = place.look();

    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(place.look(), before);
    sqlite_integrity(&place.kb().join("base.sqlite")).unwrap();
    assert_eq!((report.to_lsn, report.from_lsn > good.lsn), (good.lsn, true));
    assert!(report.new_lsn.unwrap() > report.from_lsn);
    assert!(report.trash.is_some());
    let live = manager.verify_live(&to(&good), &Silent).unwrap();
    assert!(live.ok, "{:?}", live.errors);

    let safety = manager.show(report.safety_snapshot.unwrap().as_str()).unwrap();
    assert!(safety.pinned);
    assert_eq!(safety.origin, Origin::BeforeRollback);
    assert_eq!(report.undo_command.unwrap(), format!("estop rollback kb --to {}", safety.id));
    let undone = manager.rollback(&RollbackRequest::new(to(&safety)), &NoWriters, &Silent).unwrap();
    assert!(undone.verified, "{:?}", undone.errors);
    assert_eq!(place.look(), wrecked);

    let again = manager.rollback(&RollbackRequest::new(RecoveryPoint::Lsn(good.lsn)), &NoWriters, &Silent).unwrap();
    assert!(again.verified, "{:?}", again.errors);
    assert_eq!(place.look(), before);
}

#[test]
fn a_snapshot_has_the_fields_that_scripts_rely_on() {
    let place = Place::new();
    place.write("a", "12345");
    place.write("d/b", "123");
    let manager = place.open();
    let wanted = NewSnapshot { label: Some("first".to_owned()), origin: Origin::Schedule, pinned: true };
    let made = manager.create(&wanted, &NoWriters, &Silent).unwrap();
    let json = serde_json::to_value(&made).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!((json["store"].as_str(), json["label"].as_str()), (Some("kb"), Some("first")));
    assert_eq!((json["files"].as_u64(), json["bytes"].as_u64()), (Some(2), Some(8)));
    assert_eq!((json["changed_files"].as_u64(), json["changed_bytes"].as_u64()), (Some(2), Some(8)));
    assert_eq!((json["pinned"].as_bool(), json["origin"].as_str()), (Some(true), Some("schedule")));
    assert_eq!(json["lsn"].as_u64(), Some(made.lsn));
    assert_eq!(json["checksum"].as_str().unwrap().len(), 64);
    assert!(json["seconds"].is_f64() && json["frozen_seconds"].is_f64());
    assert!(json["created"].as_str().unwrap().ends_with('Z'));
    assert_eq!(serde_json::from_value::<estop_integrity::KBSnapshot>(json).unwrap(), made);
    assert_eq!(manager.list().unwrap(), std::slice::from_ref(&made));
    assert_eq!(manager.show(&made.id.as_str()[..5]).unwrap(), made);
    assert!(!manager.pin(made.id.as_str(), false).unwrap().pinned);
    assert!(!manager.show(made.id.as_str()).unwrap().pinned);

    let second = snapshot(&manager);
    assert_eq!((second.changed_files, second.changed_bytes), (0, 0));
    assert_eq!(second.checksum, made.checksum);
    assert!(matches!(manager.show(""), Err(Error::AmbiguousSnapshot { count: 2, .. })));
    assert!(matches!(manager.show("zz"), Err(Error::NoSuchPoint { .. })));

    let report = manager.rollback(&RollbackRequest::new(to(&made)), &NoWriters, &Silent).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    for field in ["schema_version", "from_lsn", "to_lsn", "new_lsn", "restored", "removed", "unchanged", "bytes"] {
        assert!(json[field].is_u64(), "{field}: {json}");
    }
    assert_eq!((json["restored"].as_u64(), json["unchanged"].as_u64()), (Some(0), Some(2)));
    assert!(json["open_by"].is_array() && json["verified"].as_bool().unwrap() && json["seconds"].is_f64());
    assert!(json["safety_snapshot"].is_string() && json["undo_command"].is_string() && json["store"] == "kb");
    let json = serde_json::to_value(manager.verify(&to(&made), &Silent).unwrap()).unwrap();
    assert_eq!(
        (json["ok"].as_bool(), json["files_checked"].as_u64(), json["bytes_checked"].as_u64()),
        (Some(true), Some(2), Some(8))
    );
    assert!(json["id"].is_string() && json["errors"].as_array().unwrap().is_empty());
}

#[test]
fn a_shredder_that_sets_the_time_back_is_found() {
    let place = Place::new();
    place.write("note", "precious");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    set_modified(&place.kb().join("note"), long_ago);
    let manager = place.open();
    let good = snapshot(&manager);
    for round in 0..20 {
        let shredded = format!("shred {round:02}");
        place.write("note", &shredded);
        set_modified(&place.kb().join("note"), long_ago);
        assert_eq!(snapshot(&manager).changed_files, 1, "round {round}");
    }
    manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    assert_eq!(fs::read(place.kb().join("note")).unwrap(), b"precious");
}

#[test]
fn every_point_of_the_history_can_be_gone_back_to_by_lsn_and_by_time() {
    let place = Place::new();
    let manager = place.open();
    let mut points = Vec::new();
    for round in 0..5 {
        place.write("counter", round.to_string());
        place.write(format!("file {round}"), "x");
        points.push((snapshot(&manager), place.look()));
    }
    for (point, seen) in points.iter().rev().chain(&points) {
        for way in [RecoveryPoint::Lsn(point.lsn), RecoveryPoint::Time(point.created)] {
            let report = manager.rollback(&RollbackRequest::new(way), &NoWriters, &Silent).unwrap();
            assert!(report.verified, "{:?}", report.errors);
            assert_eq!(&place.look(), seen);
        }
    }
    for beyond in ["lsn:0", "lsn:999999", "1990-01-01T00:00:00Z", "2900-01-01T00:00:00Z"] {
        let request = RollbackRequest::new(beyond.parse().unwrap());
        let refused = manager.rollback(&request, &NoWriters, &Silent);
        assert!(matches!(refused, Err(Error::NoSuchPoint { .. })), "{beyond}: {refused:?}");
    }
}

#[test]
fn only_the_paths_named_go_back() {
    let place = Place::new();
    furnish(&place);
    let manager = place.open();
    let before = place.look();
    let good = snapshot(&manager);
    wreck(&place);
    let wrecked = place.look();
    let mut request = RollbackRequest::new(to(&good));
    request.paths = vec!["notes/3".parse().unwrap(), "base.sqlite".parse().unwrap(), "one/second".parse().unwrap()];
    let report = manager.rollback(&request, &NoWriters, &Silent).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    let undo = report.undo_command.unwrap();
    assert!(undo.ends_with("--path notes/3 --path base.sqlite --path one/second"), "{undo}");
    let after = place.look();
    let names: std::collections::BTreeSet<_> = before.keys().chain(wrecked.keys()).collect();
    for name in names {
        let inside = name.starts_with("notes/3") || name.starts_with("base.sqlite");
        let expected = if inside { &before } else { &wrecked };
        if name == std::path::Path::new("one/second") {
            assert_eq!(fs::read(place.kb().join(name)).unwrap(), b"one file, three names");
        } else if !["", "notes", "one"].iter().any(|around| name.as_os_str() == *around) {
            assert_eq!(after.get(name), expected.get(name), "{}", name.display());
        }
    }

    fs::remove_dir_all(place.kb().join("notes")).unwrap();
    request.paths = vec!["notes/5/5.md".parse().unwrap()];
    assert!(manager.rollback(&request, &NoWriters, &Silent).unwrap().verified);
    assert_eq!(fs::read_dir(place.kb().join("notes")).unwrap().count(), 1, "only the way to the file");
    assert_eq!(place.look()[std::path::Path::new("notes/5/5.md")], before[std::path::Path::new("notes/5/5.md")]);
}

#[test]
fn a_dry_run_tells_all_and_changes_nothing() {
    let place = Place::new();
    furnish(&place);
    let manager = place.open();
    let good = snapshot(&manager);
    wreck(&place);
    let (wrecked, lsn) = (place.look(), manager.lsn());
    let mut request = RollbackRequest::new(to(&good));
    request.dry_run = true;
    let told = manager.rollback(&request, &NoWriters, &Silent).unwrap();
    assert!(told.dry_run && told.safety_snapshot.is_none() && told.new_lsn.is_none() && !told.verified);
    assert_eq!((place.look(), manager.lsn()), (wrecked, lsn));
    request.dry_run = false;
    let done = manager.rollback(&request, &NoWriters, &Silent).unwrap();
    let numbers =
        |report: &estop_integrity::RollbackReport| (report.restored, report.removed, report.unchanged, report.bytes);
    assert_eq!(numbers(&told), numbers(&done));
}

#[test]
fn differences_are_told_with_their_kind() {
    let place = Place::new();
    place.write("same", "x");
    place.write("changed", "x");
    place.write("dressed", "x");
    place.write("d/gone", "x");
    let manager = place.open();
    let first = snapshot(&manager);
    place.write("changed", "yy");
    place.write("d/new", "x");
    fs::remove_file(place.kb().join("d/gone")).unwrap();
    redress(&place.kb().join("dressed"), 1);
    let expected = [
        ("changed", ChangeKind::Content),
        ("d/gone", ChangeKind::Removed),
        ("d/new", ChangeKind::Added),
        ("dressed", ChangeKind::Metadata),
    ];
    let lsn = manager.lsn();
    let live = manager.diff(&to(&first), None, &Silent).unwrap();
    assert_eq!(manager.lsn(), lsn, "looking changes nothing");
    let second = snapshot(&manager);
    let stored = manager.diff(&to(&first), Some(&to(&second)), &Silent).unwrap();
    for found in [live, stored] {
        let names: Vec<_> = found.differences.iter().map(|d| (d.path.to_string(), d.change)).collect();
        assert_eq!(names, expected.map(|(path, change)| (path.to_owned(), change)));
        assert_eq!((found.added, found.removed, found.changed), (1, 1, 2));
        assert_eq!((found.differences[0].before_bytes, found.differences[0].after_bytes), (Some(1), Some(2)));
    }
    assert!(manager.diff(&to(&second), None, &Silent).unwrap().differences.is_empty());
}

#[test]
fn a_live_tree_that_differs_is_told_path_by_path() {
    let place = Place::new();
    for name in ["content", "metadata", "missing", "fine"] {
        place.write(name, name);
    }
    let manager = place.open();
    let good = snapshot(&manager);
    place.write("content", "CONTENT");
    redress(&place.kb().join("metadata"), 0o37);
    fs::remove_file(place.kb().join("missing")).unwrap();
    place.write("extra", "");
    let report = manager.verify_live(&to(&good), &Silent).unwrap();
    assert!(!report.ok);
    let found: Vec<_> = report.errors.iter().map(|error| (error.path.as_str(), error.kind)).collect();
    let expected = [
        (".", FaultKind::Metadata),
        ("content", FaultKind::Content),
        ("metadata", FaultKind::Metadata),
        ("missing", FaultKind::Missing),
        ("extra", FaultKind::Extra),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_snapshot_can_be_restored_elsewhere() {
    let place = Place::new();
    furnish(&place);
    let manager = place.open();
    let before = place.look();
    let good = snapshot(&manager);
    wreck(&place);
    let target = place.dir.path().join("elsewhere");
    let report = manager.restore(&to(&good), &target, false, &Silent).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(look(&target), before);
    sqlite_integrity(&target.join("base.sqlite")).unwrap();
    assert!(matches!(manager.restore(&to(&good), &target, false, &Silent), Err(Error::TargetNotEmpty { .. })));
    let inside = place.kb().join("new");
    assert!(matches!(manager.restore(&to(&good), &inside, false, &Silent), Err(Error::Overlap { .. })));
    assert!(sqlite_integrity(&place.kb().join("base.sqlite")).is_err(), "the wrecked one is found to be so");
}

/// A program that counts how often it is held, and writes only while it is not.
struct Agent {
    alive: Vec<Writer>,
    freezes: Mutex<u32>,
    can_freeze: bool,
}

impl Writers for Agent {
    fn freeze(&self) -> Result<Frozen, String> {
        if !self.can_freeze {
            return Err("no cgroup".to_owned());
        }
        *self.freezes.lock().unwrap() += 1;
        Ok(Frozen::new(vec!["agent".to_owned()], ()))
    }

    fn alive(&self) -> Result<Vec<Writer>, String> {
        Ok(self.alive.clone())
    }
}

#[test]
fn nothing_is_rolled_back_under_a_living_writer_unless_somebody_insists() {
    let place = Place::new();
    place.write("note", "good");
    let manager = place.open();
    let good = snapshot(&manager);
    place.write("note", "bad");
    let writer = Writer { name: "agent".to_owned(), stop_unproven: true };
    let agent = Agent { alive: vec![writer], freezes: Mutex::new(0), can_freeze: true };
    let mut request = RollbackRequest::new(to(&good));
    let refused = manager.rollback(&request, &agent, &Silent).unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    assert!(refused.to_string().contains("agent (its stop is not proven)"), "{refused}");
    assert_eq!(fs::read(place.kb().join("note")).unwrap(), b"bad");
    request.force = true;
    assert!(manager.rollback(&request, &agent, &Silent).unwrap().verified);
    assert_eq!(*agent.freezes.lock().unwrap(), 1);
    assert_eq!(fs::read(place.kb().join("note")).unwrap(), b"good");
}

/// A program that writes something in the very last moment before it stands still.
struct LastMoment(std::path::PathBuf);

impl Writers for LastMoment {
    fn freeze(&self) -> Result<Frozen, String> {
        fs::write(self.0.join("note"), "the last word").unwrap();
        fs::write(self.0.join("new"), "as well").unwrap();
        fs::remove_file(self.0.join("gone")).unwrap();
        Ok(Frozen::new(vec!["agent".to_owned()], ()))
    }

    fn alive(&self) -> Result<Vec<Writer>, String> {
        Ok(Vec::new())
    }
}

#[test]
fn a_snapshot_holds_the_moment_in_which_its_writers_stood_still() {
    let place = Place::new();
    place.write("gone", "x");
    let manager = place.open();
    snapshot(&manager);
    place.write("note", "a first word");
    let made = manager.create(&NewSnapshot::default(), &LastMoment(place.kb()), &Silent).unwrap();
    assert_eq!((made.files, made.changed_files, made.bytes), (2, 3, 20));
    let live = manager.verify_live(&to(&made), &Silent).unwrap();
    assert!(live.ok, "{:?}", live.errors);
    assert!(manager.verify(&to(&made), &Silent).unwrap().ok);
}

#[test]
fn the_status_counts_what_changed_since() {
    let place = Place::new();
    place.write("a", "1");
    place.write("b", "22");
    let manager = place.open();
    let status = manager.status(&Silent).unwrap();
    assert_eq!((status.files, status.dirty_files, status.last_snapshot), (0, 2, None));
    let made = snapshot(&manager);
    place.write("b", "33");
    let status = manager.status(&Silent).unwrap();
    assert_eq!((status.files, status.bytes, status.dirty_files), (2, 3, 1));
    assert_eq!((status.lsn, status.last_snapshot), (made.lsn, Some(made.id)));
}

#[test]
fn a_snapshot_says_whether_its_writers_stood_still() {
    let place = Place::new();
    place.write("note", "x");
    let manager = place.open();
    let mut agent = Agent { alive: Vec::new(), freezes: Mutex::new(0), can_freeze: true };
    let frozen = manager.create(&NewSnapshot::default(), &agent, &Silent).unwrap();
    assert_eq!(serde_json::to_value(frozen.consistency).unwrap(), "frozen");
    assert!(frozen.frozen_seconds > 0.0 && frozen.frozen_seconds <= frozen.seconds);
    agent.can_freeze = false;
    let live = manager.create(&NewSnapshot::default(), &agent, &Silent).unwrap();
    assert_eq!(serde_json::to_value(live.consistency).unwrap(), "live");
    assert_eq!(live.freeze_error.as_deref(), Some("no cgroup"));
    let let_go = manager.create(&NewSnapshot::default(), &LetGo, &Silent).unwrap();
    assert_eq!(serde_json::to_value(let_go.consistency).unwrap(), "live");
    assert_eq!(let_go.freeze_error.as_deref(), Some("agent ran on"));
}

/// A program that is let go before the snapshot has seen everything.
struct LetGo;

impl Writers for LetGo {
    fn freeze(&self) -> Result<Frozen, String> {
        Ok(Frozen::new(vec!["agent".to_owned()], Self))
    }

    fn alive(&self) -> Result<Vec<Writer>, String> {
        Ok(Vec::new())
    }
}

impl Hold for LetGo {
    fn has_held(&mut self) -> Result<(), String> {
        Err("agent ran on".to_owned())
    }
}

#[test]
fn one_estop_at_a_time() {
    let place = Place::new();
    place.write("note", "x");
    let manager = place.open();
    let mut impatient = place.config();
    impatient.lock_wait = std::time::Duration::from_millis(20);
    let refused = estop_integrity::Store::open(impatient).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    drop(manager);
    let waiting = std::thread::scope(|scope| {
        let held = place.open();
        let waiter = scope.spawn(|| {
            let mut config = place.config();
            config.lock_wait = std::time::Duration::from_secs(30);
            SnapshotManager::open(estop_integrity::Store::open(config).unwrap()).unwrap().lsn()
        });
        snapshot(&held);
        drop(held);
        waiter.join().unwrap()
    });
    assert!(waiting >= 2);
}
