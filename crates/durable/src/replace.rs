//! Replacing a file as a whole, and making directories durable.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Context as _;
use crate::file::{created_with, rename};
use crate::{Result, platform};

/// Makes the next temporary name of this process differ from the last.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Puts `bytes` at `path` with `mode`, so that a reader, and a crash at any moment, finds the old file or the new one.
///
/// The directory must exist. A temporary file left by a crash has the name `.NAME.PID.N.new` and harms nothing.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) for the step that failed; the old file is then untouched, unless it was the last step
/// (synchronising the directory), after which either may be found after a power failure.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let parent = parent_of(path);
    let temporary = temporary_name(path, &parent);
    let written =
        write_new(&temporary, bytes, mode).and_then(|()| rename(&temporary, path).context("rename into place", path));
    if written.is_err() {
        // The first error is the one to report; what is left behind is only a stray temporary file.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_dir(&parent)
}

/// Synchronises a directory, so that the names in it survive a power failure.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if it cannot be opened or synchronised.
pub fn sync_dir(path: &Path) -> Result<()> {
    platform::sync_dir(path).context("synchronise the directory", path)
}

/// Creates `path` and the directories above it that are missing, durably; each created one gets `mode`.
///
/// A directory that is there already keeps its mode.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if one cannot be created or is no directory.
pub fn create_dir(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_dir(&parent, mode)?;
    match platform::create_dir(path, mode) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        other => other.context("create the directory", path)?,
    }
    sync_dir(&parent)
}

pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn temporary_name(path: &Path, parent: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    parent.join(name)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file =
        created_with(OpenOptions::new().write(true).create_new(true), mode).open(path).context("create", path)?;
    platform::set_mode(&file, mode).context("set the mode of", path)?;
    file.write_all(bytes).context("write", path)?;
    file.sync_all().context("synchronise", path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        #[cfg(unix)]
        assert_eq!(mode_of(&path), 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replace_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("occupied");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
        assert!(replace(&path, b"new", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn creates_missing_parents_with_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_dir(&path, 0o700).unwrap();
        create_dir(&path, 0o755).unwrap();
        assert!(path.is_dir());
        #[cfg(unix)]
        assert_eq!(mode_of(&path), 0o700);
    }

    #[cfg(unix)]
    fn mode_of(path: &Path) -> u32 {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o7777
    }
}
