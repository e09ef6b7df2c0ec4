//! Files and what stands beside their content.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Takes `size` bytes of the disk for `file`.
///
/// # Errors
/// If there is no room for them.
pub(crate) fn reserve(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        // Where blocks cannot be asked for, they are written.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            io::copy(&mut io::Read::take(io::repeat(0xe5), size), &mut &*file).map(drop)
        }
        other => Ok(other?),
    }
}

/// Gives `file` to the owner of the directory `parent`.
///
/// # Errors
/// The system's answer.
pub(crate) fn give_like(file: &File, parent: &Path) -> io::Result<()> {
    let owner = std::fs::metadata(parent)?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// The filesystem that `path`, or what is there of it, lies on.
pub(crate) fn filesystem(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|ancestor| std::fs::metadata(ancestor).ok()).map(|metadata| metadata.dev())
}

/// The type of the filesystem that `path` is on, as the kernel names it.
pub(crate) fn filesystem_type(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() > 2);
    // Of two mounts at one place the later one is seen.
    let nearest = fields.filter(|fields| path.starts_with(fields[1])).max_by_key(|fields| fields[1].len());
    nearest.map_or_else(|| "an unknown filesystem".to_owned(), |fields| fields[2].to_owned())
}

/// Makes a symbolic link.
///
/// # Errors
/// The system's answer.
pub(crate) fn link(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// What a snapshot keeps of the file at `path` beside its content, as text.
///
/// # Errors
/// If it cannot be looked at.
pub(crate) fn attributes(path: &Path) -> io::Result<String> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(if metadata.is_symlink() {
        String::new()
    } else {
        format!("{:o} {}.{:09}", metadata.mode(), metadata.mtime(), metadata.mtime_nsec())
    })
}
