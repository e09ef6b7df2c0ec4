#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};

use super::*;

fn open(dir: &Path) -> Packs {
    Packs::open(dir, Mark::default(), HashMap::new()).unwrap()
}

fn read(packs: &Packs, id: &ContentId) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    packs.read_to(id, &mut bytes).map(|_| bytes)
}

/// Bytes that don't compress.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn content_of_every_length_comes_back_and_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let text = b"a line of text that repeats\n".repeat(300_000);
    let contents = [Vec::new(), b"x".to_vec(), noise(200, 1), text[..5000].to_vec(), text, noise(5_000_000, 2)];
    for content in &contents {
        let first = packs.take(&mut file_of(content), Path::new("f"), None).unwrap();
        assert_eq!(first, HashOnly.take(&mut file_of(content), Path::new("f"), None).unwrap());
        let mark = packs.sync().unwrap();
        assert_eq!(packs.take(&mut file_of(content), Path::new("f"), None).unwrap(), first);
        assert_eq!(packs.sync().unwrap(), mark, "stored twice");
        assert_eq!(&read(&packs, &first.0).unwrap(), content);
    }
    assert!(packs.sync().unwrap().length < 6_000_000, "text was not compressed");
}

#[test]
fn what_the_log_does_not_know_is_left_alone_and_written_behind() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let known = packs.store(b"known").unwrap();
    let mark = packs.sync().unwrap();
    packs.store(b"written, then the power failed").unwrap();
    drop(packs);
    let path = dir.path().join("00000001.pack");
    let torn = fs::read(&path).unwrap();
    fs::write(&path, &torn[..torn.len() - 3]).unwrap();

    let index = open(dir.path()).scan(Mark::default(), Some(mark)).unwrap().contents;
    let packs = Packs::open(dir.path(), mark, index).unwrap();
    assert_eq!(read(&packs, &known).unwrap(), b"known");
    let next = packs.store(b"next").unwrap();
    assert_eq!(packs.sync().unwrap().pack, 2);
    assert_eq!(fs::read(&path).unwrap().len(), torn.len() - 3, "the torn tail was touched");
    let all = packs.scan(Mark::default(), None).unwrap();
    assert_eq!(all.contents.len(), 2);
    assert_eq!(all.faults.len(), 1);
    assert!(all.contents.contains_key(&next));
}

#[test]
fn a_flipped_bit_anywhere_is_never_given_out_as_content() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let plain = packs.store(b"short").unwrap();
    let text = b"compressible ".repeat(50);
    let packed = packs.store(&text).unwrap();
    packs.sync().unwrap();
    let path = dir.path().join("00000001.pack");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let intact = [(plain, &b"short"[..]), (packed, &text)];
        let failed = intact.iter().filter(|(id, content)| match read(&packs, id) {
            Ok(bytes) => {
                assert_eq!(&bytes, content, "byte {at}");
                false
            }
            Err(_) => true,
        });
        assert!(failed.count() >= 1, "byte {at} flipped, nobody noticed");
    }
}

#[test]
fn tidying_keeps_what_is_needed_and_frees_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let needless: Vec<_> = (0..20).map(|seed| packs.store(&noise(10_000, seed)).unwrap()).collect();
    let needed = packs.store(b"needed").unwrap();
    packs.sync().unwrap();
    packs.take_fresh();
    packs.leave(1).unwrap();
    let latest = packs.store(b"latest").unwrap();
    let emptied = packs.evacuate(&HashSet::from([needed, latest])).unwrap();
    packs.sync().unwrap();
    packs.forget(&emptied);
    let tidied = packs.remove(&emptied).unwrap();
    assert_eq!((tidied.packs, tidied.moved), (1, 1));
    assert!(tidied.bytes > 200_000);
    assert_eq!(read(&packs, &needed).unwrap(), b"needed");
    assert_eq!(read(&packs, &latest).unwrap(), b"latest");
    assert!(read(&packs, &needless[0]).is_err());
    assert!(!packs.contains(&needless[0]));
}

#[test]
fn a_damaged_needed_content_keeps_its_pack() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    packs.store(&noise(100_000, 3)).unwrap();
    let needed = packs.store(b"needed").unwrap();
    packs.sync().unwrap();
    packs.take_fresh();
    packs.leave(1).unwrap();
    let path = dir.path().join("00000001.pack");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let emptied = packs.evacuate(&HashSet::from([needed])).unwrap();
    packs.forget(&emptied);
    assert_eq!(packs.remove(&emptied).unwrap().packs, 0);
    assert!(path.exists());
    assert!(packs.contains(&needed));
}

mod pieces;
