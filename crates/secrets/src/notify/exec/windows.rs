//! A command in a job of its own.

use std::io;
use std::process::ExitStatus;

use process_wrap::tokio::{ChildWrapper, CommandWrap, JobObject};
use tokio::process::{ChildStdin, Command};

/// A running command. Dropped before it was waited for, it is killed with all that it has started.
pub(super) struct Running {
    child: Box<dyn ChildWrapper>,
    ended: bool,
}

impl Running {
    pub(super) fn start(command: Command) -> io::Result<Self> {
        let child = CommandWrap::from(command).wrap(JobObject).spawn()?;
        Ok(Self { child, ended: false })
    }

    pub(super) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin().take()
    }

    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        // Of the command alone: what it leaves running is its own affair.
        let status = self.child.inner_mut().wait().await?;
        self.ended = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // It fails only for what has ended.
            let _ = self.child.start_kill();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::windows::fs::OpenOptionsExt as _;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::super::{ExecError, run};

    fn cmd(script: &str) -> Vec<String> {
        ["cmd", "/c", script].map(str::to_owned).to_vec()
    }

    /// Whether nobody has it open.
    fn is_free(path: &Path) -> bool {
        std::fs::OpenOptions::new().write(true).share_mode(0).open(path).is_ok()
    }

    #[tokio::test]
    async fn the_exit_code_says_whether_it_went_well() {
        assert_eq!(run(&cmd("exit 0"), b"{}").await, Ok(()));
        assert!(matches!(run(&cmd("exit 3"), b"{}").await, Err(ExecError::Failed { .. })));
        let absent = run(&["no-such-program-here".to_owned()], b"").await;
        assert!(matches!(absent, Err(ExecError::Start { .. })), "{absent:?}");
    }

    #[tokio::test]
    async fn a_command_gets_its_input() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        let mut command = cmd(&format!("set /p said=& echo !said!> {}", copy.display()));
        command.insert(1, "/v:on".to_owned());
        run(&command, b"a line\r\n").await.unwrap();
        assert_eq!(std::fs::read_to_string(copy).unwrap().trim_end(), "a line");
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let held = dir.path().join("held");
        let command = cmd(&format!("cmd /c ping -n 600 127.0.0.1 > {}", held.display()));
        let deadline = Instant::now() + Duration::from_mins(1);
        let started = async {
            while !held.exists() || is_free(&held) {
                assert!(Instant::now() < deadline, "the command does not start");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Whichever ends first, the other is dropped: as a time limit does with a command.
        tokio::select! {
            ended = run(&command, b"") => panic!("it ended: {ended:?}"),
            () = started => {}
        }
        while !is_free(&held) {
            assert!(Instant::now() < deadline, "a child lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
