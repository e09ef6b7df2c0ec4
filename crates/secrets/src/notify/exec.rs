//! Running a command that gets JSON on stdin.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

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

/// Runs `command` with `input` on stdin and waits for it. Exit code 0 is success. It runs in a process group of its own,
/// which is killed if this future is dropped, as a time limit does.
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
    prepared.process_group(0).kill_on_drop(true);
    for variable in WITHHELD {
        prepared.env_remove(variable);
    }
    let mut child = prepared.spawn().map_err(start)?;
    let group = Group::of(&child);
    if let Some(mut stdin) = child.stdin.take() {
        // A command that doesn't read its input may still succeed: its exit code decides.
        let _ = stdin.write_all(input).await;
        let _ = stdin.shutdown().await;
    }
    let status = child.wait().await.map_err(start)?;
    group.done();
    if status.success() {
        return Ok(());
    }
    Err(ExecError::Failed { program: program.clone(), status: status.to_string() })
}

/// Kills a process group when dropped before its leader was waited for. Until then its id can't be given to another.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
