//! The run directory, in which jobs are found.
//!
//! ```text
//! RUN_DIR/                 0700
//!   now                    `echo now > RUN_DIR/now` is CRITICAL_STOP for every guardian
//!   jobs/NAME/lock         held by the guardian, and by the job's init, as long as either lives
//!   jobs/NAME/job.json     what another process needs to end the job
//!   jobs/NAME/guardian.sock
//!   jobs/NAME/secrets/     the workload's secret files
//!   jobs/NAME/outcome.json how it ended
//! ```
//!
//! Nothing in it is trusted beyond its owner: a record leads only to processes of the user that owns it, on the boot that
//! wrote it, and to cgroups by their inode below estop's own root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_durable::lock::Lock;
use estop_durable::replace;
use serde::{Deserialize, Serialize};

use crate::error::Context as _;
use crate::job::linux::procfs::{self, Stat};
use crate::job::{Exit, Isolation, ProcessId, Tier};
use crate::ladder::Breach;
use crate::monitor::Peak;
use crate::stop::{StopReport, StoppedBy};
use crate::{Error, Result};

/// The version of the records in the run directory.
const SCHEMA_VERSION: u32 = 1;
/// How long a guardian may take to put things away after its job has ended.
const CLOSING_WAIT: Duration = Duration::from_secs(5);
/// How long a look whether a job is alive may hold its lock.
const LOOK_WAIT: Duration = Duration::from_millis(200);
/// A record is never larger than this.
const RECORD_LIMIT: u64 = 1 << 20;

/// What another process needs to end a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// The job's cgroup v2.
    pub cgroup: Option<CgroupId>,
    /// Groups in cgroup v1 hierarchies that only limit and count.
    pub controllers: Vec<PathBuf>,
    /// The init of its PID namespace, whose end is the end of all.
    pub init: Option<ProcessId>,
    /// Its main process.
    pub main: Option<ProcessId>,
}

/// A cgroup, named so that another one at the same path is not taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupId {
    /// Its directory.
    pub path: PathBuf,
    /// The directory's inode.
    pub inode: u64,
}

/// A job's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of this record.
    pub schema_version: u32,
    /// The job's name.
    pub name: String,
    /// The job's identifier, which marks its processes.
    pub id: String,
    /// Which estop it belongs to.
    pub instance: String,
    /// The boot on which it runs.
    pub boot_id: String,
    /// Its guardian.
    pub guardian: ProcessId,
    /// How strong its containment is.
    pub tier: Tier,
    /// What a hostile workload could reach.
    pub isolation: Isolation,
    /// How to end it without its guardian.
    pub handle: Handle,
    /// The directories that it is known to write, which are frozen and put back with it.
    pub stores: Vec<PathBuf>,
    /// The secrets that it has in files: file and secret.
    pub secret_files: Vec<(String, String)>,
    /// The stores that are put back after a `CRITICAL_STOP` of it, as the program that wires the pillars names them.
    pub protects: Vec<String>,
    /// Since when it runs, RFC 3339 in UTC.
    pub started: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this record.
    pub schema_version: u32,
    /// The job's name.
    pub name: String,
    /// The job's identifier.
    pub id: String,
    /// How strong its containment was.
    pub tier: Tier,
    /// What a hostile workload could reach.
    pub isolation: Isolation,
    /// How its main process ended.
    pub exit: Option<Exit>,
    /// Who or what ended it, if it did not end by itself.
    pub stopped_by: Option<StoppedBy>,
    /// The incident that it belongs to.
    pub incident: Option<String>,
    /// Whether the guardian itself opened that incident; otherwise whoever ordered the stop did.
    pub opened_incident: bool,
    /// What tripped.
    pub breach: Option<Breach>,
    /// Why, in words.
    pub reason: String,
    /// The stop's answer. A job that ended by itself may have one too, if it left processes behind.
    pub report: Option<StopReport>,
    /// The highest values seen.
    pub peak: Peak,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// Why it could not be started, if it could not.
    pub failure: Option<Failure>,
}

