//! How long a snapshot and a rollback take.

use std::path::Path;
use std::time::Instant;

use estop_integrity::progress::Silent;
use estop_integrity::{NewSnapshot, NoWriters, RecoveryPoint, RollbackRequest};

use super::interrupt::Interrupt;
use super::measurement::{Measurement, Unit};
use crate::engine::stores::Place;
use crate::failure::{Failure, Result};
use crate::site::Site;

/// Files in the store.
const FILES: usize = 10_000;
/// Files in one directory.
const PER_DIRECTORY: usize = 100;
/// Every so many-th file is changed: 1 %.
const CHANGED: usize = 100;
/// Bytes in a file.
const SIZE: usize = 1024;

/// Snapshots and rolls back a store of which 1 % changes each time.
pub(super) fn measure(site: &Site, dir: &Path, rounds: u32, interrupt: &Interrupt) -> Result<Vec<Measurement>> {
    let root = dir.join("store");
    for file in 0..FILES {
        interrupt.check()?;
        write(&root, file, 0)?;
    }
    let place = Place::find(site, &root.display().to_string())?;
    let manager = place.open()?;
    let base = manager.create(&NewSnapshot::default(), &NoWriters, &Silent)?;
    let (mut snapshots, mut rollbacks) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        interrupt.check()?;
        for file in (0..FILES).step_by(CHANGED) {
            write(&root, file, round)?;
        }
        let started = Instant::now();
        let snapshot = manager.create(&NewSnapshot::default(), &NoWriters, &Silent)?;
        snapshots.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        let report = manager.rollback(&RollbackRequest::new(RecoveryPoint::from(&base.id)), &NoWriters, &Silent)?;
        rollbacks.push(started.elapsed().as_secs_f64());
        let wanted = (FILES / CHANGED) as u64;
        if snapshot.changed_files != wanted || report.restored != wanted || !report.verified {
            let message = format!(
                "of {wanted} changed files the snapshot saw {}, the rollback restored {}, verified: {}",
                snapshot.changed_files, report.restored, report.verified
            );
            return Err(Failure::failed(message, "this is an error in estop"));
        }
    }
    Ok(vec![
        Measurement::middle("snapshot_10000_files", Unit::Seconds, snapshots).below(0.1).with("1 % changed"),
        Measurement::middle("rollback_10000_files", Unit::Seconds, rollbacks)
            .with("1 % put back, with its safety snapshot, verified"),
    ])
}

/// Writes a file whose content no other file or round has.
fn write(root: &Path, file: usize, round: u32) -> Result<()> {
    let path = root.join(format!("{:03}", file / PER_DIRECTORY)).join(format!("{file:05}.md"));
    let dir = path.parent().unwrap_or(root);
    std::fs::create_dir_all(dir).map_err(|error| Failure::io("create", dir, &error))?;
    let line = format!("note {file} as of round {round}\n");
    let content: String = line.repeat(SIZE / line.len());
    std::fs::write(&path, content).map_err(|error| Failure::io("write", &path, &error))
}
