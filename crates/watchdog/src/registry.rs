//! The run directory, in which jobs are found.
//!
//! ```text
//! RUN_DIR/                 0700
//!   now                    `echo now > RUN_DIR/now` is CRITICAL_STOP for every guardian
//!   jobs/NAME/lock         held by the guardian as long as it lives
//!   jobs/NAME/job.json     what another process needs to end the job
//!   jobs/NAME/guardian.sock (on Windows it is a pipe, which the record names by the job's identifier)
//!   jobs/NAME/secrets/     the workload's secret files
//!   jobs/NAME/outcome.json how it ended
//!   jobs/NAME/outcome      the same in short, where the disk was full
//!   jobs/NAME/outcome.ID   how the job ID ended, if the name was taken again before its starter had read that
//! ```
//!
//! Nothing in it is trusted beyond its owner: a record leads only to processes of the user that owns it, on the boot that
//! wrote it, and to cgroups by their inode below estop's own root.

#[cfg(target_os = "linux")]
mod linux;
mod reserve;
#[cfg(windows)]
mod windows;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use estop_durable::lock::Lock;
use estop_durable::replace;
use serde::{Deserialize, Serialize};

use crate::error::Context as _;
use crate::job::{Exit, Isolation, ProcessId, Reach, Tier};
use crate::ladder::Breach;
use crate::monitor::Peak;
use crate::stop::{StopReport, StoppedBy};
use crate::{Error, Result};

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(windows)]
use windows as platform;

pub(crate) use platform::Owner;
#[cfg(target_os = "linux")]
pub use platform::is_inside_a_job;
#[cfg(target_os = "linux")]
pub(crate) use platform::open_socket;
pub use platform::{boot_id, is_below_a_guardian};
pub(crate) use reserve::Reserve;

