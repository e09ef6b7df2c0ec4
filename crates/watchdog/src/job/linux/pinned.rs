//! One process's directory in `/proc`, held open: what is read by it is that process's own, or cannot be read, also when its
//! number is another's by then.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::procfs;
use crate::job::ProcessId;

/// How much of its arguments is kept, in characters.
const ARGUMENTS: usize = 500;
/// Room for the entries of a directory that are read at once, in bytes.
const ENTRIES: usize = 4096;

/// A process's directory.
#[derive(Debug)]
pub struct Pinned(OwnedFd);

impl Pinned {
    /// Opens that of the process `id`.
    ///
    /// # Errors
    /// `ESRCH` if it has ended, or why its directory cannot be opened.
    pub fn open(id: ProcessId) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let pinned = Self(rustix::fs::open(format!("/proc/{}", id.pid), flags, Mode::empty())?);
        let same = procfs::parse_stat(&pinned.content("stat")?).is_some_and(|stat| stat.id == id);
        if same { Ok(pinned) } else { Err(Errno::SRCH.into()) }
    }

    /// What one of its files says.
    ///
    /// # Errors
    /// If it has ended, or the file cannot be read.
    pub fn content(&self, name: &str) -> io::Result<Vec<u8>> {
        procfs::whole(&self.file(name)?)
    }

    /// One of its files, open.
    ///
    /// # Errors
    /// If it has ended, or the file may not be opened.
    pub fn file(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Which namespace it is in, as the number of one of its files `ns/…` says.
    ///
    /// # Errors
    /// If it has ended, or may not be looked at.
    pub fn namespace(&self, name: &str) -> io::Result<u64> {
        Ok(statat(&self.0, name, AtFlags::empty())?.st_ino)
    }

    /// Its arguments, separated by spaces, shortened. Not for a guardian: they are read from the process's own memory, which it
    /// can keep its reader waiting for.
    #[must_use]
    pub fn arguments(&self) -> String {
        let bytes = self.content("cmdline").unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().chars().take(ARGUMENTS).collect()
    }

    /// What it has open, by name, as long as `take` wants more, and how much that is in all.
    ///
    /// # Errors
    /// If it has ended, or may not be looked at.
    pub fn open_files(&self, mut take: impl FnMut(&str) -> bool) -> io::Result<u64> {
        let directory = self.file("fd")?;
        // Since Linux 6.2 it says how many there are.
        let size = u64::try_from(fstat(&directory)?.st_size).unwrap_or(0);
        let mut buffer = Vec::with_capacity(ENTRIES);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let (mut counted, mut wanted) = (0, true);
        while (wanted || size == 0)
            && let Some(entry) = entries.next()
        {
            let entry = entry?;
            if entry.file_name().to_bytes().starts_with(b".") {
                continue;
            }
            counted += 1;
            // What was closed since has no name.
            if wanted && let Ok(target) = readlinkat(&directory, entry.file_name(), Vec::new()) {
                wanted = take(&target.to_string_lossy());
            }
        }
        Ok(size.max(counted))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn another_process_of_the_same_number_is_not_it() {
        let own = procfs::identity(std::process::id()).unwrap();
        assert!(Pinned::open(own).is_ok());
        let other = ProcessId { start_time: own.start_time + 1, ..own };
        let error = Pinned::open(other).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::SRCH));
    }

    #[test]
    fn what_has_ended_says_nothing_more() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pinned = Pinned::open(procfs::identity(child.id()).unwrap()).unwrap();
        assert!(!pinned.content("status").unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pinned.content("stat").is_err() && pinned.open_files(|_| true).is_err());
        assert_eq!(pinned.arguments(), "");
    }
}
