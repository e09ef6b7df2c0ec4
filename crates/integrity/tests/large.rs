//! Large files through the front door: what of them is stored, and that all of it comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Instant;

use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::verify::{FaultKind, sqlite_integrity};
use estop_integrity::{NoWriters, SnapshotManager};
use rusqlite::{Connection, params};
use support::{Place, snapshot, to};

const PAGE: usize = 4096;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A database of `rows` rows that fill a page each.
fn make_database(path: &Path, rows: u64) {
    let mut database = Connection::open(path).unwrap();
    database.execute_batch("CREATE TABLE fact (id INTEGER PRIMARY KEY, data BLOB)").unwrap();
    let transaction = database.transaction().unwrap();
    for row in 0..rows {
        transaction.execute("INSERT INTO fact VALUES (?1, ?2)", params![row.cast_signed(), noise(3900, row)]).unwrap();
    }
    transaction.commit().unwrap();
}

/// Gives one row of a hundred another value, here and there.
fn change_database(path: &Path, rows: u64, round: u64) {
    let mut database = Connection::open(path).unwrap();
    let transaction = database.transaction().unwrap();
    for at in 0..rows / 100 {
        let row = (at * 7919 + round * 13) % rows;
        let data = noise(3900, rows * round + row);
        transaction.execute("UPDATE fact SET data = ?2 WHERE id = ?1", params![row.cast_signed(), data]).unwrap();
    }
    transaction.commit().unwrap();
}

fn differing_pages(one: &[u8], other: &[u8]) -> u64 {
    let pairs = one.chunks(PAGE).zip(other.chunks(PAGE));
    pairs.filter(|(one, other)| one != other).count() as u64 + one.len().abs_diff(other.len()).div_ceil(PAGE) as u64
}

fn stored(place: &Place) -> u64 {
    let packs = fs::read_dir(place.vault().join("packs")).unwrap();
    packs.map(|pack| pack.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_database_of_which_one_row_in_a_hundred_changed_costs_those_pages() {
    let place = Place::new();
    let path = place.kb().join("base.sqlite");
    make_database(&path, 10_000);
    let manager = place.open();
    let mut all = vec![(snapshot(&manager), place.look())];
    let first = stored(&place);
    let size = path.metadata().unwrap().len();
    assert!(first < size * 102 / 100, "{first} bytes for {size}");
    for round in 1..=3 {
        let (content, before) = (fs::read(&path).unwrap(), stored(&place));
        change_database(&path, 10_000, round);
        let raw = differing_pages(&content, &fs::read(&path).unwrap()) * PAGE as u64;
        assert!((100..=110).contains(&(raw / PAGE as u64)), "{raw}");
        all.push((snapshot(&manager), place.look()));
        let cost = stored(&place) - before;
        assert!(cost < raw * 105 / 100, "{cost} bytes for {raw} in changed pages");
    }
    fs::rename(&path, place.kb().join("renamed.sqlite")).unwrap();
    let before = stored(&place);
    all.push((snapshot(&manager), place.look()));
    assert_eq!(stored(&place), before, "a new name is no new content");
    drop(manager);
    let (manager, report) = SnapshotManager::rebuild(place.store()).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    for (made, seen) in [&all[0], &all[2], &all[4], &all[1]] {
        assert!(manager.verify(&to(made), &Silent).unwrap().ok);
        assert!(manager.rollback(&RollbackRequest::new(to(made)), &NoWriters, &Silent).unwrap().verified);
        assert_eq!(&place.look(), seen);
    }
    sqlite_integrity(&path).unwrap();
    let target = place.dir.path().join("elsewhere");
    assert!(manager.restore(&to(&all[3].0), &target, false, &Silent).unwrap().verified);
}

#[test]
fn damage_in_a_page_is_told_with_the_file_and_pruning_frees_what_only_old_versions_had() {
    let place = Place::new();
    let path = place.kb().join("base.sqlite");
    make_database(&path, 500);
    place.write("beside", "beside");
    let manager = place.open();
    let first = snapshot(&manager);
    change_database(&path, 500, 1);
    let second = snapshot(&manager);
    let packs = place.vault().join("packs");
    let before = stored(&place);
    for round in 2..60 {
        change_database(&path, 500, round);
        place.write("log.bin", noise(2 << 20, round));
        snapshot(&manager);
    }
    let full = stored(&place);
    manager.pin(second.id.as_str(), true).unwrap();
    let seen = place.look();
    manager.prune(&Retention { last: 1, ..Retention::default() }, false).unwrap();
    let left = stored(&place);
    assert!(left < 2 * before + (3 << 20), "{full} bytes before, {left} after");
    assert!(manager.show(first.id.as_str()).is_err());
    let all = manager.list().unwrap();
    assert!(all.iter().all(|one| manager.verify(&to(one), &Silent).unwrap().ok));
    assert!(manager.rollback(&RollbackRequest::new(to(&second)), &NoWriters, &Silent).unwrap().verified);
    assert!(manager.rollback(&RollbackRequest::new(to(&all[1])), &NoWriters, &Silent).unwrap().verified);
    assert_eq!(place.look(), seen);

    let row = noise(3900, 7);
    let hit = fs::read_dir(&packs).unwrap().map(|pack| pack.unwrap().path()).find_map(|pack| {
        let bytes = fs::read(&pack).unwrap();
        let at = bytes.windows(64).position(|window| window == &row[1000..1064])?;
        Some((pack, at, bytes))
    });
    let (pack, at, mut bytes) = hit.expect("a row that never changed is in some pack");
    bytes[at] ^= 1;
    fs::write(pack, bytes).unwrap();
    let report = manager.verify(&to(&second), &Silent).unwrap();
    let found: Vec<_> = report.errors.iter().map(|error| (error.path.as_str(), error.kind)).collect();
    assert_eq!(found, [("base.sqlite", FaultKind::Content)]);
}

/// Measured by hand: `ESTOP_TEST_ROWS` rows of a page each, 135,000 unless told.
#[test]
#[ignore = "takes a gigabyte and a minute; run it in release"]
fn what_a_large_database_costs() {
    let rows = std::env::var("ESTOP_TEST_ROWS").map_or(135_000, |rows| rows.parse().unwrap());
    let place = Place::new();
    let path = place.kb().join("base.sqlite");
    make_database(&path, rows);
    let manager = place.open();
    let mut before = 0;
    for round in 0..4 {
        let content = fs::read(&path).unwrap();
        if round > 0 {
            change_database(&path, rows, round);
        }
        let raw = differing_pages(&content, &fs::read(&path).unwrap()) * PAGE as u64;
        let size = content.len();
        drop(content);
        let since = Instant::now();
        snapshot(&manager);
        let (seconds, after) = (since.elapsed().as_secs_f64(), stored(&place));
        eprintln!("{size} bytes, {raw} of them in changed pages: {} stored in {seconds:.2} s", after - before);
        before = after;
    }
    let since = Instant::now();
    assert!(manager.verify(&to(manager.list().unwrap().last().unwrap()), &Silent).unwrap().ok);
    eprintln!("verified in {:.2} s", since.elapsed().as_secs_f64());
}
