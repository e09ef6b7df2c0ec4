//! A directory tree, reached by handle only: whatever a hostile program plants in it, no link leads out of it. Every name is opened
//! relative to its directory, one after the other, and what stands for another name is not entered. So paths have no longest length
//! but that of each name, and no name is special (`CON`, `a.`).

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{AsRawHandle as _, OwnedHandle};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_ALL_INFORMATION, FILE_DISPOSITION_DELETE, FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE,
    FILE_DISPOSITION_POSIX_SEMANTICS, FILE_INFORMATION_CLASS, FILE_NAMES_INFORMATION,
    FILE_RENAME_IGNORE_READONLY_ATTRIBUTE, FILE_RENAME_INFORMATION, FILE_RENAME_POSIX_SEMANTICS,
    FILE_RENAME_REPLACE_IF_EXISTS, FileAllInformation, FileDispositionInformation, FileDispositionInformationEx,
    FileLinkInformation, FileNamesInformation, FileRenameInformation, FileRenameInformationEx, NtQueryDirectoryFile,
};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BUFFER_OVERFLOW, ERROR_DELETE_PENDING, ERROR_DIRECTORY, ERROR_FILE_NOT_FOUND,
    ERROR_FILENAME_EXCED_RANGE, ERROR_PATH_NOT_FOUND, ERROR_SHARING_VIOLATION, ERROR_STOPPED_ON_SYMLINK,
    STATUS_NO_MORE_FILES, STATUS_NO_SUCH_FILE,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, DELETE, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_READONLY,
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_DELETE_CHILD, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES, FILE_READ_DATA, FILE_READ_EA,
    FILE_TRAVERSE, FILE_WRITE_ATTRIBUTES, FILE_WRITE_DATA, GetFileInformationByHandle, READ_CONTROL, WRITE_DAC,
    WRITE_OWNER,
};

use super::meta::{KEPT, moment, write_basic};
use super::names::{from_units, to_units};
use super::native::{Failed, Wanted, ask, bytes_of, check, nothing, number, open_at, place, tell, units};
use super::owner::TO_USE;
use super::privileges::may_restore;
use super::{reparse, security};
use crate::path::StorePath;
use crate::platform::{Listed, NodeKind, Refusal, Stat, same_name};
use crate::state::{FileTime, Meta};

/// What is open.
pub(crate) use std::os::windows::io::AsHandle as AsNative;

/// A step of the clock that stamps files (1/64 s) and one more, in which a change may get the time of the one before.
pub(crate) const CLOCK_STEP_NANOSECONDS: i128 = 32_000_000;

/// 100 ns from 1601 to 1970.
const EPOCH_TICKS: i64 = 116_444_736_000_000_000;
const TICKS_PER_SECOND: i64 = 10_000_000;
/// The room for the names that the system tells at once.
const NAMES_ROOM: usize = 64 * 1024;
/// How long a name that somebody else has open is tried again: indexers and virus scanners are quick.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// To read the metadata of something.
const TO_LOOK: u32 = FILE_READ_ATTRIBUTES;
/// To read all of something: its content or names, its streams, owner and rules.
const TO_READ: u32 = FILE_READ_DATA | FILE_READ_ATTRIBUTES | FILE_READ_EA | READ_CONTROL;
/// To change what stands beside the content.
const TO_DRESS: u32 = FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES | READ_CONTROL | WRITE_DAC;

/// An open directory and everything below it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedHandle,
    path: PathBuf,
    volume: u32,
    /// Somebody kept a name for longer than was waited for: the next ones are not waited for that long.
    impatient: AtomicBool,
}

