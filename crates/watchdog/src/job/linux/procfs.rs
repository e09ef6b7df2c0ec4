//! Reading `/proc`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::pinned::Pinned;
use super::spawn::END_OF_COPY;
use crate::job::{Process, ProcessId};
use crate::stop::Survivor;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which process.
    pub id: ProcessId,
    /// Its parent.
    pub parent: u32,
    /// Its command name.
    pub command: String,
    /// Its state.
    pub state: char,
    /// CPU time in clock ticks, its reaped children's included.
    pub ticks: u64,
    /// CPU time in clock ticks, its own alone.
    pub own_ticks: u64,
    /// Resident memory in pages.
    pub resident: u64,
    /// The signal that tells its parent its end.
    pub end_signal: i32,
    /// How it ended, as `wait(2)` says it; 0 while it has not, or where that is not this process's business.
    pub status: i32,
}

impl Stat {
    /// Whether it has ended and only waits to be reaped.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether it is a copy that `guardian` has made of itself, by the kernel's word: no process of a workload can be one.
    fn is_copy_of(&self, guardian: u32) -> bool {
        self.parent == guardian && self.end_signal == END_OF_COPY
    }
}

/// What a look at all processes has found, and what kept it from seeing one of them. Processes that may not be looked at are
/// other users'.
#[derive(Debug, Default)]
pub struct Seen {
    /// What was found.
    pub found: Vec<Stat>,
    /// Why that may not be all.
    pub fault: Option<io::Error>,
}

/// Reads `/proc/PID/stat`; `None` if there is no such process, or it cannot be read.
pub fn stat(pid: u32) -> Option<Stat> {
    look(pid).ok().flatten()
}

/// Reads `/proc/PID/stat`; `None` if there is no such process.
///
/// # Errors
/// If it cannot be told.
pub fn look(pid: u32) -> io::Result<Option<Stat>> {
    let Some(bytes) = present(content(&format!("/proc/{pid}/stat")))? else { return Ok(None) };
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not understood"));
    parse_stat(&bytes).ok_or_else(garbled).map(Some)
}

/// Reads a file of `/proc`.
fn content(path: &str) -> io::Result<Vec<u8>> {
    whole(&rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Reads all of an open file of `/proc`. Not as the standard library does, which tries again for as long as it is interrupted, and
/// asks for a size that such a file does not have: a guardian reads them on its way to a kill.
pub(super) fn whole(file: &OwnedFd) -> io::Result<Vec<u8>> {
    const CHUNK: usize = 4096;
    const TRIES: u32 = 100;
    let (mut content, mut interrupted) = (Vec::new(), 0);
    loop {
        let length = content.len();
        content.resize(length + CHUNK, 0);
        match rustix::io::read(file, &mut content[length..]) {
            Ok(0) => {
                content.truncate(length);
                return Ok(content);
            }
            Ok(more) => content.truncate(length + more),
            Err(Errno::INTR) if interrupted < TRIES => {
                interrupted += 1;
                content.truncate(length);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Only these two answers mean that a process is not there; any other means that it could not be looked at.
fn present<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let text = String::from_utf8_lossy(bytes);
    // The command may hold any character; the last parenthesis ends it.
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, command) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        id: ProcessId { pid: pid.trim().parse().ok()?, start_time: number(19)? },
        parent: fields.get(1)?.parse().ok()?,
        command: command.to_owned(),
        state: fields.first()?.chars().next()?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        own_ticks: number(11)? + number(12)?,
        resident: number(21)?,
        end_signal: fields.get(35)?.parse().ok()?,
        status: fields.get(49).and_then(|field| field.parse().ok()).unwrap_or(0),
    })
}

/// The share of the host's memory that is in use, which is all but what the kernel could give to a new program.
pub fn memory_in_use() -> Option<f64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = |key: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().split(' ').next()?.parse().ok()
    };
    let (total, available) = (value("MemTotal")?, value("MemAvailable")?);
    (total > 0.0).then(|| 1.0 - available / total)
}

/// The identity of `pid` as it is now.
pub fn identity(pid: u32) -> Option<ProcessId> {
    stat(pid).map(|stat| stat.id)
}

