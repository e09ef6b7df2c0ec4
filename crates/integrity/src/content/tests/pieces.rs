//! Large contents: pages and chunks.

use proptest::prelude::*;

use super::super::format::{Entry, Kind, pack_header};
use super::super::group::PAGE_BYTES;
use super::super::map::{Body, Division, MOST_LINKS};
use super::*;

const SQLITE: &[u8] = b"SQLite format 3\0";

fn take(packs: &Packs, bytes: &[u8], before: Option<ContentId>) -> ContentId {
    let (id, size) = packs.take(&mut &*bytes, Path::new("f"), before).unwrap();
    assert_eq!((id.0, size), (*blake3::hash(bytes).as_bytes(), bytes.len() as u64));
    id
}

/// Bytes in all packs.
fn stored(packs: &Packs) -> u64 {
    packs.sync().unwrap();
    packs.numbers().unwrap().iter().map(|number| packs.path(*number).metadata().unwrap().len()).sum()
}

/// Opened again as after a loss of the catalogue.
fn rebuilt(dir: &Path, mark: Mark) -> Packs {
    let found = open(dir).scan(Mark::default(), None).unwrap();
    assert!(found.faults.is_empty(), "{:?}", found.faults);
    Packs::open(dir, mark, found.contents).unwrap()
}

/// As pruning does.
fn tidy(packs: &Packs, needed: &[ContentId]) -> Tidied {
    packs.take_fresh();
    let emptied = packs.evacuate(&needed.iter().copied().collect()).unwrap();
    packs.sync().unwrap();
    packs.forget(&emptied);
    packs.remove(&emptied).unwrap()
}

/// A file of pages that begins like a database.
fn database(pages: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(pages * PAGE_BYTES, seed);
    bytes[..SQLITE.len()].copy_from_slice(SQLITE);
    bytes
}

fn change_page(bytes: &mut [u8], page: usize, seed: u64) {
    bytes[page * PAGE_BYTES + 100..][..500].copy_from_slice(&noise(500, seed));
}

fn division(packs: &Packs, id: &ContentId) -> Option<Division> {
    packs.map_of(id).map(|body| match body {
        Body::Pages(_) => Division::Pages,
        Body::Chunks(_) => Division::Chunks,
    })
}

#[test]
fn of_a_database_only_changed_pages_are_stored_however_often() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let mut bytes = database(2000, 1);
    let mut versions = vec![(take(&packs, &bytes, None), blake3::hash(&bytes))];
    let first = stored(&packs);
    assert!(first < bytes.len() as u64 * 101 / 100 + 10_000, "{first}");
    let rounds = 2 * u64::from(MOST_LINKS) + 3;
    for round in 1..=rounds {
        for page in 0..20 {
            change_page(
                &mut bytes,
                (page * 97 + usize::try_from(round).unwrap() * 31) % 2000,
                round * 100 + page as u64,
            );
        }
        let before = versions.last().map(|(id, _)| *id);
        versions.push((take(&packs, &bytes, before), blake3::hash(&bytes)));
    }
    let each = (stored(&packs) - first) / rounds;
    let raw = 20 * PAGE_BYTES as u64;
    assert!(each < raw * 108 / 100, "{each} bytes for {raw} changed");
    for (id, hash) in &versions {
        assert_eq!(blake3::hash(&read(&packs, id).unwrap()), *hash);
    }
    let contents = open(dir.path()).scan(Mark::default(), None).unwrap().contents.len();
    assert!(contents < 2000 / 32 + 1 + 3 * versions.len(), "{contents} entries to be indexed");
}

#[test]
fn a_page_that_is_there_already_is_not_stored_again_wherever_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let mut bytes = database(600, 1);
    bytes[300 * PAGE_BYTES..500 * PAGE_BYTES].fill(0);
    let first = take(&packs, &bytes, None);
    let before = stored(&packs);
    assert!(before < 410 * PAGE_BYTES as u64, "{before}: empty pages are all one");
    let moved = bytes[10 * PAGE_BYTES..20 * PAGE_BYTES].to_vec();
    bytes[400 * PAGE_BYTES..410 * PAGE_BYTES].copy_from_slice(&moved);
    bytes.extend_from_slice(&moved);
    let second = take(&packs, &bytes, Some(first));
    assert!(stored(&packs) - before < 3000);
    assert_eq!(read(&packs, &second).unwrap(), bytes);
    let shorter = &bytes[..350 * PAGE_BYTES + 17];
    let third = take(&packs, shorter, Some(second));
    assert!(stored(&packs) - before < 6000);
    assert_eq!(read(&packs, &third).unwrap(), shorter);
    let mark = packs.sync().unwrap();
    assert_eq!(take(&packs, shorter, Some(third)), third);
    assert_eq!(packs.sync().unwrap(), mark, "the same again");
}