/// Why a job could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What happened and what to do.
    pub message: String,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The command does not exist.
    NotFound,
    /// The command cannot be executed.
    NotExecutable,
    /// The host offers too little.
    TierTooLow,
    /// The latch holds.
    Latched,
    /// Another job has the name.
    NameTaken,
    /// Anything else.
    Other,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Exec { source, .. } if source.kind() == std::io::ErrorKind::NotFound => FailureKind::NotFound,
            Error::Exec { .. } => FailureKind::NotExecutable,
            Error::TierTooLow { .. } => FailureKind::TierTooLow,
            Error::Latched { .. } => FailureKind::Latched,
            Error::NameTaken { .. } => FailureKind::NameTaken,
            _ => FailureKind::Other,
        };
        Self { kind, message: error.to_string() }
    }
}

/// A run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Opens the run directory at `path`, creating it (0700) and what belongs in it.
    ///
    /// # Errors
    /// If it cannot be created, or belongs to somebody else.
    pub fn open(path: &Path) -> Result<Self> {
        let run_dir = Self::at(path);
        replace::create_dir(&run_dir.path.join("jobs"), 0o700)?;
        refuse_strangers(&run_dir.path)?;
        if !run_dir.now_file().exists() {
            replace::replace(&run_dir.now_file(), b"", 0o600)?;
        }
        Ok(run_dir)
    }

    /// The run directory at `path`, which may not exist.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file through which a shell reaches every guardian.
    pub fn now_file(&self) -> PathBuf {
        self.path.join("now")
    }

    /// The directory of the job `name`.
    pub fn job(&self, name: &str) -> JobDir {
        JobDir { name: name.to_owned(), path: self.path.join("jobs").join(name) }
    }

    /// The directories of all jobs, ended ones too.
    ///
    /// # Errors
    /// If the directory exists and cannot be listed.
    pub fn jobs(&self) -> Result<Vec<JobDir>> {
        let jobs = self.path.join("jobs");
        let mut found = Vec::new();
        match fs::read_dir(&jobs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error).on("list", &jobs),
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.on("list", &jobs)?;
                    if let Some(name) = entry.file_name().to_str() {
                        found.push(JobDir { name: name.to_owned(), path: entry.path() });
                    }
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// The directory of one job.
#[derive(Clone, Debug)]
pub struct JobDir {
    name: String,
    path: PathBuf,
}

impl JobDir {
    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The guardian's socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("guardian.sock")
    }

    /// The directory of the workload's secret files.
    pub fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// Takes the directory for a new job: creates it, locks it and clears what an ended job left.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if a job holds it.
    pub fn claim(&self) -> Result<Lock> {
        replace::create_dir(&self.path, 0o700)?;
        // A guardian whose job has ended is only putting things away; and whoever just looks holds the lock for a moment.
        let wait = if self.outcome().ok().flatten().is_some() { CLOSING_WAIT } else { LOOK_WAIT };
        let lock = match Lock::acquire(&self.path.join("lock"), wait) {
            Err(estop_durable::Error::Locked { .. }) => return Err(Error::NameTaken { name: self.name.clone() }),
            other => other?,
        };
        for stale in [self.socket(), self.path.join("job.json"), self.path.join("outcome.json")] {
            match fs::remove_file(&stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).on("remove", &stale),
                _ => {}
            }
        }
        Ok(lock)
    }

    /// Whether the job is alive: its guardian, or its init, is, and has not reported the job's end.
    ///
    /// # Errors
    /// If the lock file cannot be opened for another reason than its absence.
    pub fn is_alive(&self) -> Result<bool> {
        let lock = self.path.join("lock");
        if !lock.exists() {
            return Ok(false);
        }
        Ok(Lock::try_acquire(&lock)?.is_none() && self.outcome()?.is_none())
    }

    /// The job's record; `None` if there is none, or one of another boot.
    ///
    /// # Errors
    /// [`Error::Record`] if it is not a record, or one that others could have written.
    pub fn entry(&self) -> Result<Option<Entry>> {
        let entry: Option<Entry> = read_record(&self.path.join("job.json"))?;
        Ok(entry.filter(|entry| entry.boot_id == boot_id()))
    }

    /// The user that owns the job's record.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn owner(&self) -> Result<u32> {
        let path = self.path.join("job.json");
        Ok(fs::symlink_metadata(&path).on("look at", &path)?.uid())
    }

    /// How the job ended, if it did.
    ///
    /// # Errors
    /// As for [`JobDir::entry`].
    pub fn outcome(&self) -> Result<Option<Outcome>> {
        read_record(&self.path.join("outcome.json"))
    }

    pub(crate) fn write_entry(&self, entry: &Entry) -> Result<()> {
        write_record(&self.path.join("job.json"), entry)
    }

    /// Leaves how the job ended for whoever started it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_outcome(&self, outcome: &Outcome) -> Result<()> {
        write_record(&self.path.join("outcome.json"), outcome)
    }

    /// Removes the directory of an ended job.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", &self.path),
            _ => Ok(()),
        }
    }
}

