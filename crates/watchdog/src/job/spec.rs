//! What a job is to be: the program, its limits and how it is contained.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Tier;

/// A string of the operating system, which need not be Unicode: its bytes on Unix, its UTF-16 in little endian on Windows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// As the operating system's string.
    pub fn to_os_string(&self) -> OsString {
        #[cfg(unix)]
        return std::os::unix::ffi::OsStringExt::from_vec(self.0.clone());
        #[cfg(windows)]
        {
            let units: Vec<u16> = self.0.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            std::os::windows::ffi::OsStringExt::from_wide(&units)
        }
    }
}

impl<T: Into<OsString>> From<T> for Bytes {
    fn from(text: T) -> Self {
        let text: OsString = text.into();
        #[cfg(unix)]
        return Self(std::os::unix::ffi::OsStringExt::into_vec(text));
        #[cfg(windows)]
        Self(std::os::windows::ffi::OsStrExt::encode_wide(text.as_os_str()).flat_map(u16::to_le_bytes).collect())
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_os_string())
    }
}

/// Another user to run as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary group IDs.
    pub groups: Vec<u32>,
}

/// What to run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The command and its arguments.
    pub argv: Vec<Bytes>,
    /// The whole environment. May hold secrets: not shown by `Debug`.
    pub environment: Vec<(Bytes, Bytes)>,
    /// Where it starts; the guardian's own directory if absent.
    pub directory: Option<PathBuf>,
    /// The user it runs as; estop's own if absent.
    pub user: Option<User>,
    /// Put it into this process group, so that it shares the caller's terminal. Without one it gets a session of its own.
    pub process_group: Option<u32>,
    /// Signals that it ignores from the start, as the caller does.
    pub ignored_signals: Vec<i32>,
    /// Its `oom_score_adj`, where it is not to be this process's own.
    #[serde(default)]
    pub oom_score: Option<String>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("argv", &self.argv).field("user", &self.user).finish_non_exhaustive()
    }
}

/// A secret that is put into a file of the workload's own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// The file's name in the directory of secrets.
    pub file: String,
    /// The secret's name, for whoever replaces the file.
    pub secret: String,
    /// Its content.
    pub value: Vec<u8>,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretFile({})", self.file)
    }
}

/// The limits of a job. What the kernel cannot enforce here is enforced by the monitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_max: Option<u64>,
    /// Cores: 1.0 is one core.
    pub cpu_max: Option<f64>,
    /// Processes and threads.
    pub pids_max: Option<u64>,
    /// Run time.
    pub time_max: Option<Duration>,
}

impl Limits {
    /// The first limit that is zero, with which nothing could run: its name.
    pub fn zero(&self) -> Option<&'static str> {
        let zero = [
            ("memory_max", self.memory_max == Some(0)),
            ("cpu_max", self.cpu_max.is_some_and(|cores| cores <= 0.0)),
            ("pids_max", self.pids_max == Some(0)),
            ("time_max", self.time_max.is_some_and(|time| time.is_zero())),
        ];
        zero.into_iter().find_map(|(name, zero)| zero.then_some(name))
    }
}

/// How the program is contained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own that a person can lift")]
pub struct Containment {
    /// Refuse to run with less than this.
    pub require_tier: Option<Tier>,
    /// Use a cgroup where there is one.
    pub cgroup: bool,
    /// Use a PID namespace where there is one.
    pub pid_namespace: bool,
    /// Let it gain privileges, as `sudo` does.
    pub new_privileges: bool,
    /// Keep it out of `/sys` by Landlock where it could leave its cgroup.
    pub landlock: bool,
    /// Directories that it must not see.
    pub cover: Vec<PathBuf>,
}

impl Default for Containment {
    fn default() -> Self {
        Self {
            require_tier: None,
            cgroup: true,
            pid_namespace: true,
            new_privileges: false,
            landlock: true,
            cover: Vec::new(),
        }
    }
}

/// A job to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job's name.
    pub name: String,
    /// An identifier that no other job ever had. Stands in the environment of every process of the job, as `ESTOP_JOB`.
    pub id: String,
    /// Which estop it belongs to: names the group of its jobs in the system.
    pub instance: String,
    /// What to run.
    pub program: Program,
    /// Its limits.
    pub limits: Limits,
    /// How it is contained.
    pub containment: Containment,
    /// The directory of its secret files, if it has any. It stays visible inside a covered directory.
    pub secrets_dir: Option<PathBuf>,
}

/// The variable that marks every process of a job.
pub(super) const MARKER: &str = "ESTOP_JOB";
