//! A closer look at the processes of a job: whose they are, their arguments and memory, what they have open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::net::Sockets;
use crate::guardian::evidence::{Evidence, MemoryMap, Socket};
use crate::job::ProcessId;
use crate::job::linux::{Pinned, let_go_of_descriptors};

/// How many open files of a process are listed, and of all of them; as many sockets.
const OPEN_OF_ONE: usize = 32;
const OPEN_OF_ALL: usize = 500;
/// The longest path.
const PATH: usize = 500;

/// What was found out about the process of an index in the tree.
enum Found {
    Itself(usize, Own),
    Open(usize, Vec<String>, u64),
    Sockets(usize, Vec<Socket>),
    /// So much was looked at of all of them.
    All(Stage),
}

/// What is looked at, of every process before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Own,
    Open,
    Sockets,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Own, Self::Open, Self::Sockets];
}

/// What a process is by itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Own {
    uid: Option<u32>,
    memory: Option<MemoryMap>,
    arguments: String,
}

/// How much a thread finds before it tells.
const BATCH: usize = 16;
/// How many threads look at most, and how many processes are worth one more.
const THREADS: usize = 4;
const WORTH_ONE: usize = 8;

/// What was found, and how many of those who look have not yet been through with a stage.
struct Notes<'a> {
    evidence: &'a mut Evidence,
    left: [usize; Stage::ALL.len()],
}

/// Has threads look, which a process can keep waiting: then what they have found by `deadline` is all. Only in a process that
/// ends without waiting for them.
pub(super) fn look_by_threads(evidence: &mut Evidence, deadline: Instant) {
    let ids: Arc<[ProcessId]> = ids(evidence).into();
    let shared = Arc::new(Shared::default());
    let (telling, told) = channel();
    let threads = processors().min(THREADS).min(ids.len().div_ceil(WORTH_ONE)).max(1);
    for first in 0..threads {
        let (ids, shared, telling) = (Arc::clone(&ids), Arc::clone(&shared), telling.clone());
        // Where there can be no thread, it shows as what was not looked at.
        let _ = std::thread::Builder::new().spawn(move || {
            // While this is kept waiting, all descriptors are let go of elsewhere: it has none in common with that.
            if !stand_alone() {
                return;
            }
            let mut batch = Vec::new();
            let share: Vec<(usize, ProcessId)> = ids.iter().copied().enumerate().skip(first).step_by(threads).collect();
            look(&share, &shared, |found| {
                let all = matches!(found, Found::All(_));
                batch.push(found);
                let told = batch.len() < BATCH && !all || telling.send(std::mem::take(&mut batch)).is_ok();
                told && Instant::now() < deadline
            });
        });
    }
    drop(telling);
    let mut notes = Notes { evidence, left: [threads; Stage::ALL.len()] };
    while let Ok(batch) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        for found in batch {
            notes.note(found);
        }
    }
    notes.conclude();
}

/// How many processors there are for this process.
fn processors() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |processors| processors.count() as usize)
}

/// Gives this thread descriptors of its own, of which there are none yet.
fn stand_alone() -> bool {
    // SAFETY: nothing of this thread's owns a descriptor.
    let alone = unsafe { unshare_unsafe(UnshareFlags::FILES) }.is_ok();
    if alone {
        let_go_of_descriptors();
    }
    alone
}

fn ids(evidence: &Evidence) -> Vec<ProcessId> {
    evidence.tree.iter().map(|one| one.process.id).collect()
}

impl Notes<'_> {
    fn note(&mut self, found: Found) {
        let tree = &mut self.evidence.tree;
        match found {
            Found::Itself(index, own) => {
                (tree[index].uid, tree[index].memory) = (own.uid, own.memory);
                tree[index].process.arguments = own.arguments;
            }
            Found::Open(index, open, omitted) => {
                tree[index].process.open = open;
                tree[index].open_omitted = omitted;
            }
            Found::Sockets(index, sockets) => tree[index].sockets = sockets,
            Found::All(stage) => self.left[stage as usize] -= 1,
        }
    }

    /// Says what was not looked at of all processes.
    fn conclude(self) {
        let has = |stage: Stage| self.left[stage as usize] > 0;
        let names = [
            (has(Stage::Own), "memory"),
            (has(Stage::Own), "arguments"),
            (has(Stage::Open), "open"),
            (has(Stage::Sockets), "sockets"),
        ];
        let missing = names.into_iter().filter(|(missing, _)| *missing);
        self.evidence.unfinished = missing.map(|(_, name)| name.to_owned()).collect();
    }
}

/// What all who look have in common.
#[derive(Debug)]
struct Shared {
    /// How many open files may still be listed.
    left: AtomicUsize,
    sockets: Mutex<Sockets>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { left: AtomicUsize::new(OPEN_OF_ALL), sockets: Mutex::default() }
    }
}

/// Looks at all of `ids`, which have places in the tree, and tells what it finds, until `tell` wants no more.
fn look(ids: &[(usize, ProcessId)], shared: &Shared, mut tell: impl FnMut(Found) -> bool) {
    let mut inodes: Vec<Vec<u64>> = vec![Vec::new(); ids.len()];
    let mut held = Held(ids.iter().map(|_| None).collect());
    for stage in Stage::ALL {
        for (at, &(index, id)) in ids.iter().enumerate() {
            let found = match stage {
                Stage::Own => Found::Itself(index, held.of(at, id, own)),
                Stage::Open => {
                    let open = held.of(at, id, |process| open_list(process, &shared.left));
                    inodes[at] = open.sockets;
                    Found::Open(index, open.files, open.omitted)
                }
                Stage::Sockets if inodes[at].is_empty() => continue,
                Stage::Sockets => {
                    // One that was kept waiting holds it as long: nobody gets further than the deadline by that.
                    let mut sockets = shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
                    Found::Sockets(index, held.of(at, id, |process| sockets.of(process, &inodes[at])))
                }
            };
            if !tell(found) {
                return;
            }
        }
        if !tell(Found::All(stage)) {
            return;
        }
    }
}

