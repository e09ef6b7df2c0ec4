//! Protect a directory, damage it, put it back: `cargo run -p estop-integrity --example undo`.

use std::fs;

use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::{NewSnapshot, NoWriters, RecoveryPoint, SnapshotManager, Store, StoreConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let notes = scratch.path().join("notes");
    fs::create_dir(&notes)?;
    for number in 0..100 {
        fs::write(notes.join(format!("{number}.md")), format!("# note {number}\n"))?;
    }

    let store = Store::open(StoreConfig::new("notes", &notes, scratch.path().join("vault")))?;
    let snapshots = SnapshotManager::open(store)?;
    let good = snapshots.create(&NewSnapshot::default(), &NoWriters, &Silent)?;
    println!("snapshot {} of {} files in {:.1} ms", good.id, good.files, good.seconds * 1000.0);

    fs::write(notes.join("7.md"), "shredded")?;
    fs::remove_file(notes.join("8.md"))?;
    fs::write(notes.join("RANSOM.txt"), "pay")?;
    for found in snapshots.diff(&RecoveryPoint::from(&good.id), None, &Silent)?.differences {
        println!("  {:?} {}", found.change, found.path);
    }

    let request = RollbackRequest::new(RecoveryPoint::from(&good.id));
    let report = snapshots.rollback(&request, &NoWriters, &Silent)?;
    println!(
        "rolled back in {:.1} ms: {} restored, {} removed, {} unchanged, verified: {}",
        report.seconds * 1000.0,
        report.restored,
        report.removed,
        report.unchanged,
        report.verified
    );
    println!("to undo: {}", report.undo_command.unwrap_or_default());
    if fs::read_to_string(notes.join("7.md"))? != "# note 7\n" || !report.verified {
        return Err("the notes are not what they were".into());
    }
    Ok(())
}
