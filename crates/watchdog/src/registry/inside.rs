//! Who runs inside a job: whoever does may give no orders.

use super::RunDir;
use crate::job::ProcessId;
use crate::job::linux::procfs::{self, Stat};

/// Whether the process `pid` runs inside a job, this process itself excepted from its own surroundings: an estop that was
/// started inside a job commands the jobs that it has made, and no others.
///
/// `by_lineage` looks at parentage too, which costs a walk through `/proc`: for jobs with neither a cgroup nor a namespace.
pub fn is_inside_a_job(pid: u32, by_lineage: bool) -> bool {
    let own = std::process::id();
    // Not by the links in `/proc/PID/ns`, which nobody may read of a process that is another user's, root's for one.
    let depth = procfs::namespace_depth;
    if depth(pid).is_none() || depth(pid) != depth(own) {
        return true;
    }
    let job_of = |pid: u32| procfs::cgroup(pid).filter(|path| path.split('/').any(|part| part == "estop"));
    let of_peer = job_of(pid);
    if of_peer.is_some() && of_peer != job_of(own) {
        return true;
    }
    by_lineage && procfs::descendants(&[own]).iter().any(|stat| stat.id.pid == pid)
}

/// Whether the process `pid` descends from a guardian in `run_dir`: for jobs with neither a cgroup nor a namespace, which
/// only their lineage shows.
pub fn is_below_a_guardian(run_dir: &RunDir, pid: u32) -> bool {
    let entries = run_dir.jobs().unwrap_or_default().into_iter().filter_map(|dir| dir.entry().ok().flatten());
    let guardians: Vec<ProcessId> = entries.map(|entry| entry.guardian).collect();
    let parent = |stat: &Stat| procfs::stat(stat.parent);
    std::iter::successors(procfs::stat(pid), parent).skip(1).any(|stat| guardians.contains(&stat.id))
}
