//! The chain through its public face: appended records come back, and nothing that was acknowledged is lost or changed
//! unnoticed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use estop_durable::chain::{Chain, Head, Options, Reader, verify};
use estop_durable::{Error, Kind};
use proptest::prelude::*;

const KIND: Kind = Kind(*b"TESTCHAN");
const OPTIONS: Options = Options { kind: KIND, segment_bytes: 8192 };

fn payloads(dir: &Path) -> Vec<Vec<u8>> {
    Reader::open(dir, KIND).unwrap().map(|record| record.unwrap().payload).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    all.sort();
    all
}

#[test]
fn records_come_back_in_order_across_segments_and_openings() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..4_u8 {
        let chain = Chain::open(dir.path(), OPTIONS).unwrap();
        for size in [0, 1, 100, 3000] {
            let payload = vec![round; size];
            expected.push(payload.clone());
            assert_eq!(chain.append(&payload).unwrap(), expected.len() as u64);
        }
        assert_eq!(chain.head().lsn, expected.len() as u64);
    }
    assert!(segments(dir.path()).len() > 1, "the test wants several segments");
    assert_eq!(payloads(dir.path()), expected);
    let chain = Chain::open(dir.path(), OPTIONS).unwrap();
    for from in 1..=expected.len() as u64 + 1 {
        let read: Vec<_> = chain.read_from(from).unwrap().map(|record| record.unwrap().lsn).collect();
        assert_eq!(read, (from..=expected.len() as u64).collect::<Vec<_>>());
    }
    assert_eq!(verify(dir.path(), KIND).unwrap().head, chain.head());
}

#[test]
fn a_batch_larger_than_a_segment_is_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path(), OPTIONS).unwrap();
    let large = vec![7; 50_000];
    assert_eq!(chain.append_all(&[&large, b"small", &large]).unwrap(), 1..=3);
    assert!(chain.append_all(&[]).unwrap().is_empty());
    drop(chain);
    assert_eq!(payloads(dir.path()), [large.clone(), b"small".to_vec(), large]);
}

#[test]
fn many_threads_share_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path(), OPTIONS).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let chain = &chain;
            scope.spawn(move || {
                for round in 0..50_u8 {
                    chain.append(&[thread, round]).unwrap();
                }
            });
        }
    });
    let mut read = payloads(dir.path());
    assert_eq!(read.len(), 400);
    // Each thread's own records stand in the order in which it appended them.
    read.sort_by_key(|payload| payload[0]);
    assert!(read.chunks(50).all(<[Vec<u8>]>::is_sorted));
}

#[test]
fn a_second_writer_is_refused_and_a_missing_directory_reads_empty() {
    let dir = tempfile::tempdir().unwrap();
    let _chain = Chain::open(dir.path(), OPTIONS).unwrap();
    assert!(matches!(Chain::open(dir.path(), OPTIONS), Err(Error::Locked { .. })));
    assert_eq!(verify(&dir.path().join("absent"), KIND).unwrap().head, Head::EMPTY);
    assert!(matches!(verify(dir.path(), Kind(*b"ANOTHER ")), Err(Error::WrongKind { .. })));
}

#[test]
fn dropped_segments_are_gone_and_the_rest_still_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path(), OPTIONS).unwrap();
    for _ in 0..20 {
        chain.append(&[1; 1000]).unwrap();
    }
    chain.drop_before(12).unwrap();
    assert!(matches!(chain.read_from(1), Err(Error::NoSuchRecord { lsn: 1, .. })));
    assert_eq!(chain.read_from(12).unwrap().count(), 9);
    let verified = verify(dir.path(), KIND).unwrap();
    assert!(verified.first_lsn <= 12 && verified.first_lsn > 1);
    assert_eq!(verified.head.lsn, 20);
}

