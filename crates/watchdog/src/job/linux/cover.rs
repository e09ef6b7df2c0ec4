//! What a workload must not see or write: covered directories, and Landlock.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, Scope};
use rustix::fs::{AtFlags, CWD, Mode, mkdir};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, mount_change, mount_remount,
    move_mount, open_tree,
};

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;

/// Makes the mounts of this (new) mount namespace its own: changes outside still come in, changes inside stay inside.
///
/// # Errors
/// The kernel's answer.
pub(super) fn detach_mounts() -> Result<(), Errno> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Shows the processes of this PID namespace in `/proc`.
///
/// # Errors
/// The kernel's answer: it refuses in containers that hide parts of `/proc`.
pub(super) fn mount_proc() -> Result<(), Errno> {
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None::<&std::ffi::CStr>)
}

/// Mounts in this (new) mount namespace what [`cover`] mounts, to see whether it may.
///
/// # Errors
/// The kernel's answer.
pub(super) fn probe() -> Result<(), Errno> {
    detach_mounts()?;
    mount_empty(Path::new("/"))
}

fn mount_empty(path: &Path) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", path, "tmpfs", flags, Some(c"mode=0755,size=64k"))
}

/// Puts an empty read-only directory over each directory of `paths`, and `/dev/null` over each file. `keep`, if it lies in one of them, stays visible, read-only.
///
/// # Errors
/// The kernel's answer.
pub(super) fn cover(paths: &[PathBuf], keep: Option<&Path>) -> Result<(), Errno> {
    let kept = keep.map(clone_mount).transpose()?;
    for file in paths.iter().filter(|path| path.is_file()) {
        mount_bind("/dev/null", file)?;
    }
    for path in outermost(paths) {
        mount_empty(path)?;
        if let (Some(keep), Some(tree)) = (keep, &kept)
            && keep.starts_with(path)
        {
            make_dirs(path, keep)?;
            move_mount(tree.as_fd(), c"", CWD, keep, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        mount_remount(path, MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"")?;
    }
    Ok(())
}

/// A read-only clone of the mount at `path`, attached nowhere.
fn clone_mount(path: &Path) -> Result<OwnedFd, Errno> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the descriptor is open, the path is empty as AT_EMPTY_PATH wants it, and the structure lives until the call returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            AtFlags::EMPTY_PATH.bits(),
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if answer == 0 { Ok(tree) } else { Err(last_errno()) }
}

/// The paths that lie in none of the others: covering those covers all.
fn outermost(paths: &[PathBuf]) -> Vec<&Path> {
    let mut outermost: Vec<&Path> = Vec::new();
    for path in paths.iter().filter(|path| path.is_dir()) {
        if !paths.iter().any(|other| other != path && path.starts_with(other)) && !outermost.contains(&path.as_path()) {
            outermost.push(path);
        }
    }
    outermost
}

fn make_dirs(base: &Path, path: &Path) -> Result<(), Errno> {
    let mut at = base.to_owned();
    for part in path.strip_prefix(base).unwrap_or(Path::new("")) {
        at.push(part);
        match mkdir(&at, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The Landlock version of the kernel; 0 if there is none.
pub(super) fn landlock_version() -> i32 {
    const VERSION_FLAG: u32 = 1;
    // SAFETY: with this flag, a null attribute and size 0 the call only answers a number.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION_FLAG) };
    i32::try_from(answer).map_or(0, |version| version.max(0))
}

/// Forbids this process and its children for ever to trace processes outside and to look into them by `/proc`. With `signals`,
/// to signal them, their guardian above all (since Landlock version 6). With `writing`, to write below `/sys`, so that they cannot
/// leave their cgroup or reach that of their guardian, and to mount and unmount, so that what is covered stays covered.
///
/// Landlock allows; it cannot except. So everything in the root directory but `sys` is allowed, and the root directory
/// itself and new mounts are not.
///
/// # Errors
/// Why it could not be applied.
pub(super) fn keep_in(writing: bool, signals: bool) -> Result<(), String> {
    restrict(writing, signals).map_err(|error| error.to_string())
}

fn restrict(writing: bool, signals: bool) -> Result<(), Box<dyn std::error::Error>> {
    let access = AccessFs::WriteFile | AccessFs::MakeDir | AccessFs::RemoveDir | AccessFs::Refer;
    let mut wanted = Ruleset::default();
    if writing {
        wanted = wanted.handle_access(access)?;
    }
    if signals {
        wanted = wanted.scope(Scope::Signal)?;
    }
    let mut ruleset = wanted.create()?;
    let entries = if writing { Some(std::fs::read_dir("/")?) } else { None };
    for entry in entries.into_iter().flatten() {
        let entry = entry?;
        // What a link leads to is allowed by its own place, or is not to be.
        if entry.file_name() == "sys" || entry.file_type()?.is_symlink() {
            continue;
        }
        // What cannot be opened cannot be written either.
        let Ok(fd) = PathFd::new(entry.path()) else { continue };
        let allowed = if entry.path().is_dir() { access } else { AccessFs::WriteFile.into() };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, allowed))?;
    }
    ruleset.restrict_self()?;
    Ok(())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