/// All process IDs.
fn pids() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(found)
}

/// All processes of which `wanted` is told by their ID.
fn processes(wanted: impl Fn(u32) -> io::Result<bool>) -> Seen {
    let mut seen = Seen::default();
    let all = pids().unwrap_or_else(|error| {
        seen.fault = Some(error);
        Vec::new()
    });
    for pid in all {
        match wanted(pid).and_then(|wanted| if wanted { look(pid) } else { Ok(None) }) {
            Ok(stat) => seen.found.extend(stat),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => seen.fault = Some(error),
        }
    }
    seen
}

/// A descriptor of exactly the process `id`; `None` if it has ended, also when its PID was given to another, or if no
/// descriptor can be had.
pub fn open(id: ProcessId) -> Option<OwnedFd> {
    open_exactly(id).ok().flatten()
}

/// A descriptor of exactly the process `id`, to signal it; `None` if it has ended, also when its PID was given to another. No
/// job has the host's init in it.
///
/// # Errors
/// If it cannot be told, or the process is there and no descriptor can be had.
pub fn open_exactly(id: ProcessId) -> io::Result<Option<OwnedFd>> {
    if id.pid == 1 { Ok(None) } else { open_any(id) }
}

/// A descriptor of exactly the process `id`, to wait for its end; `None` if it has ended or none can be had. In a container
/// estop itself may be the first process.
pub fn open_to_wait(id: ProcessId) -> Option<OwnedFd> {
    open_any(id).ok().flatten()
}

fn open_any(id: ProcessId) -> io::Result<Option<OwnedFd>> {
    let pid = i32::try_from(id.pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(None) };
    let fd = pidfd_open(pid, PidfdFlags::empty());
    // Looked up after the descriptor was taken: if it is the same process now, the descriptor is of it.
    if look(id.pid)?.is_none_or(|stat| stat.id != id) {
        return Ok(None);
    }
    present(fd.map_err(io::Error::from))
}

/// The user that started `pid`; `None` if there is no such process. It may not be the one of the directory `/proc/PID`, which
/// is root's where a process must not be traced.
///
/// # Errors
/// If it cannot be told.
pub fn user(pid: u32) -> io::Result<Option<u32>> {
    let Some(status) = present(fs::read_to_string(format!("/proc/{pid}/status")))? else { return Ok(None) };
    Ok(status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok()))
}

/// How many PID namespaces see `pid`, from that of `/proc` on; `None` if there is no such process. Readable for everybody.
///
/// # Errors
/// If it cannot be told.
pub fn namespace_depth(pid: u32) -> io::Result<Option<usize>> {
    let Some(status) = present(content(&format!("/proc/{pid}/status")))? else { return Ok(None) };
    let status = String::from_utf8_lossy(&status);
    Ok(status.lines().find_map(|line| Some(line.strip_prefix("NSpid:")?.split_ascii_whitespace().count())))
}

/// The processes below `roots`, by parentage, without the roots themselves and without dead ones, as far as they can be read.
pub fn descendants(roots: &[u32]) -> Vec<Stat> {
    below(roots).found
}

/// The processes below `roots`, by parentage, without the roots themselves and without dead ones.
pub fn below(roots: &[u32]) -> Seen {
    alive(kin(roots, |_| Ok(false)))
}

/// The same, without the copies that the process `guardian` has made of itself, if it is one of the roots.
pub fn guarded_below(roots: &[u32], guardian: u32) -> Seen {
    alive(kin(roots, |process| is_copy(process, guardian)))
}

/// The processes below `root`, by parentage, without itself, and with those that were not reaped.
pub fn offspring(root: u32) -> Vec<Stat> {
    kin(&[root], |_| Ok(false)).found
}

/// The same below a guardian, without the copies that it has made of itself.
pub fn offspring_of_guardian(guardian: u32) -> Vec<Stat> {
    kin(&[guardian], |process| is_copy(process, guardian)).found
}

