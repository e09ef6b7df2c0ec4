//! A store in a temporary directory, and ways to look at it that owe nothing to the crate under test.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod system;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use estop_integrity::progress::Silent;
use estop_integrity::{KBSnapshot, NewSnapshot, NoWriters, RecoveryPoint, SnapshotManager, Store, StoreConfig};

pub use system::*;

pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kb")).unwrap();
        Self { dir }
    }

    pub fn kb(&self) -> PathBuf {
        self.dir.path().join("kb")
    }

    pub fn vault(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    pub fn config(&self) -> StoreConfig {
        let mut config = StoreConfig::new("kb", self.kb(), self.vault());
        config.lock_wait = Duration::from_secs(10);
        config
    }

    pub fn store(&self) -> Store {
        Store::open(self.config()).unwrap()
    }

    pub fn open(&self) -> SnapshotManager {
        SnapshotManager::open(self.store()).unwrap()
    }

    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.kb().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn look(&self) -> BTreeMap<PathBuf, String> {
        look(&self.kb())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        make_removable(self.dir.path());
    }
}

pub fn snapshot(manager: &SnapshotManager) -> KBSnapshot {
    manager.create(&NewSnapshot::default(), &NoWriters, &Silent).unwrap()
}

pub fn to(snapshot: &KBSnapshot) -> RecoveryPoint {
    RecoveryPoint::from(&snapshot.id)
}

/// Everything in a directory tree, in words: kind, content, what stands beside it, which names are one file.
pub fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    // On Windows, what reaches names of any length and kind.
    let root = &fs::canonicalize(root).unwrap();
    let mut seen = BTreeMap::new();
    let mut numbers: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![root.clone()];
    let mut all = vec![root.clone()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort_by(|one, other| one.as_os_str().as_encoded_bytes().cmp(other.as_os_str().as_encoded_bytes()));
    for path in all {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if meta.is_dir() {
            "directory".to_owned()
        } else {
            let first = numbers.entry(number_of(&path)).or_insert_with(|| name.clone());
            let link = if *first == name { String::new() } else { format!(" = {}", first.display()) };
            format!("file {}{link}", blake3::hash(&fs::read(&path).unwrap()))
        };
        let time = meta.modified().unwrap();
        seen.insert(name, format!("{what} {time:?} {}", beside(&path, &meta)));
    }
    seen
}

pub fn set_modified(path: &Path, time: SystemTime) {
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// A knowledge base with everything a filesystem has to offer: 300 notes and one of each speciality.
pub fn furnish(place: &Place) {
    let kb = place.kb();
    for number in 0..300 {
        place.write(format!("notes/{}/{number}.md", number % 7), format!("# note {number}\n").repeat(number % 50 + 1));
    }
    fs::create_dir(kb.join("empty")).unwrap();
    place.write("one/original", "one file, three names");
    fs::hard_link(kb.join("one/original"), kb.join("one/second")).unwrap();
    fs::hard_link(kb.join("one/original"), kb.join("third")).unwrap();
    place.write("old", "from 1969");
    set_modified(&kb.join("old"), SystemTime::UNIX_EPOCH - Duration::new(1000, 123_456_700));
    place.write("zero", "");
    place.write("big.bin", blake3::hash(b"seed").as_bytes().repeat(200_000));
    let database = rusqlite::Connection::open(kb.join("base.sqlite")).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.execute_batch("CREATE TABLE fact (id INTEGER PRIMARY KEY, text TEXT)").unwrap();
    for number in 0..500 {
        database.execute("INSERT INTO fact (text) VALUES (?1)", [format!("fact {number}")]).unwrap();
    }
    furnish_specially(place);
}

/// What a program gone wrong does to it: shreds, encrypts, deletes, adds, and hides its traces.
pub fn wreck(place: &Place) {
    let kb = place.kb();
    for number in 0..120 {
        let path = kb.join(format!("notes/{}/{number}.md", number % 7));
        let meta = fs::metadata(&path).unwrap();
        let noise = vec![0xa5; usize::try_from(meta.len()).unwrap()];
        fs::write(&path, noise).unwrap();
        set_modified(&path, meta.modified().unwrap());
    }
    for number in 120..150 {
        let path = kb.join(format!("notes/{}/{number}.md", number % 7));
        fs::rename(&path, path.with_extension("md.locked")).unwrap();
    }
    fs::remove_dir(kb.join("empty")).unwrap();
    fs::remove_file(kb.join("one/second")).unwrap();
    place.write("one/second", "no longer the same file");
    place.write("RANSOM.txt", "pay");
    place.write("tools/a/b/c", "dropped");
    let mut database = fs::read(kb.join("base.sqlite")).unwrap();
    database[4096..8192].fill(0x5a);
    fs::write(kb.join("base.sqlite"), database).unwrap();
    wreck_specially(place);
}

/// Does something once, in the middle of an operation: as soon as `phase` is reported.
pub struct Meanwhile<F: Fn() + Sync> {
    pub phase: estop_integrity::progress::Phase,
    pub action: F,
    pub done: std::sync::atomic::AtomicBool,
}

impl<F: Fn() + Sync> estop_integrity::progress::Progress for Meanwhile<F> {
    fn report(&self, phase: estop_integrity::progress::Phase, _done: u64, _total: u64) {
        if phase == self.phase && !self.done.swap(true, std::sync::atomic::Ordering::SeqCst) {
            (self.action)();
        }
    }
}
