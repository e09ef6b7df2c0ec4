//! Running a command that gets JSON on stdin.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
#[cfg(unix)]
use unix::Running;
#[cfg(windows)]
use windows::Running;

/// Variables that a command has no use for and that would give it more than it was meant to get.
const WITHHELD: [&str; 5] = ["ESTOP_SECRETS_KEY", "VAULT_TOKEN", "BAO_TOKEN", "VAULT_SECRET_ID", "BAO_SECRET_ID"];

/// Why a command did not do its work. What it printed is not shown: it may have printed a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// It could not be started.
    #[error("cannot run {program}: {detail}")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        detail: String,
    },
    /// It did not exit with 0.
    #[error("{program} failed ({status}); run it by hand to see what it prints")]
    Failed {
        /// The program.
        program: String,
        /// Its exit code or signal.
        status: String,
    },
}

/// Runs `command` with `input` on stdin and waits for it. Exit code 0 is success. It runs in a process group or job of its
/// own, which is killed if this future is dropped, as a time limit does.
///
/// # Errors
/// [`ExecError`].
pub async fn run(command: &[String], input: &[u8]) -> Result<(), ExecError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(ExecError::Start { program: String::new(), detail: "the command is empty".to_owned() });
    };
    let start = |error: std::io::Error| ExecError::Start { program: program.clone(), detail: error.to_string() };
    let mut prepared = Command::new(program);
    prepared.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    for variable in WITHHELD {
        prepared.env_remove(variable);
    }
    let mut running = Running::start(prepared).map_err(start)?;
    if let Some(mut stdin) = running.stdin() {
        // A command that doesn't read its input may still succeed: its exit code decides.
        let _ = stdin.write_all(input).await;
        let _ = stdin.shutdown().await;
    }
    let status = running.wait().await.map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(ExecError::Failed { program: program.clone(), status: status.to_string() })
}
