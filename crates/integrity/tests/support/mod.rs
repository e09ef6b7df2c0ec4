//! A store in a temporary directory, and ways to look at it that owe nothing to the crate under test.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_integrity::progress::Silent;
use estop_integrity::{KBSnapshot, NewSnapshot, NoWriters, RecoveryPoint, SnapshotManager, Store, StoreConfig};

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

pub fn snapshot(manager: &SnapshotManager) -> KBSnapshot {
    manager.create(&NewSnapshot::default(), &NoWriters, &Silent).unwrap()
}

pub fn to(snapshot: &KBSnapshot) -> RecoveryPoint {
    RecoveryPoint::from(&snapshot.id)
}

/// Everything in a directory tree, in words: kind, content, mode, times, attributes, which names are one file.
pub fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    let mut all = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort_by(|one, other| one.as_os_str().as_bytes().cmp(other.as_os_str().as_bytes()));
    for path in all {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if meta.is_dir() {
            "directory".to_owned()
        } else {
            let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
            let link = if *first == name { String::new() } else { format!(" = {}", first.display()) };
            format!("file {}{link}", blake3::hash(&fs::read(&path).unwrap()))
        };
        let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
        let note = xattr(&path);
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        seen.insert(name, format!("{what} {mode:o} {}:{} {time} {note:?}", meta.uid(), meta.gid()));
    }
    seen
}

/// From now on the mode of a file binds this test as it binds an ordinary user.
pub fn obey_modes() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    set_capabilities(None, sets).unwrap();
}

pub fn xattr(path: &Path) -> Option<Vec<u8>> {
    let mut buffer = [0; 100];
    let length = rustix::fs::lgetxattr(path, "user.note", &mut buffer[..]).ok()?;
    Some(buffer[..length].to_vec())
}

pub fn set_xattr(path: &Path, value: &[u8]) {
    rustix::fs::setxattr(path, "user.note", value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A knowledge base with everything a filesystem has to offer: 300 notes and one of each speciality.
pub fn furnish(place: &Place) {
    let kb = place.kb();
    for number in 0..300 {
        place.write(format!("notes/{}/{number}.md", number % 7), format!("# note {number}\n").repeat(number % 50 + 1));
    }
    place.write(OsStr::from_bytes(b"odd/not \xff utf-8\n"), "bytes are names");
    fs::create_dir(kb.join("empty")).unwrap();
    symlink("notes/0/0.md", kb.join("link")).unwrap();
    symlink("/nowhere/at all", kb.join("dangling")).unwrap();
    place.write("one/original", "one file, three names");
    fs::hard_link(kb.join("one/original"), kb.join("one/second")).unwrap();
    fs::hard_link(kb.join("one/original"), kb.join("third")).unwrap();
    place.write("annotated", "with an attribute");
    set_xattr(&kb.join("annotated"), b"hello");
    set_xattr(&kb.join("empty"), b"directories too");
    place.write("private", "secret");
    fs::set_permissions(kb.join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    place.write("script", "#!/bin/sh\n");
    fs::set_permissions(kb.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    place.write("old", "from 1969");
    set_mtime(&kb.join("old"), -1000, 123_456_789);
    place.write("zero", "");
    place.write("big.bin", blake3::hash(b"seed").as_bytes().repeat(200_000));
    let database = rusqlite::Connection::open(kb.join("base.sqlite")).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.execute_batch("CREATE TABLE fact (id INTEGER PRIMARY KEY, text TEXT)").unwrap();
    for number in 0..500 {
        database.execute("INSERT INTO fact (text) VALUES (?1)", [format!("fact {number}")]).unwrap();
    }
}

/// What a program gone wrong does to it: shreds, encrypts, deletes, adds, and hides its traces.
pub fn wreck(place: &Place) {
    let kb = place.kb();
    for number in 0..120 {
        let path = kb.join(format!("notes/{}/{number}.md", number % 7));
        let meta = fs::metadata(&path).unwrap();
        let noise = vec![0xa5; usize::try_from(meta.len()).unwrap()];
        fs::write(&path, noise).unwrap();
        set_mtime(&path, meta.mtime(), meta.mtime_nsec());
    }
    for number in 120..150 {
        let path = kb.join(format!("notes/{}/{number}.md", number % 7));
        fs::rename(&path, path.with_extension("md.locked")).unwrap();
    }
    fs::remove_dir_all(kb.join("odd")).unwrap();
    fs::remove_dir(kb.join("empty")).unwrap();
    fs::remove_file(kb.join("link")).unwrap();
    fs::create_dir(kb.join("link")).unwrap();
    place.write("link/inside", "a directory where a link was");
    fs::remove_file(kb.join("script")).unwrap();
    symlink("/etc", kb.join("script")).unwrap();
    fs::remove_file(kb.join("one/second")).unwrap();
    place.write("one/second", "no longer the same file");
    set_xattr(&kb.join("annotated"), b"changed");
    fs::set_permissions(kb.join("private"), fs::Permissions::from_mode(0o666)).unwrap();
    place.write("RANSOM.txt", "pay");
    fs::set_permissions(&kb, fs::Permissions::from_mode(0o777)).unwrap();
    place.write("tools/a/b/c", "dropped");
    let mut database = fs::read(kb.join("base.sqlite")).unwrap();
    database[4096..8192].fill(0x5a);
    fs::write(kb.join("base.sqlite"), database).unwrap();
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
