//! What only Windows has: names without regard to case, and files that nobody may replace while somebody has them open.

#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs::{self, OpenOptions};
use std::os::windows::fs::OpenOptionsExt as _;

use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::{Error, NoWriters};
use support::{Place, snapshot, to};

#[test]
fn paths_are_found_however_they_are_spelled() {
    let place = Place::new();
    place.write("Notes/Ärger.md", "good");
    place.write("Notes/other.md", "good");
    let manager = place.open();
    let good = snapshot(&manager);
    place.write("Notes/Ärger.md", "bad");
    place.write("Notes/other.md", "bad");
    place.write("Notes/New.md", "bad");
    let mut request = RollbackRequest::new(to(&good));
    request.paths = vec![r"notes\äRGER.MD".parse().unwrap(), r"NOTES\new.md".parse().unwrap()];
    let report = manager.rollback(&request, &NoWriters, &Silent).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!((report.restored, report.removed), (1, 1));
    assert_eq!(fs::read(place.kb().join("Notes/Ärger.md")).unwrap(), b"good");
    assert_eq!(fs::read(place.kb().join("Notes/other.md")).unwrap(), b"bad");
    assert!(report.undo_command.unwrap().ends_with("--path Notes/New.md"));
    request.paths = vec!["notes/absent.md".parse().unwrap()];
    assert!(matches!(manager.rollback(&request, &NoWriters, &Silent), Err(Error::NoSuchPath { .. })));
}

#[test]
fn a_file_that_is_held_keeps_a_rollback_from_beginning_and_only_itself_from_ending() {
    let place = Place::new();
    for name in ["held", "free"] {
        place.write(name, "good");
    }
    let manager = place.open();
    let good = snapshot(&manager);
    for name in ["held", "free"] {
        place.write(name, "bad");
    }
    // Others may read it, and nobody may replace it.
    let held = OpenOptions::new().write(true).share_mode(1).open(place.kb().join("held")).unwrap();
    let mut request = RollbackRequest::new(to(&good));
    let refused = manager.rollback(&request, &NoWriters, &Silent).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("held"), "{refused}");
    assert_eq!(fs::read(place.kb().join("free")).unwrap(), b"bad");
    request.despite_open = true;
    let report = manager.rollback(&request, &NoWriters, &Silent).unwrap();
    assert!(!report.verified);
    let named: Vec<_> = report.errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(named, ["held"]);
    assert_eq!(report.open_by[0].path, "held");
    assert_eq!(fs::read(place.kb().join("free")).unwrap(), b"good");
    drop(held);
    assert!(manager.rollback(&request, &NoWriters, &Silent).unwrap().verified);
    assert_eq!(fs::read(place.kb().join("held")).unwrap(), b"good");
}
