//! What a check asks of the host it runs on. The only place of the configuration with platform calls.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a program can't be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoProgram {
    /// There is no such file.
    Missing,
    /// It is a directory or a device.
    NoFile,
    /// Nobody may execute it.
    NotExecutable(PathBuf),
}

/// Finds a program as `execvp` would after a change to `directory`.
pub(super) fn find_program(program: &str, directory: &Path, search: Option<&OsStr>) -> Result<PathBuf, NoProgram> {
    if program.contains('/') {
        return runnable(directory.join(program));
    }
    let mut best = NoProgram::Missing;
    for folder in search.map(std::env::split_paths).into_iter().flatten() {
        match runnable(directory.join(folder).join(program)) {
            Ok(found) => return Ok(found),
            Err(reason @ NoProgram::NotExecutable(_)) => best = reason,
            Err(_) => {}
        }
    }
    Err(best)
}

fn runnable(path: PathBuf) -> Result<PathBuf, NoProgram> {
    match fs::metadata(&path) {
        Err(_) => Err(NoProgram::Missing),
        Ok(metadata) if !metadata.is_file() => Err(NoProgram::NoFile),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Err(NoProgram::NotExecutable(path)),
        Ok(_) => Ok(path),
    }
}

/// Whether the host knows this user. A number is a user whether it has a name or not.
pub(super) fn user_exists(user: &str) -> bool {
    if user.parse::<u32>().is_ok() {
        return true;
    }
    let local = fs::read_to_string("/etc/passwd").unwrap_or_default();
    local.lines().any(|line| line.split(':').next() == Some(user)) || is_known_to_getent(user)
}

/// Users of a directory service are in no file; `getent` asks whoever knows them.
fn is_known_to_getent(user: &str) -> bool {
    Command::new("getent")
        .args(["passwd", "--", user])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The filesystem that `path`, or what is there of it, lies on.
pub(super) fn filesystem(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|ancestor| fs::metadata(ancestor).ok()).map(|metadata| metadata.dev())
}
