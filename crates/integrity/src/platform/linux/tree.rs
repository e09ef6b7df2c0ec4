//! A directory tree, reached by descriptor only: whatever a hostile program plants in it, no symbolic link and no mount
//! leads out of it.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp, linkat, mkdirat, open,
    openat2, readlinkat, renameat_with, statx, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::meta::write_symlink_meta;
use crate::path::StorePath;
use crate::platform::{Listed, NodeKind, Refusal, Stat};
use crate::state::{FileTime, Meta};

/// `openat2` answers EAGAIN when a rename elsewhere kept it from proving that a path stays inside: try again so often.
const RACE_TRIES: usize = 64;

/// Up to so many files are synchronised one by one.
const FEW: usize = 1_000;

/// A step of the slowest kernel clock (100 Hz) and one more, in which a change may get the time of the one before.
pub(crate) const CLOCK_STEP_NANOSECONDS: i128 = 20_000_000;

/// What is open.
pub(crate) use std::os::fd::AsFd as AsNative;

impl From<Statx> for Stat {
    fn from(found: Statx) -> Self {
        let time = |stamp: StatxTimestamp| FileTime { seconds: stamp.tv_sec, nanoseconds: stamp.tv_nsec };
        let kind = match rustix::fs::FileType::from_raw_mode(found.stx_mode.into()) {
            rustix::fs::FileType::RegularFile => NodeKind::File,
            rustix::fs::FileType::Directory => NodeKind::Directory,
            rustix::fs::FileType::Symlink => NodeKind::Symlink,
            _ => NodeKind::Special,
        };
        Self {
            kind,
            inode: found.stx_ino,
            links: found.stx_nlink,
            size: found.stx_size,
            mode: u32::from(found.stx_mode) & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            mtime: time(found.stx_mtime),
            ctime: time(found.stx_ctime),
            device: (found.stx_dev_major, found.stx_dev_minor),
        }
    }
}

/// An open directory and everything below it on the same filesystem.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    device: (u32, u32),
}

