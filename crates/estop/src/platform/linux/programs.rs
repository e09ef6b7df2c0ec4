//! Finding programs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::platform::NoProgram;

/// Finds a program as `execvp` would after a change to `directory`.
pub(crate) fn find_program(program: &str, directory: &Path, search: Option<&OsStr>) -> Result<PathBuf, NoProgram> {
    if program.contains('/') {
        return runnable(directory.join(program));
    }
    let mut best = NoProgram::Missing;
    for folder in search.map(std::env::split_paths).into_iter().flatten() {
        match runnable(directory.join(folder).join(program)) {
            Ok(found) => return Ok(found),
            Err(reason @ NoProgram::NotExecutable { .. }) => best = reason,
            Err(_) => {}
        }
    }
    Err(best)
}

fn runnable(path: PathBuf) -> Result<PathBuf, NoProgram> {
    match fs::metadata(&path) {
        Err(_) => Err(NoProgram::Missing),
        Ok(metadata) if !metadata.is_file() => Err(NoProgram::NoFile),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            let hint = format!("chmod +x {}", path.display());
            Err(NoProgram::NotExecutable { file: path, hint })
        }
        Ok(_) => Ok(path),
    }
}