/// Whether `process` is a copy that `guardian` has made of itself. Looked at again: an orphan that is being handed over to it has
/// its new parent a moment before it has `SIGCHLD` for its end.
fn is_copy(process: &Stat, guardian: u32) -> io::Result<bool> {
    let same = |again: &Stat| again.id == process.id;
    Ok(process.is_copy_of(guardian)
        && look(process.id.pid)?.filter(same).is_none_or(|again| again.is_copy_of(guardian)))
}

fn alive(mut seen: Seen) -> Seen {
    seen.found.retain(|process| !process.is_dead());
    seen
}

/// The processes below `roots`, without those that are `foreign` and what is below them.
fn kin(roots: &[u32], foreign: impl Fn(&Stat) -> io::Result<bool>) -> Seen {
    let Seen { found: all, mut fault } = processes(|_| Ok(true));
    let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
    for (index, process) in all.iter().enumerate() {
        children.entry(process.parent).or_default().push(index);
    }
    let mut found = Vec::new();
    let mut seen: HashSet<u32> = roots.iter().copied().collect();
    let mut waiting: Vec<u32> = roots.to_vec();
    while let Some(parent) = waiting.pop() {
        for &index in children.get(&parent).into_iter().flatten() {
            let process = &all[index];
            if !seen.insert(process.id.pid) {
                continue;
            }
            match foreign(process) {
                Ok(true) => {}
                Ok(false) => {
                    waiting.push(process.id.pid);
                    found.push(process.clone());
                }
                Err(error) => fault = Some(error),
            }
        }
    }
    Seen { found, fault }
}

/// The processes whose environment holds `marker`, as `NAME=VALUE`, as far as they can be read.
pub fn marked(marker: &[u8]) -> Vec<Stat> {
    bearing(marker).found
}

/// The processes whose environment holds `marker`, as `NAME=VALUE`.
pub fn bearing(marker: &[u8]) -> Seen {
    let own = std::process::id();
    let mut seen = processes(|pid| {
        let environ = if pid == own { None } else { present(content(&format!("/proc/{pid}/environ")))? };
        Ok(environ.is_some_and(|environ| environ.split(|&byte| byte == 0).any(|one| one == marker)))
    });
    seen.found.retain(|stat| !stat.is_dead());
    seen
}

/// The path of `pid` in the cgroup v2 hierarchy; `None` too if that cannot be told.
pub fn cgroup(pid: u32) -> Option<String> {
    look_for_cgroup(pid).ok().flatten()
}

/// The path of `pid` in the cgroup v2 hierarchy; `None` if it is in none, or there is no such process.
///
/// # Errors
/// If it cannot be told.
pub fn look_for_cgroup(pid: u32) -> io::Result<Option<String>> {
    let Some(text) = present(content(&format!("/proc/{pid}/cgroup")))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned))
}

/// As a survivor of a stop.
pub fn survivor(stat: &Stat) -> Survivor {
    let wait_channel = fs::read_to_string(format!("/proc/{}/wchan", stat.id.pid)).unwrap_or_default();
    Survivor {
        pid: stat.id.pid,
        start_time: stat.id.start_time,
        command: stat.command.clone(),
        state: stat.state.to_string(),
        wait_channel,
        stack: Vec::new(),
    }
}

/// As a process to be shown, without its arguments.
pub fn process(stat: &Stat) -> Process {
    Process {
        id: stat.id,
        parent: stat.parent,
        command: stat.command.clone(),
        arguments: String::new(),
        state: stat.state,
        memory_bytes: stat.resident * rustix::param::page_size() as u64,
        open: Vec::new(),
    }
}

/// The arguments of the process `id` ([`Pinned::arguments`]); none if it has ended.
pub fn arguments(id: ProcessId) -> String {
    Pinned::open(id).map(|process| process.arguments()).unwrap_or_default()
}

/// How many descriptors `pid` has open. Since Linux 6.2 the directory's size says so without a walk.
pub fn open_files(pid: u32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    match fs::metadata(&path).ok()?.len() {
        0 => Some(fs::read_dir(&path).ok()?.count() as u64),
        size => Some(size),
    }
}