impl Tree {
    /// Opens the directory `path`, which may not itself be a symbolic link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty())?;
        let device = stat_of(&root)?.device;
        Ok(Self { root, path: path.to_owned(), device })
    }

    /// The path it was opened by: for messages only.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The filesystem it is on.
    pub(crate) fn device(&self) -> (u32, u32) {
        self.device
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        for _ in 1..RACE_TRIES {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Ok(openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// Opens a directory inside; the empty path is the root.
    pub(crate) fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
    }

    /// Opens a regular file inside for reading, never waiting for a FIFO that was put in its place.
    pub(crate) fn open_file(&self, path: &StorePath) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(File::from(self.open_beneath(path.as_bytes(), flags)?))
    }

    fn open_parent<'a>(&self, path: &'a StorePath) -> io::Result<(OwnedFd, &'a [u8])> {
        let (directory, name) = path.split();
        Ok((self.open_beneath(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)?, name))
    }

    /// What is at `path`; `None` if nothing is.
    pub(crate) fn stat(&self, path: &StorePath) -> io::Result<Option<Stat>> {
        let found = self.open_parent(path).and_then(|(parent, name)| stat_name(&parent, name));
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How the tree itself spells `path`; `None` if there is no such name.
    pub(crate) fn spelling(&self, path: &StorePath) -> io::Result<Option<StorePath>> {
        Ok(self.stat(path)?.map(|_| path.clone()))
    }

    /// What is in the directory `path`, in no particular order. Names that vanish meanwhile are left out.
    pub(crate) fn list(&self, path: &[u8]) -> io::Result<Vec<Listed>> {
        let dir = self.open_dir(path)?;
        let mut buffer: Vec<MaybeUninit<u8>> = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut names = RawDir::new(&dir, &mut buffer);
        let mut listed = Vec::new();
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match look_at(&dir, name) {
                Ok(found) => listed.push(found),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    /// Makes a directory that only its owner can use yet.
    pub(crate) fn make_dir(&self, path: &StorePath) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        Ok(mkdirat(&parent, name, Mode::RWXU)?)
    }

    /// Makes a symbolic link, with the owner and time of `meta`.
    pub(crate) fn make_symlink(&self, target: &[u8], meta: &Meta, path: &StorePath) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        symlinkat(target, &parent, name)?;
        write_symlink_meta(&parent, name, meta)
    }

    /// Makes `path` another name of the file `existing`.
    pub(crate) fn make_link(&self, existing: &StorePath, path: &StorePath) -> io::Result<()> {
        let (from, old) = self.open_parent(existing)?;
        let (to, new) = self.open_parent(path)?;
        Ok(linkat(&from, old, &to, new, AtFlags::empty())?)
    }

    /// Makes a file that only its owner can use yet, and opens it for writing.
    pub(crate) fn make_file(&self, path: &StorePath) -> io::Result<File> {
        let (parent, name) = self.open_parent(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Moves `from` in `source` to `to` in this tree, over what is there unless `keep` says not to.
    pub(crate) fn take_from(&self, source: &Tree, from: &StorePath, to: &StorePath, keep: bool) -> io::Result<()> {
        let (source, old) = source.open_parent(from)?;
        let (parent, new) = self.open_parent(to)?;
        let flags = if keep { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        Ok(renameat_with(&source, old, &parent, new, flags)?)
    }

    /// Removes a name that is no directory, or (`directory`) an empty directory.
    pub(crate) fn remove(&self, path: &StorePath, directory: bool) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(unlinkat(&parent, name, flags)?)
    }

    /// Opens a file or directory for changing its metadata, even where its mode forbids reading it.
    pub(crate) fn open_for_meta(&self, path: &StorePath) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.open_beneath(path.as_bytes(), flags) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.make_usable(path)?;
                self.open_beneath(path.as_bytes(), flags)
            }
            other => other,
        }
    }

    /// Opens a directory of which `meta` is known to its owner, if its mode forbids changing it.
    pub(crate) fn let_in(&self, path: &StorePath, meta: &Meta) -> io::Result<()> {
        if meta.mode & 0o300 == 0o300 { Ok(()) } else { self.make_usable(path) }
    }

    /// Whether `stat` is that of something on another filesystem.
    pub(crate) fn is_elsewhere(&self, stat: &Stat) -> bool {
        stat.device != self.device
    }

    /// Gives the owner every permission on a file or directory.
    fn make_usable(&self, path: &StorePath) -> io::Result<()> {
        let handle = self.open_beneath(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = stat_of(&handle)?;
        if stat.kind == NodeKind::Symlink {
            return Ok(());
        }
        // A descriptor opened for its path only has no fchmod; its name in /proc has.
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        Ok(rustix::fs::chmod(name, Mode::from_raw_mode(stat.mode | 0o700))?)
    }

    /// Makes what was written to these files and directories (by their bytes; empty: the root) durable. If they are many, everything
    /// on the filesystem is: that is faster, unless other programs have written much.
    pub(crate) fn sync(&self, paths: &BTreeSet<&[u8]>) -> io::Result<()> {
        if paths.len() > FEW {
            return Ok(syncfs(&self.root)?);
        }
        for path in paths {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
            match self.open_beneath(path, flags) {
                Ok(opened) => rustix::fs::fsync(&opened)?,
                // A symbolic link is made durable with its directory; what is gone needs no more.
                Err(error) if is_absent(&error) => {}
                // Its owner may not read it: only the whole filesystem can be synchronised then.
                Err(_) => return Ok(syncfs(&self.root)?),
            }
        }
        Ok(())
    }
}

/// What an open file is now.
pub(crate) fn stat_of(file: &impl AsNative) -> io::Result<Stat> {
    Ok(statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?.into())
}

impl Stat {
    /// What the open file is now.
    pub(crate) fn of(file: &impl AsNative) -> io::Result<Self> {
        stat_of(file)
    }
}

fn stat_name<N: rustix::path::Arg>(dir: &OwnedFd, name: N) -> io::Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(statx(dir, name, flags, StatxFlags::BASIC_STATS)?.into())
}

fn look_at(dir: &OwnedFd, name: &CStr) -> io::Result<Listed> {
    let stat = stat_name(dir, name)?;
    let target = if stat.kind == NodeKind::Symlink {
        match readlinkat(dir, name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            // Something else took its place meanwhile: to this look, it is gone.
            Err(Errno::INVAL) => return Err(Errno::NOENT.into()),
            Err(errno) => return Err(errno.into()),
        }
    } else {
        Vec::new()
    };
    Ok(Listed { name: name.to_bytes().to_vec(), stat, target })
}

fn is_absent(error: &io::Error) -> bool {
    refusal(error) == Refusal::Gone
}

/// Why a name was not opened.
pub(crate) fn refusal(error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Refusal::Gone,
        // A mount of the same filesystem: the name belongs to another tree.
        Some(Errno::XDEV) => Refusal::Mount,
        Some(Errno::NAMETOOLONG) => Refusal::TooLong,
        _ => Refusal::Other,
    }
}

/// The clock that the kernel stamps files with, in its steps.
pub(crate) fn clock() -> FileTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    FileTime { seconds: now.tv_sec, nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

/// The filesystem that the directory `path` is on.
pub(crate) fn device_of(path: &Path) -> io::Result<(u32, u32)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(stat_of(&open(path, flags, Mode::empty())?)?.device)
}
