//! Files and directories that may not be read, changed or trusted, and what is no file at all.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use estop_integrity::NoWriters;
use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use support::{Place, obey_modes, set_xattr, snapshot, to};

#[test]
fn set_uid_bits_come_back_only_on_request_and_are_told() {
    let place = Place::new();
    place.write("tool", "#!/bin/sh\n");
    place.write("plain", "#!/bin/sh\n");
    let tool = place.kb().join("tool");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
    let manager = place.open();
    let good = snapshot(&manager);
    let mut request = RollbackRequest::new(to(&good));
    for (privileges, mode, withheld) in [(false, 0o755, vec!["tool"]), (true, 0o4755, vec![])] {
        fs::write(&tool, "changed").unwrap();
        place.write("plain", "changed");
        request.privileges = privileges;
        request.dry_run = true;
        assert_eq!(manager.rollback(&request, &NoWriters, &Silent).unwrap().withheld, withheld);
        request.dry_run = false;
        let report = manager.rollback(&request, &NoWriters, &Silent).unwrap();
        assert!(report.verified, "{:?}", report.errors);
        assert_eq!(fs::metadata(&tool).unwrap().mode() & 0o7777, mode);
        assert_eq!(report.withheld, withheld);
    }
}

#[test]
fn a_directory_that_hands_its_group_down_does_so_again() {
    let place = Place::new();
    place.write("shared/note", "good");
    let shared = place.kb().join("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o2775)).unwrap();
    let manager = place.open();
    let (good, before) = (snapshot(&manager), place.look());
    fs::remove_dir_all(&shared).unwrap();
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    assert!(report.verified && report.withheld.is_empty(), "{report:?}");
    assert_eq!(place.look(), before);
}

#[test]
fn the_stores_own_directory_gets_its_mode_its_attributes_and_its_time_back() {
    let place = Place::new();
    place.write("note", "good");
    fs::set_permissions(place.kb(), fs::Permissions::from_mode(0o2750)).unwrap();
    set_xattr(&place.kb(), b"ours");
    let manager = place.open();
    let (good, before) = (snapshot(&manager), place.look());
    fs::set_permissions(place.kb(), fs::Permissions::from_mode(0o777)).unwrap();
    set_xattr(&place.kb(), b"theirs");
    let live = manager.verify_live(&to(&good), &Silent).unwrap();
    assert!(live.errors.iter().any(|error| error.path == "."), "{live:?}");
    let mut only = RollbackRequest::new(to(&good));
    only.paths = vec!["note".parse().unwrap()];
    assert!(manager.rollback(&only, &NoWriters, &Silent).unwrap().verified);
    assert_eq!(fs::metadata(place.kb()).unwrap().mode() & 0o7777, 0o777, "only the note was asked for");
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(place.look(), before);
}

#[test]
fn a_directory_that_forbids_changes_is_put_back_all_the_same() {
    let place = Place::new();
    place.write("shelf/inner/book", "good");
    let (shelf, inner) = (place.kb().join("shelf"), place.kb().join("shelf/inner"));
    let allow = |mode| {
        for directory in [&shelf, &inner] {
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    allow(0o555);
    let manager = place.open();
    let (good, before) = (snapshot(&manager), place.look());
    allow(0o755);
    place.write("shelf/inner/book", "bad");
    place.write("shelf/inner/extra", "bad");
    place.write("shelf/extra", "bad");
    allow(0o555);
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    let after = place.look();
    allow(0o755);
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(after, before);
}

#[test]
fn what_cannot_be_read_is_named_and_comes_back_once_it_could() {
    obey_modes();
    let place = Place::new();
    place.write("closed/note", "hidden");
    place.write("note", "open");
    let manager = place.open();
    let good = snapshot(&manager);
    assert_eq!(good.skipped, estop_integrity::Skipped::default());
    fs::set_permissions(place.kb().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(place.kb().join("note"), fs::Permissions::from_mode(0o000)).unwrap();
    let made = snapshot(&manager);
    assert_eq!(made.skipped.unreadable, 2, "{:?}", made.skipped);
    assert_eq!(made.files, 2, "what can't be seen is not taken for removed");
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent);
    fs::set_permissions(place.kb().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    let report = report.unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(fs::read(place.kb().join("note")).unwrap(), b"open");
    assert_eq!(fs::read(place.kb().join("closed/note")).unwrap(), b"hidden");
}

#[test]
fn what_could_not_be_read_then_keeps_nothing_else_from_being_put_back() {
    obey_modes();
    let place = Place::new();
    for name in ["hidden", "open", "lost"] {
        place.write(name, "good");
    }
    fs::hard_link(place.kb().join("hidden"), place.kb().join("other name")).unwrap();
    for name in ["hidden", "lost"] {
        fs::set_permissions(place.kb().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let manager = place.open();
    let good = snapshot(&manager);
    assert_eq!(good.skipped.unreadable, 3);
    fs::set_permissions(place.kb().join("hidden"), fs::Permissions::from_mode(0o644)).unwrap();
    place.write("hidden", "changed");
    place.write("open", "changed");
    fs::remove_file(place.kb().join("lost")).unwrap();
    let mut request = RollbackRequest::new(to(&good));
    request.dry_run = true;
    let told = manager.rollback(&request, &NoWriters, &Silent).unwrap();
    let names =
        |errors: &[estop_integrity::verify::VerifyError]| errors.iter().map(|it| it.path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&told.errors), ["hidden", "lost", "other name"]);
    request.dry_run = false;
    let report = manager.rollback(&request, &NoWriters, &Silent).unwrap();
    assert!(!report.verified, "nobody knows what the hidden file held");
    assert_eq!(names(&report.errors), ["hidden", "lost", "other name"]);
    assert_eq!(fs::read(place.kb().join("open")).unwrap(), b"good");
    assert_eq!(fs::read(place.kb().join("hidden")).unwrap(), b"changed");
    request.paths = vec!["open".parse().unwrap()];
    assert!(manager.rollback(&request, &NoWriters, &Silent).unwrap().verified);

    let target = place.dir.path().join("elsewhere");
    let restored = manager.restore(&to(&good), &target, false, &Silent).unwrap();
    assert!(!restored.verified);
    assert_eq!(names(&restored.errors), ["hidden", "lost", "other name"]);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1, "only what is whole has a name");
}

#[test]
fn special_files_are_counted_and_left_alone() {
    let place = Place::new();
    place.write("note", "x");
    let fifo = place.kb().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let manager = place.open();
    let good = snapshot(&manager);
    assert_eq!((good.files, good.skipped.special), (1, 1));
    assert_eq!(good.skipped.first[0].path.to_string(), "fifo");
    place.write("note", "y");
    assert!(manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap().verified);
    assert!(fifo.exists());
}