/// This boot's identifier.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let bytes = serde_json::to_vec(record)
        .map_err(|error| Error::Record { path: path.to_owned(), detail: error.to_string() })?;
    Ok(replace::replace(path, &bytes, 0o600)?)
}

fn read_record<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    let refuse = |detail: String| Error::Record { path: path.to_owned(), detail };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.on("look at", path)?,
    };
    if !metadata.is_file() || metadata.mode() & 0o022 != 0 {
        return Err(refuse("others could have written it".to_owned()));
    }
    if metadata.len() > RECORD_LIMIT {
        return Err(refuse(format!("it has {} bytes", metadata.len())));
    }
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.on("read", path)?,
    };
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let version = value.get("schema_version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(SCHEMA_VERSION)) {
        return Err(refuse(format!("its version is {version:?}, this estop reads {SCHEMA_VERSION}")));
    }
    serde_json::from_value(value).map(Some).map_err(|error| refuse(error.to_string()))
}

/// A directory in which another user could put records is no run directory of ours.
fn refuse_strangers(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path).on("look at", path)?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own || metadata.mode() & 0o022 != 0 || !metadata.is_dir() {
        let detail = format!("it belongs to user {} with mode {:o}", metadata.uid(), metadata.mode() & 0o7777);
        return Err(Error::Record { path: path.to_owned(), detail });
    }
    Ok(())
}

/// Whether the process `pid` runs inside a job, this process itself excepted from its own surroundings: an estop that was
/// started inside a job commands the jobs that it has made, and no others.
///
/// `by_lineage` looks at parentage too, which costs a walk through `/proc`: for jobs with neither a cgroup nor a namespace.
pub fn is_inside_a_job(pid: u32, by_lineage: bool) -> bool {
    let own = std::process::id();
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    if namespace(pid) != namespace(own) {
        return true;
    }
    let job_of =
        |pid: u32| procfs::cgroup(pid).filter(|path| path.split('/').any(|part| part == "estop"));
    let of_peer = job_of(pid);
    if of_peer.is_some() && of_peer != job_of(own) {
        return true;
    }
    by_lineage && procfs::descendants(&[own]).iter().any(|stat| stat.id.pid == pid)
}

/// Whether the process `pid` descends from a guardian in `run_dir`: for jobs with neither a cgroup nor a namespace, which
/// only their lineage shows.
pub fn is_below_a_guardian(run_dir: &RunDir, pid: u32) -> bool {
    let entries = run_dir.jobs().unwrap_or_default().into_iter().filter_map(|dir| dir.entry().ok().flatten());
    let guardians: Vec<ProcessId> = entries.map(|entry| entry.guardian).collect();
    let parent = |stat: &Stat| procfs::stat(stat.parent);
    std::iter::successors(procfs::stat(pid), parent).skip(1).any(|stat| guardians.contains(&stat.id))
}