#[test]
fn a_torn_end_is_cut_and_an_acknowledged_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path(), OPTIONS).unwrap();
    chain.append(b"kept").unwrap();
    drop(chain);
    let path = segments(dir.path()).pop().unwrap();
    let good = fs::read(&path).unwrap();
    let end = 4096 + 16 + 4 + 32;
    // Garbage behind the acknowledged end: a write that was cut short.
    let mut torn = good.clone();
    torn[end..end + 20].copy_from_slice(b"RECD\xff\0\0\0\x02\0\0\0\0\0\0\0torn");
    fs::write(&path, &torn).unwrap();
    assert_eq!(payloads(dir.path()), [b"kept"]);
    assert_eq!(Chain::open(dir.path(), OPTIONS).unwrap().append(b"next").unwrap(), 2);
    assert_eq!(payloads(dir.path()), [b"kept".as_slice(), b"next"]);
    // A flipped bit in the acknowledged record: refused, and nothing is written.
    let mut bad = good;
    bad[4096 + 17] ^= 1;
    fs::write(&path, &bad).unwrap();
    assert!(matches!(Chain::open(dir.path(), OPTIONS), Err(Error::Damaged { .. })));
    assert!(matches!(verify(dir.path(), KIND), Err(Error::Damaged { .. })));
    assert_eq!(fs::read(&path).unwrap(), bad);
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_stood() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path(), OPTIONS).unwrap();
    for _ in 0..20 {
        chain.append(&[1; 1000]).unwrap();
    }
    drop(chain);
    let all = segments(dir.path());
    assert!(all.len() >= 3);
    for missing in [&all[1], all.last().unwrap()] {
        let kept = fs::read(missing).unwrap();
        fs::remove_file(missing).unwrap();
        assert!(matches!(verify(dir.path(), KIND), Err(Error::Damaged { .. })), "{}", missing.display());
        fs::write(missing, kept).unwrap();
    }
    assert!(verify(dir.path(), KIND).is_ok());
}

/// Every byte of every record, header and anchor: flipped, it is noticed or makes no difference to what is read.
#[test]
fn no_flipped_bit_changes_what_is_read_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path(), OPTIONS).unwrap();
    for round in 0..3_u8 {
        chain.append(&[round; 40]).unwrap();
    }
    drop(chain);
    let expected = payloads(dir.path());
    let path = segments(dir.path()).pop().unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let read: Result<Vec<_>, _> = Reader::open(dir.path(), KIND).and_then(Iterator::collect);
        if let Ok(read) = read {
            let read: Vec<_> = read.into_iter().map(|record| record.payload).collect();
            assert_eq!(read, expected, "byte {at} flipped");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A process that dies in the middle of a write leaves any prefix of it, or any of its blocks, behind.
    #[test]
    fn whatever_a_crash_leaves_of_the_last_write_the_acknowledged_records_stay(
        sizes in prop::collection::vec(0_usize..600, 1..12),
        torn_size in 1_usize..4000,
        cut in 0_usize..4000,
        hole in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let chain = Chain::open(dir.path(), Options { kind: KIND, segment_bytes: 64 * 1024 }).unwrap();
        let mut expected = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let payload = vec![u8::try_from(index).unwrap(); *size];
            chain.append(&payload).unwrap();
            expected.push(payload);
        }
        let path = segments(dir.path()).pop().unwrap();
        let before = fs::read(&path).unwrap();
        chain.append(&vec![0xee; torn_size]).unwrap();
        drop(chain);
        let after = fs::read(&path).unwrap();
        // The anchor of the torn write was never written; of its bytes, some were.
        let start = 4096 + expected.iter().map(|payload| payload.len() + 48).sum::<usize>();
        let kept = start + cut.min(torn_size + 47);
        let mut left = before.clone();
        if hole {
            left[kept..start + torn_size + 48].copy_from_slice(&after[kept..start + torn_size + 48]);
        } else {
            left[start..kept].copy_from_slice(&after[start..kept]);
        }
        let whole = left == { let mut all = before.clone(); all[start..start + torn_size + 48].copy_from_slice(&after[start..start + torn_size + 48]); all };
        fs::write(&path, &left).unwrap();
        let chain = Chain::open(dir.path(), Options { kind: KIND, segment_bytes: 64 * 1024 }).unwrap();
        if whole { expected.push(vec![0xee; torn_size]); }
        chain.append(b"after").unwrap();
        drop(chain);
        expected.push(b"after".to_vec());
        prop_assert_eq!(payloads(dir.path()), expected);
    }
}
