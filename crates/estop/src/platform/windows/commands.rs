//! Commands that the program's own sandboxes run.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Does nothing, well.
pub(crate) const NOTHING: &[&str] = &["cmd", "/c", "rem"];

/// This very program.
///
/// # Errors
/// If the system does not know it.
pub(crate) fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// A command that becomes `count` processes that sleep, and makes the file `sign` when they are there.
///
/// # Errors
/// If this program's own path, or that of `sign`, is not Unicode.
pub(crate) fn sleepers(count: u64, sign: &Path) -> Result<Vec<String>> {
    let program = own_program().map_err(|error| Failure::failed(format!("cannot find this program: {error}"), ""))?;
    let shown = |path: &Path| {
        let none = || Failure::failed(format!("{} is not Unicode", path.display()), "choose another TEMP");
        path.to_str().map(str::to_owned).ok_or_else(none)
    };
    Ok(vec![shown(&program)?, "__helper".into(), "sleepers".into(), count.to_string(), shown(sign)?])
}

/// There is no `fork` here.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn forkers(_count: u64, _sign: &Path) -> Result<Option<Vec<String>>> {
    Ok(None)
}

/// What ends for lack of memory here is not ended by the system.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn hog(_sign: &Path) -> Result<Option<Vec<String>>> {
    Ok(None)
}

/// What is refused a process here is not ended by that.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn forker_until_refused(_sign: &Path) -> Result<Option<Vec<String>>> {
    Ok(None)
}

/// Nobody tells of pressure here.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn crowd(_count: u64, _sign: &Path, _go: &Path) -> Result<Option<Vec<String>>> {
    Ok(None)
}

/// There is no command here that does nothing but use a processor.
pub(crate) fn spinner() -> Option<Vec<String>> {
    None
}
