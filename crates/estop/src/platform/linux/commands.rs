//! Commands that the program's own sandboxes run.

use std::path::Path;

use estop_watchdog::job::linux::OWN_EXECUTABLE;

use crate::failure::{Failure, Result};

/// Does nothing, well.
pub(crate) const NOTHING: &[&str] = &["true"];

/// Becomes `$1` processes that sleep, itself one of them, and says so in the file `$2`.
const SLEEPERS: &str =
    r#"i=1; while [ "$i" -lt "$1" ]; do sleep 1000000 & i=$((i+1)); done; : >"$2"; exec sleep 1000000"#;

/// This very program, even if its file was replaced meanwhile.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere the system may not know it")]
pub(crate) fn own_program() -> std::io::Result<std::path::PathBuf> {
    Ok(OWN_EXECUTABLE.into())
}

/// A command that becomes `count` processes that sleep, and makes the file `sign` when they are there.
///
/// # Errors
/// If the path of `sign` is not UTF-8.
pub(crate) fn sleepers(count: u64, sign: &Path) -> Result<Vec<String>> {
    let shown =
        sign.to_str().ok_or_else(|| Failure::failed("the temporary directory's path is not UTF-8", "set TMPDIR"))?;
    Ok(["sh", "-c", SLEEPERS, "sh", &count.to_string(), shown].map(str::to_owned).into())
}