impl Tree {
    /// Opens the directory `path`, which may not itself be a link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // From here on, where this user may.
        may_restore();
        let root = open_directory(path, FILE_LIST_DIRECTORY | FILE_TRAVERSE | FILE_READ_ATTRIBUTES)?;
        refuse_link(&root)?;
        let volume = volume_of(&root)?;
        Ok(Self { root: root.into(), path: path.to_owned(), volume, impatient: AtomicBool::new(false) })
    }

    /// The path it was opened by: for messages only.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The volume it is on.
    pub(crate) fn device(&self) -> u32 {
        self.volume
    }

    /// Never: no name leads to another volume but a link, and those are not followed.
    pub(crate) fn is_elsewhere(&self, _stat: &Stat) -> bool {
        false
    }

    /// Opens `path` (empty: the root) from directory to directory; its last name itself, if that is a link.
    fn open_beneath(&self, path: &[u8], access: u32, wanted: Wanted) -> io::Result<OwnedHandle> {
        if path.is_empty() {
            return open_at(self.root.as_handle(), &[], access, wanted);
        }
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        let mut inside: Option<OwnedHandle> = None;
        while let Some(part) = parts.next() {
            let dir = inside.as_ref().unwrap_or(&self.root).as_handle();
            if parts.peek().is_none() {
                return open_at(dir, &to_units(part), access, wanted);
            }
            inside = Some(enter(dir, part)?);
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Opens a directory inside; the empty path is the root.
    pub(crate) fn open_dir(&self, path: &[u8]) -> io::Result<OwnedHandle> {
        let dir = self.open_beneath(path, TO_READ | FILE_TRAVERSE, Wanted::Directory)?;
        refuse_link(&dir)?;
        Ok(dir)
    }

    /// Opens a file inside for reading.
    pub(crate) fn open_file(&self, path: &StorePath) -> io::Result<File> {
        Ok(File::from(self.open_beneath(path.as_bytes(), TO_READ, Wanted::Any)?))
    }

    /// Opens the directory of `path`, and gives the last name.
    fn open_parent(&self, path: &StorePath) -> io::Result<(OwnedHandle, Vec<u16>)> {
        let (directory, name) = path.split();
        let dir = self.open_beneath(directory, FILE_TRAVERSE | FILE_READ_ATTRIBUTES, Wanted::Directory)?;
        refuse_link(&dir)?;
        Ok((dir, to_units(name)))
    }

    fn make(&self, path: &StorePath, access: u32, wanted: Wanted) -> io::Result<OwnedHandle> {
        let (parent, name) = self.open_parent(path)?;
        open_at(parent.as_handle(), &name, access, wanted)
    }

    /// What is at `path`; `None` if nothing is.
    pub(crate) fn stat(&self, path: &StorePath) -> io::Result<Option<Stat>> {
        match self.open_beneath(path.as_bytes(), TO_LOOK, Wanted::Any).and_then(|file| Stat::of(&file)) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if refusal(&error) == Refusal::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How the tree itself spells `path`; `None` if there is no such name.
    pub(crate) fn spelling(&self, path: &StorePath) -> io::Result<Option<StorePath>> {
        let mut spelled: Option<StorePath> = None;
        for part in path.as_bytes().split(|byte| *byte == b'/') {
            let directory = spelled.as_ref().map_or(&[][..], StorePath::as_bytes);
            let names = names_in(&self.open_dir(directory)?)?;
            let exact = names.iter().find(|name| *name == part);
            match exact.or_else(|| names.iter().find(|name| same_name(name, part))) {
                Some(name) => spelled = Some(StorePath::child(directory, name)),
                None => return Ok(None),
            }
        }
        Ok(spelled)
    }

    /// What is in the directory `path`, in no particular order. Names that vanish meanwhile are left out.
    ///
    /// Each is opened: what the directory itself says of a file may be old, for one with several names or one that is open.
    pub(crate) fn list(&self, path: &[u8]) -> io::Result<Vec<Listed>> {
        let dir = self.open_dir(path)?;
        let mut listed = Vec::new();
        for name in names_in(&dir)? {
            match look_at(&dir, name) {
                Ok(found) => listed.push(found),
                Err(error) if refusal(&error) == Refusal::Gone => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    /// Makes a directory that only its owner can use yet.
    pub(crate) fn make_dir(&self, path: &StorePath) -> io::Result<()> {
        self.make(path, TO_LOOK, Wanted::NewDirectory).map(drop)
    }

    /// Makes a link: an empty file or directory that gets the whole of it, and the time of `meta`.
    pub(crate) fn make_symlink(&self, target: &[u8], meta: &Meta, path: &StorePath) -> io::Result<()> {
        let is_directory = meta.mode & FILE_ATTRIBUTE_DIRECTORY != 0;
        let wanted = if is_directory { Wanted::NewDirectory } else { Wanted::NewFile };
        let link = self.make(path, FILE_GENERIC_WRITE | FILE_READ_ATTRIBUTES, wanted)?;
        let made = reparse::write(&link, target).and_then(|()| write_basic(&link, meta.mode, meta.mtime, None));
        if made.is_err() {
            drop(link);
            // The failure that matters is the first one.
            let _ = self.remove(path, is_directory);
        }
        made
    }

    /// Makes `path` another name of the file `existing`.
    pub(crate) fn make_link(&self, existing: &StorePath, path: &StorePath) -> io::Result<()> {
        let file = self.open_beneath(existing.as_bytes(), FILE_WRITE_ATTRIBUTES, Wanted::Any)?;
        let (parent, name) = self.open_parent(path)?;
        Ok(tell(&file, FileLinkInformation, &new_name(&parent, &name, 0))?)
    }

    /// Makes a file that only its owner can use yet, and opens it for writing.
    pub(crate) fn make_file(&self, path: &StorePath) -> io::Result<File> {
        let owner = if may_restore() { WRITE_OWNER } else { 0 };
        let access = FILE_GENERIC_READ | FILE_GENERIC_WRITE | WRITE_DAC | DELETE | owner;
        Ok(File::from(self.make(path, access, Wanted::NewFile)?))
    }

    /// Moves `from` in `source` to `to` in this tree, over what is there unless `keep` says not to. While somebody else has one of them
    /// open, it is tried again for a moment.
    pub(crate) fn take_from(&self, source: &Tree, from: &StorePath, to: &StorePath, keep: bool) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            match self.try_to_take_from(source, from, to, keep) {
                Err(error) if is_held(&error) => {
                    if begun.elapsed() >= PATIENCE || self.impatient.load(Ordering::Relaxed) {
                        self.impatient.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    fn try_to_take_from(&self, source: &Tree, from: &StorePath, to: &StorePath, keep: bool) -> io::Result<()> {
        let file = source.open_beneath(from.as_bytes(), DELETE | FILE_READ_ATTRIBUTES, Wanted::Any)?;
        let (parent, name) = self.open_parent(to)?;
        let replace = if keep { 0 } else { FILE_RENAME_REPLACE_IF_EXISTS };
        let flags = replace | FILE_RENAME_POSIX_SEMANTICS | FILE_RENAME_IGNORE_READONLY_ATTRIBUTE;
        match tell(&file, FileRenameInformationEx, &new_name(&parent, &name, flags)) {
            Err(failed) if failed.is_unsupported() => {}
            other => return Ok(other?),
        }
        // An older system, or a filesystem without such a rename: it refuses to replace what is read-only.
        if !keep {
            make_writable(&parent, &name)?;
        }
        Ok(tell(&file, FileRenameInformation, &new_name(&parent, &name, replace))?)
    }

    /// Removes a name that is no directory, or (`directory`) an empty directory.
    pub(crate) fn remove(&self, path: &StorePath, directory: bool) -> io::Result<()> {
        let wanted = if directory { Wanted::Directory } else { Wanted::Any };
        let (parent, name) = self.open_parent(path)?;
        let file = open_at(parent.as_handle(), &name, DELETE | FILE_READ_ATTRIBUTES, wanted)?;
        let flags =
            FILE_DISPOSITION_DELETE | FILE_DISPOSITION_POSIX_SEMANTICS | FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE;
        match tell(&file, FileDispositionInformationEx, &flags.to_le_bytes()) {
            Err(failed) if failed.is_unsupported() => {}
            other => return Ok(other?),
        }
        make_writable(&parent, &name)?;
        Ok(tell(&file, FileDispositionInformation, &[1])?)
    }

    /// Opens a file or directory for changing its metadata, also where its rules forbid that to its owner.
    pub(crate) fn open_for_meta(&self, path: &StorePath) -> io::Result<OwnedHandle> {
        let access = if may_restore() { TO_DRESS | WRITE_OWNER } else { TO_DRESS };
        match self.open_beneath(path.as_bytes(), access, Wanted::Any) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.make_usable(path)?;
                self.open_beneath(path.as_bytes(), access, Wanted::Any)
            }
            other => other,
        }
    }

    /// Opens a directory to its owner, if its rules forbid changing it.
    pub(crate) fn let_in(&self, path: &StorePath, _meta: &Meta) -> io::Result<()> {
        match self.open_beneath(path.as_bytes(), TO_USE | FILE_DELETE_CHILD, Wanted::Directory) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.make_usable(path),
            other => other.map(drop),
        }
    }

    /// Lets this user do everything with a file or directory, which is that user's.
    fn make_usable(&self, path: &StorePath) -> io::Result<()> {
        security::let_owner_in(&self.open_beneath(path.as_bytes(), WRITE_DAC, Wanted::Any)?)
    }

    /// Makes the names in these directories (by their bytes; empty: the root) durable. Files among them are so since they were written.
    pub(crate) fn sync(&self, paths: &BTreeSet<&[u8]>) -> io::Result<()> {
        for path in paths {
            match self.open_beneath(path, FILE_WRITE_DATA, Wanted::Directory) {
                Ok(directory) => File::from(directory).sync_all()?,
                // A file, or gone, or closed to this user: then what was done there was made durable by who could.
                Err(error) if refusal(&error) == Refusal::Gone => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Enters a directory, and nothing that stands for another name.
fn enter(dir: std::os::windows::io::BorrowedHandle<'_>, name: &[u8]) -> io::Result<OwnedHandle> {
    let entered = open_at(dir, &to_units(name), FILE_TRAVERSE | FILE_READ_ATTRIBUTES, Wanted::Directory)?;
    refuse_link(&entered)?;
    Ok(entered)
}

fn refuse_link(file: &impl AsNative) -> io::Result<()> {
    if reparse::is_link(file)? {
        return Err(io::Error::from_raw_os_error(ERROR_STOPPED_ON_SYMLINK.cast_signed()));
    }
    Ok(())
}

fn open_directory(path: &Path, access: u32) -> io::Result<File> {
    let flags = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT;
    OpenOptions::new().access_mode(access).custom_flags(flags).open(path)
}

/// The structure by which a file gets another name (`FILE_RENAME_INFORMATION`, and `FILE_LINK_INFORMATION`, which is the same).
fn new_name(parent: &OwnedHandle, name: &[u16], flags: u32) -> Vec<u8> {
    use std::mem::offset_of;
    let mut bytes = vec![0; offset_of!(FILE_RENAME_INFORMATION, FileName)];
    let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    set(offset_of!(FILE_RENAME_INFORMATION, Anonymous), &flags.to_le_bytes());
    set(offset_of!(FILE_RENAME_INFORMATION, RootDirectory), &parent.as_raw_handle().addr().to_le_bytes());
    let length = u32::try_from(size_of_val(name)).unwrap_or(u32::MAX);
    set(offset_of!(FILE_RENAME_INFORMATION, FileNameLength), &length.to_le_bytes());
    bytes.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    // Shorter than the structure with its padding, it would be refused.
    bytes.resize(bytes.len().max(size_of::<FILE_RENAME_INFORMATION>()), 0);
    bytes
}

/// Takes the read-only attribute from what has this name, if anything has.
fn make_writable(parent: &OwnedHandle, name: &[u16]) -> io::Result<()> {
    let access = FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES;
    let file = match open_at(parent.as_handle(), name, access, Wanted::Any) {
        Err(error) if refusal(&error) == Refusal::Gone => return Ok(()),
        other => other?,
    };
    let stat = Stat::of(&file)?;
    if stat.mode & FILE_ATTRIBUTE_READONLY == 0 {
        return Ok(());
    }
    write_basic(&file, stat.mode & !FILE_ATTRIBUTE_READONLY, stat.mtime, None)
}

/// The names in an open directory.
fn names_in(dir: &OwnedHandle) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut buffer = place(NAMES_ROOM);
    let mut first = true;
    loop {
        match next_names(dir, &mut buffer, first) {
            Ok(length) => parse_names(&bytes_of(&buffer)[..length.min(NAMES_ROOM)], &mut names),
            Err(Failed(STATUS_NO_MORE_FILES | STATUS_NO_SUCH_FILE)) => return Ok(names),
            Err(failed) => return Err(failed.into()),
        }
        first = false;
    }
}

fn next_names(dir: &OwnedHandle, buffer: &mut [u64], first: bool) -> Result<usize, Failed> {
    let mut answer = nothing();
    let room = u32::try_from(size_of_val(buffer)).unwrap_or(0);
    let class: FILE_INFORMATION_CLASS = FileNamesInformation;
    // SAFETY: the place has that length, and both live until the call returns, which it does when it is done: the handle was opened
    // for that.
    let status = unsafe {
        NtQueryDirectoryFile(
            dir.as_raw_handle(),
            null_mut(),
            None,
            null(),
            &raw mut answer,
            buffer.as_mut_ptr().cast(),
            room,
            class,
            false,
            null(),
            first,
        )
    };
    check(status).map(|()| answer.Information)
}

fn parse_names(bytes: &[u8], names: &mut Vec<Vec<u8>>) {
    use std::mem::offset_of;
    let mut at = 0;
    while let Some(entry) = bytes.get(at..).filter(|entry| !entry.is_empty()) {
        let read = |offset| number(entry, offset).map(u32::from_le_bytes);
        let next = read(offset_of!(FILE_NAMES_INFORMATION, NextEntryOffset));
        let length = read(offset_of!(FILE_NAMES_INFORMATION, FileNameLength));
        let (Some(next), Some(length)) = (next, length) else { return };
        let Some(name) = units(entry, offset_of!(FILE_NAMES_INFORMATION, FileName), length as usize) else { return };
        let name = from_units(&name);
        if name != b"." && name != b".." {
            names.push(name);
        }
        if next == 0 {
            return;
        }
        at += next as usize;
    }
}

fn look_at(dir: &OwnedHandle, name: Vec<u8>) -> io::Result<Listed> {
    let units = to_units(&name);
    let file = open_at(dir.as_handle(), &units, TO_LOOK, Wanted::Any)?;
    let mut stat = Stat::of(&file)?;
    let mut target = Vec::new();
    if stat.kind == NodeKind::Symlink {
        match reparse::read(&file) {
            Ok(whole) => target = whole,
            // It can't be told where it leads, so it can't be kept either.
            Err(_) => stat.kind = NodeKind::Special,
        }
    }
    Ok(Listed { name, stat, target })
}

impl Stat {
    /// What the open file is now.
    pub(crate) fn of(file: &impl AsNative) -> io::Result<Self> {
        // SAFETY: this is the structure of that class; the name behind it is cut off.
        let all: FILE_ALL_INFORMATION = unsafe { ask(file, FileAllInformation) }?;
        let attributes = all.BasicInformation.FileAttributes;
        let is_directory = attributes & FILE_ATTRIBUTE_DIRECTORY != 0;
        let kind = match (attributes & FILE_ATTRIBUTE_REPARSE_POINT != 0, is_directory) {
            (true, _) if reparse::is_link(file)? => NodeKind::Symlink,
            (true, false) => NodeKind::Special,
            (_, true) => NodeKind::Directory,
            (false, false) => NodeKind::File,
        };
        let of_link = if kind == NodeKind::Symlink { attributes & FILE_ATTRIBUTE_DIRECTORY } else { 0 };
        Ok(Self {
            kind,
            inode: all.InternalInformation.IndexNumber.cast_unsigned(),
            links: all.StandardInformation.NumberOfLinks,
            size: if is_directory { 0 } else { all.StandardInformation.EndOfFile.cast_unsigned() },
            mode: attributes & KEPT | of_link,
            uid: 0,
            gid: 0,
            mtime: of_file_time(all.BasicInformation.LastWriteTime),
            // Where no such time is kept, nothing is ever sure not to have changed since.
            ctime: moment(all.BasicInformation.ChangeTime).unwrap_or(FileTime { seconds: i64::MAX, nanoseconds: 0 }),
            device: (0, 0),
        })
    }
}

/// Why a name was not opened.
pub(crate) fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(
            ERROR_FILE_NOT_FOUND
            | ERROR_PATH_NOT_FOUND
            | ERROR_DELETE_PENDING
            | ERROR_DIRECTORY
            | ERROR_STOPPED_ON_SYMLINK,
        ) => Refusal::Gone,
        Some(ERROR_FILENAME_EXCED_RANGE | ERROR_BUFFER_OVERFLOW) => Refusal::TooLong,
        _ => Refusal::Other,
    }
}

fn is_held(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(i32::cast_unsigned);
    matches!(code, Some(ERROR_ACCESS_DENIED | ERROR_SHARING_VIOLATION))
}

/// The moment that a file is stamped with, as the state keeps it.
pub(super) fn of_file_time(ticks: i64) -> FileTime {
    let since = ticks.saturating_sub(EPOCH_TICKS);
    let hundreds = u32::try_from(since.rem_euclid(TICKS_PER_SECOND)).unwrap_or(0);
    FileTime { seconds: since.div_euclid(TICKS_PER_SECOND), nanoseconds: hundreds * 100 }
}

/// The same, the other way round.
pub(super) fn in_file_time(time: FileTime) -> i64 {
    let ticks = time.seconds.saturating_mul(TICKS_PER_SECOND).saturating_add(i64::from(time.nanoseconds / 100));
    ticks.saturating_add(EPOCH_TICKS)
}

/// The clock that the system stamps files with.
pub(crate) fn clock() -> FileTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    FileTime { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}

/// The volume that the directory `path` is on.
pub(crate) fn device_of(path: &Path) -> io::Result<u32> {
    volume_of(&open_directory(path, FILE_READ_ATTRIBUTES)?)
}

fn volume_of(file: &File) -> io::Result<u32> {
    let mut information = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and the structure lives until the call returns.
    if unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut information) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(information.dwVolumeSerialNumber)
}