/// The processes that were looked at, so that who it is needs to be asked once.
struct Held(Vec<Option<Pinned>>);

impl Held {
    /// What `look` finds out about one; nothing of one that has ended.
    fn of<T: Default>(&mut self, index: usize, id: ProcessId, look: impl FnOnce(&Pinned) -> T) -> T {
        if self.0[index].is_none() {
            let mut opened = Pinned::open(id);
            let errno = opened.as_ref().err().and_then(Errno::from_io_error);
            if matches!(errno, Some(Errno::MFILE | Errno::NFILE)) {
                // There are no more descriptors: the others are opened again when their turn comes.
                self.0.iter_mut().for_each(|held| *held = None);
                opened = Pinned::open(id);
            }
            self.0[index] = opened.ok();
        }
        self.0[index].as_ref().map(look).unwrap_or_default()
    }
}

/// The user of a process, its memory map, neither of which waits for anything, and its arguments.
fn own(process: &Pinned) -> Own {
    let text = process.content("status").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let arguments = process.arguments();
    let (mut memory, mut uid, mut has_memory) = (MemoryMap::default(), None, false);
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let first = || value.split_ascii_whitespace().next()?.parse::<u64>().ok();
        let size = match key {
            "Uid" => {
                uid = first().and_then(|uid| u32::try_from(uid).ok());
                continue;
            }
            "VmSize" => &mut memory.virtual_bytes,
            "VmHWM" => &mut memory.peak_bytes,
            "RssAnon" => &mut memory.anonymous_bytes,
            "RssFile" => &mut memory.file_bytes,
            "RssShmem" => &mut memory.shared_bytes,
            "VmSwap" => &mut memory.swap_bytes,
            // What follows is about something else.
            "Threads" => break,
            _ => continue,
        };
        *size = first().unwrap_or_default() * 1024;
        has_memory = true;
    }
    Own { uid, memory: has_memory.then_some(memory), arguments }
}

/// What a process has open.
#[derive(Debug, Default, PartialEq, Eq)]
struct Open {
    /// Paths, and what else has a name.
    files: Vec<String>,
    /// The inodes of its sockets.
    sockets: Vec<u64>,
    /// How much more there was.
    omitted: u64,
}

/// What a process has open, as much of it as may be listed of one, and as is `left` of what may be listed of all.
fn open_list(process: &Pinned, left: &AtomicUsize) -> Open {
    let mut open = Open::default();
    let limit = OPEN_OF_ONE.min(left.load(Ordering::Relaxed));
    let all = process.open_files(|name| {
        let listed = open.files.len() + open.sockets.len();
        if listed < limit {
            match name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok()) {
                Some(inode) => open.sockets.push(inode),
                None => open.files.push(name.chars().take(PATH).collect()),
            }
        }
        listed + 1 < limit
    });
    let Ok(all) = all else { return Open::default() };
    let listed = open.files.len() + open.sockets.len();
    open.omitted = all.saturating_sub(listed as u64);
    // Threads that list at the same moment may together list a little more.
    let take = |left: usize| Some(left.saturating_sub(listed));
    let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    open
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::job::linux::procfs::identity;

    #[test]
    fn what_this_process_has_is_found() {
        let id = identity(std::process::id()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut seen: [Vec<Found>; 3] = Default::default();
        let mut stage = 0;
        look(&[(0, id)], &Shared::default(), |found| {
            if let Found::All(_) = found {
                stage += 1;
            } else {
                seen[stage].push(found);
            }
            true
        });
        let Found::Itself(0, Own { uid, memory, arguments }) = &seen[0][0] else { panic!("out of order") };
        let memory = memory.unwrap();
        assert_eq!(*uid, Some(rustix::process::getuid().as_raw()));
        assert!(memory.anonymous_bytes > 0 && memory.peak_bytes >= memory.anonymous_bytes, "{memory:?}");
        assert!(memory.virtual_bytes > memory.peak_bytes && !arguments.is_empty(), "{memory:?}");
        let (Found::Open(0, files, _), Found::Sockets(0, sockets)) = (&seen[1][0], &seen[2][0]) else {
            panic!("out of order")
        };
        assert!(files.contains(&file.path().display().to_string()), "{files:?}");
        let local = client.local_addr().unwrap().to_string();
        let server = listener.local_addr().unwrap().to_string();
        let named = |wanted: &str, remote: Option<&String>, state: &str| {
            sockets
                .iter()
                .any(|socket| socket.local == wanted && socket.remote.as_ref() == remote && socket.state == state)
        };
        assert!(named(&server, None, "listen") && named(&local, Some(&server), "established"), "{sockets:?}");
    }

    #[test]
    fn what_is_left_out_is_counted_and_no_time_is_said() {
        let id = identity(std::process::id()).unwrap();
        let _kept: Vec<_> = (0..40).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let open = open_list(&Pinned::open(id).unwrap(), &AtomicUsize::new(1000));
        assert_eq!(open.files.len() + open.sockets.len(), OPEN_OF_ONE);
        assert!(open.omitted >= 8, "{open:?}");
        let gone = ProcessId { start_time: id.start_time + 1, ..id };
        assert_eq!(Held(vec![None]).of(0, gone, |process| open_list(process, &AtomicUsize::new(5))), Open::default());
        let mut told = 0;
        look(&[(0, id), (1, id)], &Shared::default(), |_| {
            told += 1;
            false
        });
        assert_eq!(told, 1);
    }
}
