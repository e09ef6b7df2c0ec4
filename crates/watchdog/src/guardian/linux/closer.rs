//! A closer look at the processes of a job: whose they are, their arguments and memory, what they have open.

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
        let mut batch = Vec::new();
        look(&ids, |found| {
            let all = matches!(found, Found::All(_));
            batch.push(found);
            let told = batch.len() < BATCH && !all || telling.send(std::mem::take(&mut batch)).is_ok();
            told && Instant::now() < deadline
        });
    });
    let mut left: Vec<Stage> = Stage::ALL.to_vec();
    while looking.is_ok()
        && let Ok(batch) = told.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        for found in batch {
            note(evidence, &mut left, found);
        }
    }
    evidence.unfinished = unfinished(&left);
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

/// What was not looked at of all processes.
fn unfinished(left: &[Stage]) -> Vec<String> {
    let has = |stage| left.contains(&stage);
    let names = [
        (has(Stage::Own), "memory"),
        (has(Stage::Own), "arguments"),
        (has(Stage::Open), "open"),
        (has(Stage::Sockets), "sockets"),
    ];
    names.into_iter().filter(|(missing, _)| *missing).map(|(_, name)| name.to_owned()).collect()
}

fn ids(evidence: &Evidence) -> Vec<ProcessId> {
    evidence.tree.iter().map(|one| one.process.id).collect()
}

fn note(evidence: &mut Evidence, left: &mut Vec<Stage>, found: Found) {
    match found {
        Found::Itself(index, own) => {
            (evidence.tree[index].uid, evidence.tree[index].memory) = (own.uid, own.memory);
            evidence.tree[index].process.arguments = own.arguments;
        }
        Found::Open(index, open, omitted) => {
            evidence.tree[index].process.open = open;
            evidence.tree[index].open_omitted = omitted;
        }
        Found::Sockets(index, sockets) => evidence.tree[index].sockets = sockets,
        Found::All(stage) => left.retain(|one| *one != stage),
    }
}

/// Looks at all of `ids`, and tells what it finds, until `tell` wants no more.
fn look(ids: &[ProcessId], mut tell: impl FnMut(Found) -> bool) {
    let mut left = OPEN_OF_ALL;
    let mut inodes: Vec<Vec<u64>> = vec![Vec::new(); ids.len()];
    let mut sockets = Sockets::default();
    for stage in Stage::ALL {
        for (index, id) in ids.iter().enumerate() {
            let found = match stage {
                Stage::Own => Found::Itself(index, own(*id)),
                Stage::Open => {
                    let open = open_list(*id, OPEN_OF_ONE.min(left));
                    left = left.saturating_sub(open.files.len() + open.sockets.len());
                    inodes[index] = open.sockets;
                    Found::Open(index, open.files, open.omitted)
                }
                Stage::Sockets if inodes[index].is_empty() => continue,
                Stage::Sockets => Found::Sockets(index, sockets.of(*id, &inodes[index])),
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

/// The user of a process, its memory map, neither of which waits for anything, and its arguments.
fn own(id: ProcessId) -> Own {
    let text = fs::read_to_string(format!("/proc/{}/status", id.pid)).unwrap_or_default();
    // Looked up after it was read: if it is the same process now, it is its own.
    let arguments = procfs::arguments(id);
    if arguments.is_empty() && procfs::identity(id.pid) != Some(id) {
        return Own::default();
    }
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

/// What the process `id` has open, at most `limit` of it.
fn open_list(id: ProcessId, limit: usize) -> Open {
    let mut open = Open::default();
    let entries = fs::read_dir(format!("/proc/{}/fd", id.pid)).into_iter().flatten().flatten();
    for target in entries.filter_map(|entry| fs::read_link(entry.path()).ok()).take(limit) {
        let name = target.to_string_lossy();
        match name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok()) {
            Some(inode) => open.sockets.push(inode),
            None => open.files.push(name.chars().take(PATH).collect()),
        }
    }
    let listed = open.files.len() + open.sockets.len();
    if listed == limit {
        open.omitted = procfs::open_files(id.pid).unwrap_or_default().saturating_sub(listed as u64);
    }
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
        let mut seen: [Vec<Found>; 3] = Default::default();
        let mut stage = 0;
        look(&[id], |found| {
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
        let id = procfs::identity(std::process::id()).unwrap();
        let _kept: Vec<_> = (0..40).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let open = open_list(id, OPEN_OF_ONE);
        assert_eq!(open.files.len() + open.sockets.len(), OPEN_OF_ONE);
        assert!(open.omitted >= 8, "{open:?}");
        assert_eq!(open_list(ProcessId { start_time: id.start_time + 1, ..id }, 5), Open::default());
        let mut told = 0;
        look(&[id, id], |_| {
            told += 1;
            false
        });
        assert_eq!(told, 1);
    }
}