#[test]
fn an_insertion_into_a_large_file_costs_about_a_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let mut bytes = noise(24 << 20, 1);
    let first = take(&packs, &bytes, None);
    let mut before = stored(&packs);
    let mut last = first;
    for (round, at) in [0, 12 << 20, 24 << 20].into_iter().enumerate() {
        bytes.splice(at..at, noise(1000, round as u64 + 2));
        last = take(&packs, &bytes, Some(last));
        let after = stored(&packs);
        assert!(after - before < 3 << 20, "{} bytes for an insertion at {at}", after - before);
        assert_eq!(division(&packs, &last), Some(Division::Chunks));
        before = after;
    }
    assert_eq!(read(&packs, &last).unwrap(), bytes);
}

#[test]
fn a_file_whose_pages_are_overwritten_is_recognised_and_given_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let mut bytes = noise(16 << 20, 1);
    let pages = bytes.len() / PAGE_BYTES;
    let overwrite = |bytes: &mut [u8], round: usize| {
        (0..40).for_each(|page| change_page(bytes, (page * 101 + round * 17) % pages, (round * 100 + page) as u64));
    };
    let first = take(&packs, &bytes, None);
    overwrite(&mut bytes, 1);
    let second = take(&packs, &bytes, Some(first));
    assert_eq!(division(&packs, &second), Some(Division::Chunks));
    overwrite(&mut bytes, 2);
    let third = take(&packs, &bytes, Some(second));
    assert_eq!(division(&packs, &third), Some(Division::Pages));
    overwrite(&mut bytes, 3);
    let before = stored(&packs);
    let fourth = take(&packs, &bytes, Some(third));
    let cost = stored(&packs) - before;
    assert!(cost < 40 * PAGE_BYTES as u64 * 108 / 100, "{cost}");
    assert_eq!(read(&packs, &fourth).unwrap(), bytes);
    bytes.splice(0..0, [7; 1000]);
    let fifth = take(&packs, &bytes, Some(fourth));
    assert_eq!(division(&packs, &fifth), Some(Division::Pages));
    let sixth = take(&packs, &[&bytes[..], b"more"].concat(), Some(fifth));
    assert_eq!(division(&packs, &sixth), Some(Division::Chunks));
}

#[test]
fn a_flipped_bit_in_a_map_or_a_piece_is_never_given_out_as_content() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    // Little in the packs, so that every few bytes of them can be tried.
    let mut bytes: Vec<u8> = (0..260_u32).flat_map(|page| page.to_le_bytes().repeat(PAGE_BYTES / 4)).collect();
    let text: Vec<u8> = (0..160_u32).flat_map(|line| line.to_le_bytes().repeat(2000)).collect();
    bytes[..SQLITE.len()].copy_from_slice(SQLITE);
    let first = take(&packs, &bytes, None);
    let before = bytes.clone();
    bytes[5 * PAGE_BYTES] ^= 1;
    let contents = [(first, before), (take(&packs, &bytes, Some(first)), bytes), (take(&packs, &text, None), text)];
    let length = packs.sync().unwrap().length;
    assert!(length < 30_000, "{length}");
    let path = dir.path().join("00000001.pack");
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(17) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let damaged = contents.iter().filter(|(id, content)| match read(&packs, id) {
            Ok(bytes) => {
                assert_eq!(&bytes, content, "byte {at}");
                false
            }
            Err(Error::ContentDamaged { .. } | Error::PackDamaged { .. }) => true,
            Err(error) => panic!("byte {at}: {error}"),
        });
        assert!(damaged.count() >= 1, "byte {at} flipped, nobody noticed");
        let found = open(dir.path()).scan(Mark::default(), None).unwrap();
        assert_eq!(found.faults.len(), 1, "byte {at}: {:?}", found.faults);
    }
}

