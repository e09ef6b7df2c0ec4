//! What the run directory has from Linux: owners and modes, this boot, and who runs inside a job: whoever does may give no orders.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};

use super::RunDir;
use crate::error::Context as _;
use crate::job::ProcessId;
use crate::job::linux::procfs::{self, Stat};
use crate::{Error, Result};

/// Whose a record is.
pub(crate) type Owner = u32;

/// This boot's identifier.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Opens a record. Neither it nor the directory of its job may be a symbolic link: what another user has put there would lead to a
/// job that is not theirs. A pipe does not make anybody wait.
pub(super) fn open_record(path: &Path) -> io::Result<File> {
    let dir = open_job_dir(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(dir, path.file_name().unwrap_or_default(), flags, Mode::empty())?.into())
}

/// Opens the socket at `path` in the directory of a job, to be connected to by its descriptor: neither may be a symbolic link.
pub(crate) fn open_socket(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = openat(open_job_dir(path)?, path.file_name().unwrap_or_default(), flags, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&socket)?.st_mode) {
        FileType::Socket => Ok(socket),
        _ => Err(io::Error::from_raw_os_error(libc::ENOTSOCK)),
    }
}

/// The directory of the job that the file at `path` belongs to.
fn open_job_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path.parent().unwrap_or(Path::new(".")), flags, Mode::empty())?)
}

/// Whose an open record is; `None` if others could have written it.
pub(super) fn owner_of(_file: &File, metadata: &Metadata) -> io::Result<Option<Owner>> {
    Ok((metadata.mode() & 0o022 == 0).then(|| metadata.uid()))
}

/// A directory in which another user could put records is no run directory of ours.
pub(super) fn refuse_strangers(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path).on("look at", path)?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own || metadata.mode() & 0o022 != 0 || !metadata.is_dir() {
        let detail = format!("it belongs to user {} with mode {:o}", metadata.uid(), metadata.mode() & 0o7777);
        return Err(Error::Record { path: path.to_owned(), detail });
    }
    Ok(())
}

/// Whether the process `pid` runs inside a job, this process itself excepted from its own surroundings: an estop that was
/// started inside a job commands the jobs that it has made, and no others.
///
/// `by_lineage` looks at parentage too, which costs a walk through `/proc`: for jobs with neither a cgroup nor a namespace.
///
/// # Errors
/// If it cannot be told: for want of a descriptor or of memory, say.
pub fn is_inside_a_job(pid: u32, by_lineage: bool) -> io::Result<bool> {
    let own = std::process::id();
    // Not by the links in `/proc/PID/ns`, which nobody may read of a process that is another user's, root's for one.
    let depth = procfs::namespace_depth(pid)?;
    if depth.is_none() || depth != procfs::namespace_depth(own)? {
        return Ok(true);
    }
    let job_of = |pid: u32| {
        let path = procfs::look_for_cgroup(pid)?;
        Ok::<_, io::Error>(path.filter(|path| path.split('/').any(|part| part == "estop")))
    };
    let of_peer = job_of(pid)?;
    if of_peer.is_some() && of_peer != job_of(own)? {
        return Ok(true);
    }
    if !by_lineage {
        return Ok(false);
    }
    let below = procfs::below(&[own]);
    match below.fault {
        Some(fault) if !below.found.iter().any(|stat| stat.id.pid == pid) => Err(fault),
        _ => Ok(below.found.iter().any(|stat| stat.id.pid == pid)),
    }
}

/// Whether the process `pid` descends from a guardian in `run_dir`: for jobs with neither a cgroup nor a namespace, which
/// only their lineage shows.
pub fn is_below_a_guardian(run_dir: &RunDir, pid: u32) -> bool {
    let entries = run_dir.jobs().unwrap_or_default().into_iter().filter_map(|dir| dir.entry().ok().flatten());
    let guardians: Vec<ProcessId> = entries.map(|entry| entry.guardian).collect();
    let parent = |stat: &Stat| procfs::stat(stat.parent);
    std::iter::successors(procfs::stat(pid), parent).skip(1).any(|stat| guardians.contains(&stat.id))
}
