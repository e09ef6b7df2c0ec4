//! Finding programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use estop_watchdog::job::windows;

use crate::platform::NoProgram;

/// Finds a program as a job starts it in `directory`.
pub(crate) fn find_program(program: &str, directory: &Path, search: Option<&OsStr>) -> Result<PathBuf, NoProgram> {
    let missing = |_| {
        let named = directory.join(program);
        if named.exists() && !named.is_file() { NoProgram::NoFile } else { NoProgram::Missing }
    };
    let file = windows::find_program(program.as_ref(), Some(directory), search).map_err(missing)?;
    if windows::is_batch_file(&file) {
        let hint = format!("run it by [\"cmd\", \"/c\", {program:?}], with arguments that are safe there");
        return Err(NoProgram::NotExecutable { file, hint });
    }
    Ok(file)
}