#[test]
fn tidying_frees_the_pages_and_chunks_that_no_map_needs_and_keeps_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let mut bytes = database(1000, 1);
    let mut text = noise(4 << 20, 2);
    let mut versions: Vec<(ContentId, Vec<u8>)> = Vec::new();
    for round in 0..6_usize {
        let before = |back: usize| Some(versions.get(versions.len().checked_sub(back)?)?.0);
        let ids = (take(&packs, &bytes, before(2)), take(&packs, &text, before(1)));
        versions.extend([(ids.0, bytes.clone()), (ids.1, text.clone())]);
        (0..200).for_each(|page| change_page(&mut bytes, (page * 5 + round) % 1000, (round * 1000 + page) as u64));
        text.truncate(3 << 20);
        text.extend(noise(1 << 20, 100 + round as u64));
    }
    let all = stored(&packs);
    packs.leave(packs.sync().unwrap().pack).unwrap();
    let kept = [&versions[6], &versions[7], &versions[10], &versions[11]];
    let ids = kept.map(|(id, _)| *id);
    tidy(&packs, &ids);
    let left = stored(&packs);
    // Two versions of each, of which 600 pages and 3 MiB are common.
    let needed = 1400 * PAGE_BYTES as u64 + (5 << 20);
    assert!(left < needed * 110 / 100 && left < all, "{all} bytes before, {left} after, {needed} needed");
    let check = |packs: &Packs, kept: &[&(ContentId, Vec<u8>)]| {
        for (id, content) in kept {
            assert_eq!(&read(packs, id).unwrap(), content);
        }
    };
    check(&packs, &kept);
    assert!(!packs.contains(&versions[0].0) && !packs.contains(&versions[8].0));
    let packs = rebuilt(dir.path(), packs.sync().unwrap());
    check(&packs, &kept);

    // What was given up is stored again when it comes back, and what is given up with its base stays whole.
    let again = take(&packs, &versions[8].1, Some(versions[10].0));
    assert_eq!(read(&packs, &again).unwrap(), versions[8].1);
    tidy(&packs, &[again, versions[11].0]);
    check(&packs, &[&versions[8], &versions[11]]);
    check(&rebuilt(dir.path(), packs.sync().unwrap()), &[&versions[8], &versions[11]]);
}

#[test]
fn a_map_whose_pages_are_gone_does_not_count_as_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let packs = open(dir.path());
    let old = database(300, 1);
    let mut new = old.clone();
    (0..200).for_each(|page| change_page(&mut new, page, page as u64));
    let first = take(&packs, &old, None);
    let second = take(&packs, &new, Some(first));
    let known = packs.locations();
    packs.take_fresh();
    packs.evacuate(&HashSet::from([second])).unwrap();
    // What a crash leaves now: the index of before, with the copies taken up from the packs.
    let mut index: HashMap<_, _> = known.into_iter().collect();
    index.extend(packs.locations());
    let packs = Packs::open(dir.path(), packs.sync().unwrap(), index).unwrap();
    assert!(read(&packs, &first).is_err());
    assert_eq!(take(&packs, &old, Some(second)), first);
    assert_eq!(read(&packs, &first).unwrap(), old);
    assert_eq!(read(&packs, &second).unwrap(), new);
}

