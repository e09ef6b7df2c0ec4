//! Other processes.

use std::os::windows::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use estop_watchdog::job::windows::usage;
use windows_sys::Win32::System::Threading::{CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS};

use crate::failure::Result;

/// Handles are not limited.
pub(crate) fn raise_descriptor_limit() {}

/// Whoever is of the same user can open every process of that user here.
pub(crate) fn forbid_tracing() {}

/// Nothing is left behind that would be anybody's: a job ends with its guardian.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn inherit_orphans() -> Result<()> {
    Ok(())
}

/// There are none: a job ends with its guardian. Whether something is left.
pub(crate) fn end_descendants(_limit: Duration) -> bool {
    false
}

/// How this process ends that answers a command's own code, which has 32 bits here.
pub(crate) fn end_with(code: i32) -> ExitCode {
    std::process::exit(code)
}

/// No process's environment can be looked into here.
pub(crate) fn marked(_id: &str) -> usize {
    0
}

/// `program`, to be started away from this console and this process group.
pub(crate) fn apart(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.creation_flags(DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
    command
}

/// The processor time of the process `pid`.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    usage(pid).map(|usage| usage.cpu)
}

/// Memory of a process.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// That nobody else has, in bytes.
    pub(crate) private: f64,
    /// Of what that consists, for a person.
    pub(crate) made_of: String,
}

/// Memory of the process `pid`.
#[expect(clippy::cast_precision_loss, reason = "a size")]
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    usage(pid).map(|usage| Memory { private: usage.memory_bytes as f64, made_of: "private".to_owned() })
}
