//! Links that are to lead estop out of a store, and what is to keep it waiting.

use std::fs;
use std::os::unix::fs::symlink;

use estop_integrity::NoWriters;
use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;

use crate::support::{Place, look, snapshot, to};

#[test]
fn a_symlink_planted_in_place_of_a_directory_leads_nowhere() {
    let place = Place::new();
    place.write("d/secret", "mine");
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "not the store's").unwrap();
    let manager = place.open();
    let good = snapshot(&manager);
    fs::rename(place.kb().join("d"), place.dir.path().join("was d")).unwrap();
    symlink(&outside, place.kb().join("d")).unwrap();
    let planted = snapshot(&manager);
    assert_eq!((planted.files, planted.directories), (1, 0), "the link itself, nothing behind it");
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"not the store's");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(place.kb().join("d/secret")).unwrap(), b"mine");
}

/// Swaps a directory for a link to elsewhere and back, as fast as it can, until dropped.
struct Swapper(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Swapper {
    fn start(directory: std::path::PathBuf, link: std::path::PathBuf) -> Self {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let goes_on = running.clone();
        let thread = std::thread::spawn(move || {
            while goes_on.load(std::sync::atomic::Ordering::Relaxed) {
                renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
            if directory.symlink_metadata().unwrap().is_symlink() {
                renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        Self(running, Some(thread))
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.0.store(false, std::sync::atomic::Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_link_swapped_in_while_it_is_read_gives_nothing_away() {
    let place = Place::new();
    for number in 0..50 {
        place.write(format!("d/{number}"), "mine");
    }
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for number in 0..50 {
        fs::write(outside.join(number.to_string()), "the password").unwrap();
    }
    symlink(&outside, place.dir.path().join("lure")).unwrap();
    let manager = place.open();
    let swapper = Swapper::start(place.kb().join("d"), place.dir.path().join("lure"));
    let taken: Vec<_> = (0..30).map(|_| snapshot(&manager)).collect();
    drop(swapper);
    for (at, taken) in taken.iter().enumerate() {
        let target = place.dir.path().join(format!("restored {at}"));
        manager.restore(&to(taken), &target, false, &Silent).unwrap();
        for (path, what) in look(&target) {
            let secret = blake3::hash(b"the password").to_string();
            assert!(!what.contains(&secret), "{} holds what is outside the store", path.display());
        }
    }
}

#[test]
fn a_fifo_put_in_place_of_a_file_keeps_nobody_waiting() {
    let place = Place::new();
    place.write("note", "x");
    let manager = place.open();
    let good = snapshot(&manager);
    fs::remove_file(place.kb().join("note")).unwrap();
    let fifo = place.kb().join("note");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert_eq!(snapshot(&manager).files, 0);
    let report = manager.rollback(&RollbackRequest::new(to(&good)), &NoWriters, &Silent).unwrap();
    assert!(report.verified, "{:?}", report.errors);
    assert_eq!(fs::read(&fifo).unwrap(), b"x");
}
