//! A closer look at the processes of a job: whose they are, their arguments and memory, what they have open.

use std::collections::HashMap;
use std::fs;
use std::sync::mpsc::channel;
use std::time::Instant;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::net::Sockets;
use crate::guardian::evidence::{Evidence, MemoryMap, Socket};
use crate::job::ProcessId;
use crate::job::linux::{let_go_of_descriptors, procfs};

/// How many open files of a process are listed, and of all of them; as many sockets.
const OPEN_OF_ONE: usize = 32;
const OPEN_OF_ALL: usize = 500;
/// The longest path.
const PATH: usize = 500;

/// What was found out about the process of an index in the tree.
enum Found {
    Self_(usize, Option<u32>, Option<MemoryMap>),
    Arguments(usize, String),
    Open(usize, Vec<String>, u64),
    Sockets(usize, Vec<Socket>),
    /// So much was looked at of all of them.
    All(Stage),
}

/// What is looked at, of every process before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Memory,
    Arguments,
    Open,
    Sockets,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Memory, Self::Arguments, Self::Open, Self::Sockets];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Arguments => "arguments",
            Self::Open => "open",
            Self::Sockets => "sockets",
        }
    }
}

/// Has a thread look, which a process can keep waiting: then what it has found by `deadline` is all. Only in a process that
/// ends without waiting for it.
pub(super) fn look_by_thread(evidence: &mut Evidence, deadline: Instant) {
    let ids = ids(evidence);
    let (telling, told) = channel();
    let looking = std::thread::Builder::new().spawn(move || {
        // While this is kept waiting, all descriptors are let go of elsewhere: it has none in common with that.
        if !stand_alone() {
            return;
        }
        let tell = |found| telling.send(found).is_ok() && Instant::now() < deadline;
        look(&ids, &Stage::ALL, tell);
    });
    let mut left: Vec<Stage> = Stage::ALL.to_vec();
    while looking.is_ok()
        && let Ok(found) = told.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        note(evidence, &mut left, found);
    }
    evidence.unfinished = left.into_iter().map(|stage| stage.name().to_owned()).collect();
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

/// Looks at what no process can keep its reader waiting for, until `deadline`: not at the arguments, which are in its own memory.
pub(super) fn look_here(evidence: &mut Evidence, deadline: Instant) {
    let ids = ids(evidence);
    let mut left: Vec<Stage> = Stage::ALL.to_vec();
    look(&ids, &[Stage::Memory, Stage::Open, Stage::Sockets], |found| {
        note(evidence, &mut left, found);
        Instant::now() < deadline
    });
    evidence.unfinished = left.into_iter().map(|stage| stage.name().to_owned()).collect();
}

fn ids(evidence: &Evidence) -> Vec<ProcessId> {
    evidence.tree.iter().map(|one| one.process.id).collect()
}

fn note(evidence: &mut Evidence, left: &mut Vec<Stage>, found: Found) {
    match found {
        Found::Self_(index, uid, memory) => (evidence.tree[index].uid, evidence.tree[index].memory) = (uid, memory),
        Found::Arguments(index, arguments) => evidence.tree[index].process.arguments = arguments,
        Found::Open(index, open, omitted) => {
            evidence.tree[index].process.open = open;
            evidence.tree[index].open_omitted = omitted;
        }
        Found::Sockets(index, sockets) => evidence.tree[index].sockets = sockets,
        Found::All(stage) => left.retain(|one| *one != stage),
    }
}

/// Looks at all of `ids`, and tells what it finds, until `tell` wants no more.
fn look(ids: &[ProcessId], stages: &[Stage], mut tell: impl FnMut(Found) -> bool) {
    let mut left = OPEN_OF_ALL;
    let mut inodes: Vec<Vec<u64>> = vec![Vec::new(); ids.len()];
    let mut sockets = Sockets::default();
    for stage in stages {
        for (index, id) in ids.iter().enumerate() {
            let found = match stage {
                Stage::Memory => {
                    let (uid, memory) = own(*id);
                    Found::Self_(index, uid, memory)
                }
                Stage::Arguments => Found::Arguments(index, procfs::arguments(*id)),
                Stage::Open => {
                    let open = open_list(*id, OPEN_OF_ONE.min(left));
                    left = left.saturating_sub(open.files.len() + open.sockets.len());
                    inodes[index] = open.sockets;
                    Found::Open(index, open.files, open.omitted)
                }
                Stage::Sockets => Found::Sockets(index, sockets.of(*id, &inodes[index])),
            };
            if !tell(found) {
                return;
            }
        }
        if !tell(Found::All(*stage)) {
            return;
        }
    }
}