/// The version of the records in the run directory.
const SCHEMA_VERSION: u32 = 1;
/// The files of a job's directory.
const LOCK: &str = "lock";
const ENTRY: &str = "job.json";
const RESERVE: &str = "outcome";
const OUTCOME: &str = "outcome.json";
const OUTCOME_OF: &str = "outcome.";
/// How long a guardian may take to put things away after its job has ended.
const CLOSING_WAIT: Duration = Duration::from_secs(5);
/// How long an outcome is kept for a starter whose job's name was taken again.
const UNREAD_LIMIT: Duration = Duration::from_hours(1);
/// How long whoever takes away an ended job may hold its lock.
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
    /// On Windows: the number that its job object has in the guardian.
    #[serde(default)]
    pub object: Option<u64>,
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
    /// Who started it, and sees to its end while that process is there.
    #[serde(default)]
    pub starter: Option<ProcessId>,
    /// How strong its containment is.
    pub tier: Tier,
    /// As whom it runs, beside estop.
    pub isolation: Isolation,
    /// What a hostile workload could do to its guard.
    #[serde(default)]
    pub reachable: Vec<Reach>,
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
    /// When its emergency began, RFC 3339 in UTC, if it ended by one.
    #[serde(default)]
    pub stopped_at: Option<String>,
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
    /// Nothing there enforces a limit.
    Unenforceable,
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
            Error::Unenforceable { .. } => FailureKind::Unenforceable,
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
        platform::refuse_strangers(&run_dir.path)?;
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

    /// Takes the directory for a new job: creates it and locks it. What an ended job left is still in it.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if a job holds it.
    pub(crate) fn claim(&self) -> Result<Lock> {
        // A guardian whose job has ended is only putting things away; and whoever removes an ended job holds it for a moment.
        let wait = if self.outcome().ok().flatten().is_some() { CLOSING_WAIT } else { LOOK_WAIT };
        let deadline = Instant::now() + wait;
        loop {
            match replace::create_dir(&self.path, 0o700) {
                // It was removed in the moment in which it was made.
                Err(estop_durable::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
            match self.lock(deadline)? {
                Some(lock) => return Ok(lock),
                None if Instant::now() >= deadline => return Err(Error::NameTaken { name: self.name.clone() }),
                None => {}
            }
        }
    }

    /// Clears what an ended job left, for a new one; `_held` is the lock of the directory. How it ended is kept for its
    /// starter, if that has not read it yet.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub(crate) fn clear(&self, _held: &Lock) -> Result<()> {
        if let Ok(Some(ended)) = self.outcome()
            && let Some(aside) = self.aside(&ended.id)
        {
            write_record(&aside, &ended)?;
        }
        self.drop_unread()?;
        for stale in [self.socket(), self.path.join(OUTCOME), self.path.join(RESERVE), self.path.join(ENTRY)] {
            remove_file(&stale)?;
        }
        Ok(())
    }

    /// Gives a directory back in which nothing was changed: where it is nobody's, it goes.
    pub(crate) fn give_back(&self, held: &Lock) {
        if matches!(self.current_id(), Ok(None)) {
            // An empty directory that stays is in nobody's way.
            let _ = self.remove_held(held);
        }
    }

    /// Removes outcomes that were put aside for starters that must be gone too.
    fn drop_unread(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).on("list", &self.path)? {
            let entry = entry.on("list", &self.path)?;
            let age = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
            if is_aside(&entry.path()) && age.is_some_and(|age| age > UNREAD_LIMIT) {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Takes the lock, waiting until `deadline`. `None` if somebody holds it, or the directory has gone meanwhile.
    fn lock(&self, deadline: Instant) -> Result<Option<Lock>> {
        let path = self.path.join(LOCK);
        match Lock::acquire(&path, deadline.saturating_duration_since(Instant::now())) {
            Ok(lock) => Ok(lock.is_on(&path)?.then_some(lock)),
            Err(estop_durable::Error::Locked { .. }) => Ok(None),
            Err(estop_durable::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the job is alive: its guardian is, and has not reported the job's end.
    ///
    /// # Errors
    /// If the lock file cannot be opened for another reason than its absence.
    pub fn is_alive(&self) -> Result<bool> {
        let path = self.path.join(LOCK);
        let is_held = match platform::open_record(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            file => Lock::is_held_on(&file.on("open", &path)?, &path)?,
        };
        Ok(is_held && self.outcome()?.is_none())
    }

    /// Takes the directory to settle the job `id`, whose guardian has ended, so that nobody starts another one there
    /// meanwhile. `None` if the name is another job's by now, or nothing is left.
    ///
    /// # Errors
    /// If it cannot be locked or read, or its guardian lives after all.
    pub fn settle(&self, id: &str) -> Result<Option<Lock>> {
        let deadline = Instant::now() + CLOSING_WAIT;
        while self.current_id()?.as_deref() == Some(id) && Instant::now() < deadline {
            if let Some(lock) = self.lock(Instant::now() + LOOK_WAIT)? {
                if self.current_id()?.as_deref() == Some(id) {
                    return Ok(Some(lock));
                }
                self.give_back(&lock);
                return Ok(None);
            }
        }
        if self.current_id()?.as_deref() == Some(id) {
            return Err(estop_durable::Error::Locked { path: self.path.join(LOCK) }.into());
        }
        Ok(None)
    }

    /// Whose the directory is.
    fn current_id(&self) -> Result<Option<String>> {
        Ok(match self.entry()? {
            Some(entry) => Some(entry.id),
            None => self.outcome()?.map(|outcome| outcome.id),
        })
    }

    /// The job's record; `None` if there is none, or one of another boot.
    ///
    /// # Errors
    /// [`Error::Record`] if it is not a record, one that others could have written, or another job's.
    pub fn entry(&self) -> Result<Option<Entry>> {
        Ok(self.owned_entry()?.map(|(entry, _)| entry))
    }

    /// The job's record as [`JobDir::entry`] answers it, with the user whose it is.
    ///
    /// # Errors
    /// As for [`JobDir::entry`].
    pub(crate) fn owned_entry(&self) -> Result<Option<(Entry, Owner)>> {
        let path = self.path.join(ENTRY);
        let record = read_owned_record::<Entry>(&path)?;
        match record.filter(|(entry, _)| entry.boot_id == boot_id()) {
            // Copied or linked there from elsewhere: nobody has asked for the end of that job.
            Some((entry, _)) if entry.name != self.name => {
                Err(Error::Record { path, detail: format!("it is the record of {}", entry.name) })
            }
            record => Ok(record),
        }
    }

    /// How the job ended, if it did.
    ///
    /// # Errors
    /// As for [`JobDir::entry`].
    pub fn outcome(&self) -> Result<Option<Outcome>> {
        match read_record(&self.path.join(OUTCOME))? {
            Some(outcome) => Ok(Some(outcome)),
            None => self.brief_outcome(),
        }
    }

    /// What a guardian whose disk was full could say of the end.
    fn brief_outcome(&self) -> Result<Option<Outcome>> {
        let Some(brief) = Reserve::read(&self.path.join(RESERVE))? else { return Ok(None) };
        Ok(self.entry()?.filter(|entry| brief.is_of(entry)).map(|entry| brief.outcome(&entry)))
    }

    /// Sets a place aside for the end of the job, so that a full disk does not keep it from being told.
    pub(crate) fn reserve(&self) -> Result<Reserve> {
        Reserve::create(&self.path.join(RESERVE))
    }

    pub(crate) fn write_entry(&self, entry: &Entry) -> Result<()> {
        write_record(&self.path.join(ENTRY), entry)
    }

    /// Leaves how the job ended for whoever started it; in short, in `reserve`, where the disk is full.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write_outcome(&self, outcome: &Outcome, reserve: &Reserve) -> Result<()> {
        write_record(&self.path.join(OUTCOME), outcome).or_else(|_| reserve.write(outcome))
    }

    /// How the job `id` ended, also if the name is another job's by now.
    ///
    /// # Errors
    /// As for [`JobDir::entry`].
    pub fn outcome_of(&self, id: &str) -> Result<Option<Outcome>> {
        match self.outcome()? {
            Some(outcome) if outcome.id == id => Ok(Some(outcome)),
            _ => self.aside(id).map_or(Ok(None), |aside| read_record(&aside)),
        }
    }

    /// Where the outcome of the job `id` is kept when the name is taken again. None for what cannot be an identifier.
    fn aside(&self, id: &str) -> Option<PathBuf> {
        let plain =
            !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        plain.then(|| self.path.join(format!("{OUTCOME_OF}{id}")))
    }

    /// Removes what is left of the ended job `id`: the directory, or, if another job has the name by now, no more than its
    /// own outcome.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        if let Some(lock) = self.settle(id)? {
            self.remove_held(&lock)?;
            drop(lock);
            // Where the lock's name stays for as long as it is open, as on older Windows, the directory is empty only now.
            let _ = fs::remove_dir(&self.path);
            return Ok(());
        }
        // Another job has the name, and has put this outcome aside by now.
        if let Some(aside) = self.aside(id) {
            remove_file(&aside)?;
        }
        // Where that outcome was all that was left, the directory goes with it; otherwise it is not empty.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }

    /// Removes the directory, whose lock the caller holds. The lock goes last: until then nobody else can take the directory.
    /// Outcomes that others have yet to read stay.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove_held(&self, _held: &Lock) -> Result<()> {
        let lock = self.path.join(LOCK);
        // The record first: one without an outcome is of a job that nobody has proven to be over.
        remove_file(&self.path.join(ENTRY))?;
        for entry in fs::read_dir(&self.path).on("list", &self.path)? {
            let entry = entry.on("list", &self.path)?;
            let path = entry.path();
            if entry.file_type().on("look at", &path)?.is_dir() {
                fs::remove_dir_all(&path).on("remove", &path)?;
            } else if path != lock && !is_aside(&path) {
                remove_file(&path)?;
            }
        }
        remove_file(&lock)?;
        match fs::remove_dir(&self.path) {
            // The name is taken again already, or an outcome is yet to be read.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.on("remove", &self.path),
        }
    }
}

/// Whether `path` is the outcome of a job whose name was taken again.
fn is_aside(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name != OUTCOME && name.starts_with(OUTCOME_OF)
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", path),
        _ => Ok(()),
    }
}

fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let bytes = serde_json::to_vec(record)
        .map_err(|error| Error::Record { path: path.to_owned(), detail: error.to_string() })?;
    Ok(replace::replace(path, &bytes, 0o600)?)
}

fn read_record<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    Ok(read_owned_record(path)?.map(|(record, _)| record))
}

/// The record and the user whose it is, both of the one file that is opened: who owns the directory may put another there.
fn read_owned_record<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<(T, Owner)>> {
    let refuse = |detail: String| Error::Record { path: path.to_owned(), detail };
    let file = match platform::open_record(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.on("open", path)?,
    };
    let metadata = file.metadata().on("look at", path)?;
    let owner = platform::owner_of(&file, &metadata).on("look at", path)?;
    let Some(owner) = owner.filter(|_| metadata.is_file()) else {
        return Err(refuse("others could have written it".to_owned()));
    };
    if metadata.len() > RECORD_LIMIT {
        return Err(refuse(format!("it has {} bytes", metadata.len())));
    }
    let mut bytes = Vec::new();
    file.take(RECORD_LIMIT).read_to_end(&mut bytes).on("read", path)?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let version = value.get("schema_version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(SCHEMA_VERSION)) {
        return Err(refuse(format!("its version is {version:?}, this estop reads {SCHEMA_VERSION}")));
    }
    let record = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
    Ok(Some((record, owner)))
}
