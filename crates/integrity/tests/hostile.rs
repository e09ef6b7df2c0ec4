//! Programs that change the store while estop works on it, by accident or to lead it astray.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[cfg(unix)]
#[path = "hostile/links.rs"]
mod links;
mod support;

use std::fs;
use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use estop_integrity::NoWriters;
use estop_integrity::progress::{Phase, Silent};
use estop_integrity::rollback::RollbackRequest;
use support::{Meanwhile, Place, snapshot, to};

#[test]
fn what_is_written_in_the_middle_of_a_rollback_is_moved_aside_and_not_lost() {
    let place = Place::new();
    place.write("note", "good");
    let manager = place.open();
    let good = snapshot(&manager);
    place.write("note", "bad");
    let meanwhile = Meanwhile {
        phase: Phase::Staging,
        action: || place.write("note", "somebody's hard work"),
        done: AtomicBool::new(false),
    };
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &meanwhile).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(fs::read(place.kb().join("note")).unwrap(), b"good");
    let trash = report.trash.unwrap();
    assert_eq!(fs::read(format!("{trash}/1")).unwrap(), b"somebody's hard work");
}

#[test]
fn what_is_written_after_it_was_put_back_is_told() {
    let place = Place::new();
    place.write("note", "good");
    place.write("other", "good");
    let manager = place.open();
    let good = snapshot(&manager);
    place.write("note", "bad");
    let meanwhile =
        Meanwhile { phase: Phase::Applying, action: || place.write("note", "bad again"), done: AtomicBool::new(false) };
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &meanwhile).unwrap();
    assert!(!report.verified);
    let named: Vec<_> = report.errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(named, ["note"]);
    let again = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    assert!(again.verified, "{:?}", again.errors);
}

#[test]
fn a_file_that_grows_while_it_is_read_is_named() {
    let place = Place::new();
    place.write("still", "x");
    let path = place.kb().join("growing");
    fs::write(&path, vec![b'x'; 3_000_000]).unwrap();
    let manager = place.open();
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
            }
        });
        let made = (0..50).map(|_| snapshot(&manager)).find(|made| made.unstable.count > 0);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        made
    });
    let made = made.expect("no snapshot met the writer");
    assert_eq!(made.unstable.first[0].to_string(), "growing");
    assert!(manager.verify(&to(&made), &Silent).unwrap().ok, "whatever was stored is stored whole");
    let after = snapshot(&manager);
    assert_eq!((after.unstable.count, after.changed_files), (0, 1), "read again once it stands still");
}