/// Proportional memory of `pid` in bytes: what it shares is divided among those that share it.
pub fn proportional_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// Memory of `pid` that cannot be dropped, in bytes: anonymous and shared.
pub fn undroppable_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let counted = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let wanted = matches!(key, "RssAnon" | "RssShmem");
        wanted.then(|| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())?
    };
    Some(text.lines().filter_map(counted).sum::<u64>() * 1024)
}

/// One number after `key` in a file of `KEY NUMBER` lines.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Where the hierarchy is mounted: cgroup v2, or the v1 hierarchy of `controller`.
pub fn cgroup_mount(controller: Option<&str>) -> Option<std::path::PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next()?;
        let options = filesystem.nth(1)?;
        let wanted = match controller {
            None => kind == "cgroup2",
            Some(controller) => kind == "cgroup" && options.split(',').any(|option| option == controller),
        };
        wanted.then(|| Path::new(&unescape(mount.split(' ').nth(4).unwrap_or("/"))).to_owned())
    })
}

/// Whether every cgroup v2 mount is below `/sys`, so that who is kept out of that is kept out of all cgroups.
pub(super) fn cgroups_lie_below_sys() -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts =
        text.lines().filter(|line| line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup2 ")));
    mounts.all(|line| line.split(' ').nth(4).is_some_and(|place| place.starts_with("/sys/")))
}

/// Undoes the octal escapes of `/proc/self/mountinfo`.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012"]
        .iter()
        .zip([" ", "\t", "\n"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
        .replace("\\134", "\\")
}

/// This process's path in the v1 hierarchy of `controller`.
pub fn own_v1_path(controller: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        controllers.split(',').any(|one| one == controller).then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_spaces_is_parsed() {
        let line = b"42 (a) b (c) S 7 1 1 0 -1 0 0 0 0 0 10 20 30 40 20 0 1 0 777 1000 55 18446744073709551615 \
            1 1 2 3 4 0 0 0 0 0 0 0 17 1 0 0";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.id.pid, stat.id.start_time, stat.parent), (42, 777, 7));
        assert_eq!((stat.command.as_str(), stat.state, stat.ticks, stat.resident), ("a) b (c", 'S', 100, 55));
        assert_eq!(stat.end_signal, libc::SIGCHLD);
        assert!(parse_stat(b"garbage").is_none());
    }

    #[test]
    fn memory_of_files_is_not_counted_as_a_process_own() {
        let own = std::process::id();
        let before = undroppable_memory(own).unwrap();
        let kept = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = undroppable_memory(own).unwrap();
        assert!(after >= before + (60 << 20) && kept.len() == 64 << 20, "{before} {after}");
        let resident = stat(own).unwrap().resident * rustix::param::page_size() as u64;
        // The rest is this program's own file, of which it runs.
        assert!(after + (256 << 10) < resident, "{after} of {resident}");
    }

    #[test]
    fn a_process_is_opened_only_under_its_own_start_time() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = identity(child.id()).unwrap();
        assert!(open(id).is_some());
        assert!(open(ProcessId { start_time: id.start_time + 1, ..id }).is_none());
        assert!(descendants(&[std::process::id()]).iter().any(|stat| stat.id == id));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(open(id).is_none());
        assert!(
            open(ProcessId { pid: 0, start_time: 0 }).is_none() && open(ProcessId { pid: 1, start_time: 0 }).is_none()
        );
    }

    #[test]
    fn marked_processes_are_found_by_their_environment() {
        let mut child =
            std::process::Command::new("sleep").arg("60").env("ESTOP_TEST_MARK", "xyzzy-1").spawn().unwrap();
        let wanted = child.id();
        // The environment is there once the program has been executed.
        while fs::read(format!("/proc/{wanted}/environ")).unwrap().is_empty()
            || stat(wanted).unwrap().command != "sleep"
        {
            std::thread::yield_now();
        }
        assert!(marked(b"ESTOP_TEST_MARK=xyzzy-1").iter().any(|stat| stat.id.pid == wanted));
        assert!(marked(b"ESTOP_TEST_MARK=xyzzy-").is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
