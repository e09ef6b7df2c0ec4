//! Commands that the program's own sandboxes run.

use std::path::Path;

use estop_watchdog::job::linux::OWN_EXECUTABLE;

use crate::failure::{Failure, Result};

/// Does nothing, well.
pub(crate) const NOTHING: &[&str] = &["true"];

/// Becomes `$1` processes that sleep, itself one of them, and says so in the file `$2`.
const SLEEPERS: &str = r#"i=1; while [ "$i" -lt "$1" ]; do sleep 600 & i=$((i+1)); done; : >"$2"; exec sleep 600"#;
/// Starts `$1` processes that fork without pause, each waiting for the one before, and says so in the file `$2`. Whatever happens,
/// none uses more than a minute of a processor.
const FORKERS: &str = r#"ulimit -t 60; i=0; while [ "$i" -lt "$1" ]; do (while :; do (:) & wait; done) & i=$((i+1)); done
: >"$2"; exec sleep 600"#;
/// A child that does what follows, whose process ID is told in the file `$1`, and a moment before it begins.
const TOLD: &str = r#"child() { (until [ -e "$f" ]; do :; done; sleep 0.1; "$@") & echo $! >"$f.part"; mv "$f.part" "$f"; wait; exec sleep 600; }; f=$1; "#;
/// Takes memory until it is not given more.
const HOG: &str = "child tail /dev/zero";
/// Starts processes until one is refused, which ends a shell.
const REFUSED: &str = "more() { while :; do sleep 600 & done; }; child more";
/// Says so in the file `$2`, waits for the file `$3`, and becomes `$1` processes that each use a processor.
const CROWD: &str = r#"ulimit -t 60; : >"$2"; until [ -e "$3" ]; do sleep 0.01; done
i=0; while [ "$i" -lt "$1" ]; do (while :; do :; done) & i=$((i+1)); done; wait"#;
/// Uses a processor.
const SPINNER: &str = "ulimit -t 60; while :; do :; done";

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
    Ok(["sh", "-c", SLEEPERS, "sh", &count.to_string(), shown(sign)?].map(str::to_owned).into())
}

/// A command that becomes `count` processes that fork without pause, and makes the file `sign` when they are there. `None` where
/// there is no such thing.
///
/// # Errors
/// If the path of `sign` is not UTF-8.
pub(crate) fn forkers(count: u64, sign: &Path) -> Result<Option<Vec<String>>> {
    Ok(Some(["sh", "-c", FORKERS, "sh", &count.to_string(), shown(sign)?].map(str::to_owned).into()))
}

/// A command one of whose processes takes memory until it is ended; its ID is in the file `sign` when it is there. `None` where
/// there is no such thing.
///
/// # Errors
/// If the path of `sign` is not UTF-8.
pub(crate) fn hog(sign: &Path) -> Result<Option<Vec<String>>> {
    Ok(Some(["sh", "-c", &format!("{TOLD}{HOG}"), "sh", shown(sign)?].map(str::to_owned).into()))
}

/// A command one of whose processes starts others until one is refused, and then ends; its ID is in the file `sign` when it is
/// there. `None` where there is no such thing.
///
/// # Errors
/// If the path of `sign` is not UTF-8.
pub(crate) fn forker_until_refused(sign: &Path) -> Result<Option<Vec<String>>> {
    Ok(Some(["sh", "-c", &format!("{TOLD}{REFUSED}"), "sh", shown(sign)?].map(str::to_owned).into()))
}

/// A command that makes the file `sign`, and when there is the file `go` becomes `count` processes that each use a processor. `None`
/// where there is no such thing.
///
/// # Errors
/// If a path is not UTF-8.
pub(crate) fn crowd(count: u64, sign: &Path, go: &Path) -> Result<Option<Vec<String>>> {
    let count = count.to_string();
    Ok(Some(["sh", "-c", CROWD, "sh", &count, shown(sign)?, shown(go)?].map(str::to_owned).into()))
}

/// A command that uses a processor. `None` where there is no such thing.
pub(crate) fn spinner() -> Option<Vec<String>> {
    Some(["sh", "-c", SPINNER].map(str::to_owned).into())
}

fn shown(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Failure::failed("the temporary directory's path is not UTF-8", "set TMPDIR"))
}
