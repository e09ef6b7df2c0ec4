//! Where an estop lives that was told nothing.

use std::fs::OpenOptions;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use estop_durable::access;
use estop_durable::privileges::is_administrator;
use estop_watchdog::emergency::Instance;
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_BACKUP_SEMANTICS;

use crate::failure::{Failure, Result};

/// Whether estop stops everybody's jobs: here each user's guardians hear that user and the administrators, who name the place.
pub(crate) fn is_privileged() -> bool {
    false
}

/// The host's estop, as an administrator or a service runs it; every other user has one of their own.
fn own() -> PathBuf {
    let from_environment = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let common = || from_environment("ProgramData").unwrap_or_else(|| PathBuf::from(r"C:\ProgramData"));
    let above = if is_administrator() { common() } else { from_environment("LOCALAPPDATA").unwrap_or_else(common) };
    above.join("estop")
}

/// The configuration file.
pub(crate) fn default_config() -> PathBuf {
    own().join("estop.toml")
}

/// The state directory.
pub(crate) fn default_state_dir() -> PathBuf {
    own()
}

/// The run directory is in the state directory.
pub(crate) fn default_run_dir() -> Option<PathBuf> {
    None
}

/// There are none that this one would look for.
pub(crate) fn others(_run_dir: &Path) -> Vec<Instance> {
    Vec::new()
}

/// Refuses a directory of estop's own that belongs to others than its user, the administrators and the system.
///
/// # Errors
/// If it does.
pub(crate) fn refuse_strangers(path: &Path) -> Result<()> {
    is_closed(path).map(drop).map_err(|(detail, hint)| Failure::usage(format!("{} {detail}", path.display()), hint))
}

/// Whether nobody else can reach into the directory `path`, as its rules say in a few words.
///
/// # Errors
/// What its rules are, and what to do.
pub(crate) fn is_closed(path: &Path) -> std::result::Result<String, (String, String)> {
    let directory = OpenOptions::new().read(true).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path);
    match directory.and_then(|directory| access::is_private(&directory)) {
        Ok(true) => Ok("this user's, the administrators' and the system's".to_owned()),
        Ok(false) => Err((
            "can be changed by other users: its state could be theirs".to_owned(),
            format!(
                "remove it, or choose another with --state-dir; estop makes {} with rules of its own",
                path.display()
            ),
        )),
        Err(error) => Err((format!("cannot be looked at: {error}"), "check the path and its rules".to_owned())),
    }
}
