//! Space that is kept for an emergency on the state directory's filesystem, for a program may have filled the rest: given up so
//! that the incident can be recorded and keys be replaced.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use crate::platform::files::reserve;

/// What an incident, its log and its rotations need, many times over, in bytes.
const SIZE: u64 = 4 << 20;

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("ballast")
}

/// Makes sure of it. Where there is no room for it any more, there is none to give up.
pub fn take_on(state_dir: &Path) {
    let path = file(state_dir);
    if std::fs::metadata(&path).is_ok_and(|found| found.len() >= SIZE) {
        return;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let made = estop_durable::file::created_with(&mut options, 0o600).open(&path);
    if made.and_then(|file| reserve(&file, SIZE)).is_err() {
        let _ = std::fs::remove_file(&path);
    }
}

/// Does `work`; if it fails and there is space to give up, gives that up and does it once more.
///
/// # Errors
/// Those of the last try.
pub fn with<T, E>(state_dir: &Path, work: impl Fn() -> Result<T, E>) -> Result<T, E> {
    work().or_else(|error| match std::fs::remove_file(file(state_dir)) {
        Ok(()) => work(),
        Err(_) => Err(error),
    })
}
