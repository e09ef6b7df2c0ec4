//! Files and directories that may not be read, changed or trusted, and what is no file at all.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use estop_integrity::NoWriters;
use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use support::{Place, snapshot, to};

#[test]
fn set_uid_bits_come_back_only_on_request() {
    let place = Place::new();
    place.write("tool", "#!/bin/sh\n");
    let tool = place.kb().join("tool");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
    let manager = place.open();
    let good = snapshot(&manager);
    let mut request = RollbackRequest::new(to(&good));
    for (privileges, mode) in [(false, 0o755), (true, 0o4755)] {
        fs::write(&tool, "changed").unwrap();
        request.privileges = privileges;
        let report = manager.rollback(&request, &NoWriters, &Silent).unwrap();
        assert!(report.verified, "{:?}", report.errors);
        assert_eq!(fs::metadata(&tool).unwrap().mode() & 0o7777, mode);
    }
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
    let place = Place::new();
    place.write("closed/note", "hidden");
    place.write("note", "open");
    let manager = place.open();
    let good = snapshot(&manager);
    assert_eq!(good.skipped, estop_integrity::Skipped::default());
    fs::set_permissions(place.kb().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(place.kb().join("note"), fs::Permissions::from_mode(0o000)).unwrap();
    let made = snapshot(&manager);
    let expected = if rustix::process::geteuid().is_root() { 0 } else { 2 };
    assert_eq!(made.skipped.unreadable, expected, "{:?}", made.skipped);
    assert_eq!(made.files, 2, "what can't be seen is not taken for removed");
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent);
    fs::set_permissions(place.kb().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    let report = report.unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(fs::read(place.kb().join("note")).unwrap(), b"open");
    assert_eq!(fs::read(place.kb().join("closed/note")).unwrap(), b"hidden");
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