#[test]
fn packs_of_version_1_are_read_and_left_and_what_is_needed_of_them_moves() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (b"small".to_vec(), noise(3 << 20, 1));
    let mut pack = pack_header(1).to_vec();
    pack[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let check = blake3::hash(&pack[..16]);
    pack[16..32].copy_from_slice(&check.as_bytes()[..16]);
    for content in [&small, &large, &noise(9 << 20, 2)] {
        let id = ContentId(*blake3::hash(content).as_bytes());
        let size = content.len() as u64;
        let entry = Entry { id, size, stored: size, compressed: false, kind: Kind::Plain };
        let header = entry.encode(1, pack.len() as u64);
        pack.extend_from_slice(&header);
        pack.extend_from_slice(content);
    }
    let path = dir.path().join("00000001.pack");
    fs::write(&path, &pack).unwrap();
    let packs = rebuilt(dir.path(), Mark { pack: 1, length: pack.len() as u64 });
    let ids = [&small, &large].map(|content| ContentId(*blake3::hash(content).as_bytes()));
    assert_eq!(read(&packs, &ids[0]).unwrap(), small);
    assert_eq!(read(&packs, &ids[1]).unwrap(), large);
    let new = packs.store(b"new").unwrap();
    assert_eq!(packs.sync().unwrap().pack, 2, "an entry was added to a pack of version 1");
    assert_eq!(fs::read(&path).unwrap(), pack);
    assert_eq!(take(&packs, &large, None), ids[1]);
    assert_eq!(division(&packs, &ids[1]), None);

    assert_eq!(tidy(&packs, &[ids[0], ids[1], new]).packs, 2);
    assert!(!path.exists());
    assert_eq!(division(&packs, &ids[1]), Some(Division::Chunks));
    assert_eq!(read(&packs, &ids[0]).unwrap(), small);
    assert_eq!(read(&rebuilt(dir.path(), packs.sync().unwrap()), &ids[1]).unwrap(), large);
}

#[derive(Clone, Debug)]
enum Edit {
    Overwrite(usize, usize, u64),
    Insert(usize, usize, u64),
    Append(usize, u64),
    Truncate(usize),
    /// The version before that, again.
    Back,
    /// Another file with this content: nothing is known of what it had.
    Forget,
    /// Give up all versions but every second.
    Tidy,
    /// The catalogue is lost.
    Rebuild,
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..2_500_000_usize;
    prop_oneof![
        4 => (at.clone(), 1..30_000_usize, any::<u64>()).prop_map(|(at, length, seed)| Edit::Overwrite(at, length, seed)),
        1 => (at.clone(), 1..9_000_usize, any::<u64>()).prop_map(|(at, length, seed)| Edit::Insert(at, length, seed)),
        1 => (1..400_000_usize, any::<u64>()).prop_map(|(length, seed)| Edit::Append(length, seed)),
        1 => at.prop_map(Edit::Truncate),
        1 => Just(Edit::Back),
        1 => Just(Edit::Forget),
        1 => Just(Edit::Tidy),
        1 => Just(Edit::Rebuild),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_edited_every_version_comes_back(
        (is_database, length) in (any::<bool>(), 900_000..2_500_000_usize),
        edits in proptest::collection::vec(edit(), 1..14),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut packs = open(dir.path());
        let mut bytes = noise(length, 1);
        if is_database {
            bytes[..SQLITE.len()].copy_from_slice(SQLITE);
        }
        let mut versions = vec![(take(&packs, &bytes, None), bytes.clone())];
        for edit in edits {
            let mut before = versions.last().map(|(id, _)| *id);
            match edit {
                Edit::Overwrite(at, length, seed) => {
                    let at = at % bytes.len().max(1);
                    let end = (at + length).min(bytes.len());
                    bytes[at..end].copy_from_slice(&noise(end - at, seed));
                }
                Edit::Insert(at, length, seed) => {
                    let at = at % (bytes.len() + 1);
                    bytes.splice(at..at, noise(length, seed));
                }
                Edit::Append(length, seed) => bytes.extend(noise(length, seed)),
                Edit::Truncate(length) => bytes.truncate(length),
                Edit::Back => bytes.clone_from(&versions[versions.len().saturating_sub(2)].1),
                Edit::Forget => before = None,
                Edit::Tidy => {
                    let last = versions.len() - 1;
                    let mut at = 0..;
                    versions.retain(|_| at.next().is_some_and(|at| at % 2 == 1 || at == last));
                    tidy(&packs, &versions.iter().map(|(id, _)| *id).collect::<Vec<_>>());
                }
                Edit::Rebuild => packs = rebuilt(dir.path(), packs.sync().unwrap()),
            }
            versions.push((take(&packs, &bytes, before), bytes.clone()));
        }
        let packs = rebuilt(dir.path(), packs.sync().unwrap());
        for (id, content) in &versions {
            prop_assert!(read(&packs, id).unwrap() == *content);
        }
    }
}
