//! Who is in a job, who is below it, and who has left it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, pidfd_send_signal, waitid};

use super::procfs::{self, Seen, Stat};
use super::{Cgroup, LinuxJob, ready};
use crate::job::{Process, ProcessId};

/// How often a sweep for escapees is repeated while it finds some.
const SWEEPS: u32 = 20;

impl LinuxJob {
    /// The processes below this one, or below the job's init.
    pub(super) fn descendants(&self) -> Vec<Stat> {
        self.below().found
    }

    /// The processes below this one, or below the job's init, and what kept the look from seeing one of them.
    pub(super) fn below(&self) -> Seen {
        // A process that was reaped has given its PID away: what is below that PID then is not ours.
        match self.child.as_ref().filter(|child| !child.reaped) {
            Some(child) if self.namespaces.pid => procfs::below(&[child.id.pid]),
            None if self.namespaces.pid => Seen::default(),
            // Where the job has no cgroup, all children of the guardian are the job's but its own copies.
            _ if self.cgroup.is_none() => procfs::guarded_below(&[self.holder], self.holder),
            Some(child) => {
                let mut seen = procfs::below(&[child.id.pid]);
                seen.found.extend(procfs::stat(child.id.pid).filter(|stat| stat.id == child.id && !stat.is_dead()));
                seen
            }
            None => Seen::default(),
        }
    }

    pub(super) fn members(&self) -> Vec<Stat> {
        match &self.cgroup {
            Some(cgroup) => self.inside(cgroup).filter_map(procfs::stat).collect(),
            None => self.descendants(),
        }
    }

    /// The processes in its cgroup, without its init, which is estop's.
    fn inside(&self, cgroup: &Cgroup) -> impl Iterator<Item = u32> {
        let init = self.child.as_ref().filter(|_| self.namespaces.pid).map(|child| child.id.pid);
        cgroup.processes().into_iter().filter(move |pid| Some(*pid) != init)
    }

    /// At most `limit` of its processes, and how many more there are.
    pub(super) fn listed(&self, limit: usize) -> (Vec<Process>, u64) {
        let Some(cgroup) = &self.cgroup else {
            let members = self.members();
            let listed = members.iter().take(limit).map(procfs::process).collect();
            return (listed, members.len().saturating_sub(limit) as u64);
        };
        // A look at each of thousands would take longer than there is time.
        let all: Vec<u32> = self.inside(cgroup).collect();
        let listed = all.iter().take(limit).filter_map(|pid| procfs::stat(*pid));
        (listed.map(|stat| procfs::process(&stat)).collect(), all.len().saturating_sub(limit) as u64)
    }

    /// What was found outside the job by lineage or marker, and what kept the look from seeing one of them.
    fn escapees(&self) -> Seen {
        let members: Vec<u32> = self.cgroup.as_ref().map(Cgroup::processes).unwrap_or_default();
        let (mut seen, marked) = (self.below(), procfs::bearing(&self.marker));
        seen.fault = seen.fault.or(marked.fault);
        seen.found.extend(marked.found);
        seen.found.retain(|stat| !members.contains(&stat.id.pid));
        seen.found.sort_by_key(|stat| stat.id.pid);
        seen.found.dedup_by_key(|stat| stat.id.pid);
        seen
    }

    /// Ends what left the job, until a look finds nothing.
    pub(super) fn sweep(&self) -> Seen {
        let mut seen = self.escapees();
        for _ in 0..SWEEPS {
            if seen.found.is_empty() {
                break;
            }
            for stat in &seen.found {
                signal_exactly(stat.id, Signal::KILL);
            }
            ready::pause(Duration::from_millis(2));
            seen = self.escapees();
        }
        seen
    }
}

/// The kernel's own list of the children of a reaper of orphans, which is open before anything is to be killed.
#[derive(Debug)]
pub(super) struct Children(OwnedFd);

impl Children {
    /// Those of this process, which has one thread. `None` from a kernel that keeps no such list for others.
    pub(super) fn open() -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open("/proc/thread-self/children", flags, Mode::empty()).ok().map(Self)
    }

    /// Kills them all but the copies of this process. What is below them is among them as soon as they have ended. Looks up no path,
    /// makes no descriptor and allocates nothing.
    pub(super) fn kill(&self) {
        let mut chunk = [0; 1024];
        let (mut offset, mut pid) = (0, 0_i32);
        while let Ok(length @ 1..) = rustix::io::pread(&self.0, &mut chunk, offset) {
            offset += length as u64;
            // A space behind each: one that is cut off goes on in the next chunk.
            for byte in &chunk[..length] {
                if byte.is_ascii_digit() {
                    pid = pid.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
                } else {
                    kill_child(std::mem::take(&mut pid));
                }
            }
        }
    }
}

/// Kills a child of this process that is no copy of it: those, the kernel does not count as children here. Nobody else is given
/// its PID before it is reaped.
fn kill_child(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    let look = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
    if matches!(look(), Ok(None)) {
        // Refused for a program of another user's, as any other signal would be.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Signals the process `id`, and no other that was given its PID.
pub(super) fn signal_exactly(id: ProcessId, signal: Signal) {
    if let Some(fd) = procfs::open(id) {
        // It may have ended meanwhile, which is what was wanted.
        let _ = pidfd_send_signal(&fd, signal);
    }
}
