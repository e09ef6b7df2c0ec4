//! Looking at the processes of a job.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::super::lineage::Seen;
use super::super::words::Raw;
use super::{Clocks, TICKS};
use crate::job::linux::{processes_of_group, procfs};
use crate::job::{Exit, ProcessId};
use crate::registry::{Entry, JobDir};

/// How much of a process's arguments is read, in bytes: masking comes before shortening.
const READ_LIMIT: usize = 4 * 1024;

/// The processes of the job, the dead ones included that were not reaped. `None` if they cannot be told.
pub(in crate::history) fn look(_dir: &JobDir, entry: &Entry) -> Option<Vec<Seen>> {
    let handle = &entry.handle;
    let alive = |id: &ProcessId| procfs::identity(id.pid) == Some(*id);
    let stats = match (&handle.cgroup, handle.init) {
        (Some(group), _) => {
            if fs::metadata(&group.path).ok()?.ino() != group.inode {
                return None;
            }
            processes_of_group(&group.path).into_iter().filter_map(procfs::stat).collect()
        }
        (None, Some(init)) if alive(&init) => procfs::offspring(init.pid),
        (None, None) if alive(&entry.guardian) => procfs::offspring_of_guardian(entry.guardian.pid),
        _ => return None,
    };
    let clocks = Clocks::read();
    let seen = stats.iter().filter(|stat| Some(stat.id) != handle.init);
    Some(seen.map(|stat| seen_of(stat, &clocks)).collect())
}

fn seen_of(stat: &procfs::Stat, clocks: &Clocks) -> Seen {
    let status = fs::read_to_string(format!("/proc/{}/status", stat.id.pid)).unwrap_or_default();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next());
    let exit = stat.is_dead().then(|| super::super::lineage::answer(stat.status));
    Seen {
        id: stat.id,
        parent: stat.parent,
        command: stat.command.clone(),
        state: stat.state,
        user: line("Uid:").and_then(|number| number.parse().ok()),
        started: clocks.started(stat.id.start_time),
        cpu: Some(Duration::from_millis(stat.own_ticks.saturating_mul(1000 / TICKS))),
        memory: stat.resident * rustix::param::page_size() as u64,
        memory_peak: line("VmHWM:").and_then(|number| number.parse::<u64>().ok()).map(|kibibytes| kibibytes * 1024),
        dead: stat.is_dead(),
        exit: exit.filter(|exit: &Exit| !hides_status(stat.id.pid, exit)),
    }
}

/// Whether a code of 0 may be what is shown to those who must not know.
fn hides_status(pid: u32, exit: &Exit) -> bool {
    // The kernel shows the code to those who may trace the process; who may, can read its file descriptors' directory.
    exit.code == Some(0) && fs::read_dir(format!("/proc/{pid}/fd")).is_err()
}

/// What the process `id` is called with.
pub(in crate::history) fn words(id: ProcessId) -> Option<Raw> {
    use std::io::Read as _;
    let mut arguments = Vec::new();
    let file = fs::File::open(format!("/proc/{}/cmdline", id.pid)).ok()?;
    file.take(READ_LIMIT as u64).read_to_end(&mut arguments).ok()?;
    // Looked up after they were read: if it is the same process now, they are its own.
    let stat = procfs::stat(id.pid).filter(|stat| stat.id.start_time.abs_diff(id.start_time) <= TICKS)?;
    // One that has ended has none any more.
    let cut = arguments.len() == READ_LIMIT;
    (!stat.is_dead() && !arguments.is_empty()).then_some(Raw { command: stat.command, arguments, cut })
}

/// The name of the user `number`, as this host's own list has it.
pub fn owner_of(number: u32) -> Option<String> {
    let users = fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?);
        (uid.parse() == Ok(number)).then(|| name.to_owned())
    })
}
