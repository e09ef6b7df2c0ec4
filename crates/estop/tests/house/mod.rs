//! A place of its own for one test, and the program run in it as its users run it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
pub(crate) mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

/// The program under test.
pub(crate) const ESTOP: &str = env!("CARGO_BIN_EXE_estop");

/// How long anything may take on a busy machine. Reached only by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A directory with an estop of its own: its state, its run directory, its configuration, and room for what a test needs beside.
/// It goes with everything in it at the end.
pub(crate) struct House {
    dir: tempfile::TempDir,
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; 128+N if signal N ended it.
    pub(crate) code: i32,
    /// Standard output, as text.
    pub(crate) stdout: String,
    /// Standard error, as text.
    pub(crate) stderr: String,
}

impl House {
    /// An empty place.
    pub(crate) fn new() -> Self {
        let house = Self { dir: tempfile::Builder::new().prefix("estop-house-").tempdir().unwrap() };
        system::furnish(&house.path());
        house
    }

    /// Where it is, without symbolic links.
    pub(crate) fn path(&self) -> PathBuf {
        dunce::canonicalize(self.dir.path()).unwrap()
    }

    /// The state directory. It is absent until the program makes it.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Writes `text` as the configuration; every later command uses it.
    pub(crate) fn config(&self, text: &str) {
        std::fs::write(self.config_path(), system::configuration(text)).unwrap();
    }

    fn config_path(&self) -> PathBuf {
        self.path().join("estop.toml")
    }

    /// Writes a file, with the directories that it lies in, and says where.
    pub(crate) fn file(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a shell script that can be executed, and says what to execute.
    pub(crate) fn script(&self, path: impl AsRef<Path>, body: &str) -> PathBuf {
        system::script(self, path.as_ref(), body)
    }

    /// The program under test, as it is run here.
    pub(crate) fn program(&self) -> PathBuf {
        system::program(&self.path())
    }

    /// The program with these arguments, not yet started. Nothing of the surroundings' configuration reaches it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        let foreign = |name: &str| ["ESTOP_", "VAULT_", "BAO_", "XDG_"].iter().any(|prefix| name.starts_with(prefix));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(foreign) {
                command.env_remove(name);
            }
        }
        system::lead(&mut command, &self.path());
        command.env("HOME", self.path()).env("ESTOP_STATE_DIR", self.state_dir());
        // Without one of its own it must not find the host's: an empty one says the same as none.
        let config = self.config_path();
        if !config.exists() {
            std::fs::write(&config, "").unwrap();
        }
        command.env("ESTOP_CONFIG", config).args(arguments).current_dir(self.path());
        command
    }

    /// Runs the program to its end, with nothing on its standard input.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.command(arguments).stdin(Stdio::null()).output().unwrap().into()
    }

    /// Runs the program to its end with `input` on its standard input.
    pub(crate) fn feed(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Outcome {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that refuses may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_ref());
        child.wait_with_output().unwrap().into()
    }

    /// Runs the program with `--json`, expects this exit code, and gives its one object.
    pub(crate) fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let outcome = self.run(&all);
        assert_eq!(outcome.code, code, "estop {arguments:?}: {outcome:?}");
        outcome.json()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        system::clear(self.dir.path());
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: code_of(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// The one JSON object on standard output, which says its version.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.trim_end().lines().count(), 1, "not one line: {self:?}");
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(value["schema_version"], 1, "{self:?}");
        value
    }

    /// Expects this exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// The exit code; 128+N if signal N ended it.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| system::signal_code(status))
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