/// The user of a process, and its memory map. Neither waits for anything.
fn own(id: ProcessId) -> (Option<u32>, Option<MemoryMap>) {
    let text = fs::read_to_string(format!("/proc/{}/status", id.pid)).unwrap_or_default();
    // Looked up after it was read: if it is the same process now, it is its own.
    if procfs::identity(id.pid) != Some(id) {
        return (None, None);
    }
    let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let first = |key: &str| fields.get(key)?.split_ascii_whitespace().next()?.parse::<u64>().ok();
    let bytes = |key: &str| first(key).map(|kibibytes| kibibytes * 1024);
    let memory = bytes("VmSize").map(|virtual_bytes| MemoryMap {
        anonymous_bytes: bytes("RssAnon").unwrap_or_default(),
        file_bytes: bytes("RssFile").unwrap_or_default(),
        shared_bytes: bytes("RssShmem").unwrap_or_default(),
        swap_bytes: bytes("VmSwap").unwrap_or_default(),
        peak_bytes: bytes("VmHWM").unwrap_or_default(),
        virtual_bytes,
    });
    (first("Uid").and_then(|uid| u32::try_from(uid).ok()), memory)
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

/// What the process `id` has open, at most `limit` of it.
fn open_list(id: ProcessId, limit: usize) -> Open {
    let all = procfs::open_files(id.pid).unwrap_or_default();
    let mut open = Open::default();
    let entries = fs::read_dir(format!("/proc/{}/fd", id.pid)).into_iter().flatten().flatten();
    for target in entries.filter_map(|entry| fs::read_link(entry.path()).ok()).take(limit) {
        let name = target.to_string_lossy();
        match name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok()) {
            Some(inode) => open.sockets.push(inode),
            None => open.files.push(name.chars().take(PATH).collect()),
        }
    }
    open.omitted = all.saturating_sub((open.files.len() + open.sockets.len()) as u64);
    // Looked up after they were read: if it is the same process now, they are its own.
    if procfs::identity(id.pid) == Some(id) { open } else { Open::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_this_process_has_is_found() {
        let id = procfs::identity(std::process::id()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut seen: [Vec<Found>; 4] = Default::default();
        let mut stage = 0;
        look(&[id], &Stage::ALL, |found| {
            if let Found::All(_) = found {
                stage += 1;
            } else {
                seen[stage].push(found);
            }
            true
        });
        let (Found::Self_(0, uid, memory), Found::Arguments(0, arguments)) = (&seen[0][0], &seen[1][0]) else {
            panic!("out of order")
        };
        let memory = memory.unwrap();
        assert_eq!(*uid, Some(rustix::process::getuid().as_raw()));
        assert!(memory.anonymous_bytes > 0 && memory.peak_bytes >= memory.anonymous_bytes, "{memory:?}");
        assert!(memory.virtual_bytes > memory.peak_bytes && !arguments.is_empty(), "{memory:?}");
        let (Found::Open(0, files, _), Found::Sockets(0, sockets)) = (&seen[2][0], &seen[3][0]) else {
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
        let id = procfs::identity(std::process::id()).unwrap();
        let _kept: Vec<_> = (0..40).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let open = open_list(id, OPEN_OF_ONE);
        assert_eq!(open.files.len() + open.sockets.len(), OPEN_OF_ONE);
        assert!(open.omitted >= 8, "{open:?}");
        assert_eq!(open_list(ProcessId { start_time: id.start_time + 1, ..id }, 5), Open::default());
        let mut told = 0;
        look(&[id, id], &Stage::ALL, |_| {
            told += 1;
            false
        });
        assert_eq!(told, 1);
    }
}
