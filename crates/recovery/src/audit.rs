//! The critical-failure log: what tripped, what led to it, what was running and what survived; one JSON line each, chained by hash, so that
//! no line can be changed, removed or moved unnoticed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_durable::lines::{self, Lines};
use estop_durable::lock::Lock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::incident::{Detail, IncidentId};
use crate::{Error, Result, SCHEMA_VERSION};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CriticalFailure {
    /// The version of this form.
    pub schema_version: u32,
    /// When it happened.
    pub time: Timestamp,
    /// What happened, as one word or a few joined by hyphens: `limit-breach`, `critical-stop`, `stop-not-proven`.
    pub event: String,
    /// In which workload; none if in all or in estop itself.
    pub workload: Option<String>,
    /// For a person.
    pub reason: Option<String>,
    /// The incident that it belongs to.
    pub incident: Option<IncidentId>,
    /// The limit that was reached, as a number or with its unit.
    pub limit: Option<Value>,
    /// The value that reached it.
    pub value: Option<Value>,
    /// The samples before it, oldest first.
    pub history: Vec<Value>,
    /// The processes at that moment.
    pub tree: Vec<Value>,
    /// The processes that outlived the stop.
    pub survivors: Vec<Value>,
    /// What else is known. Its fields stand beside the others.
    #[serde(flatten)]
    pub more: Detail,
}

impl CriticalFailure {
    /// An entry of this moment that says only what happened.
    #[must_use]
    pub fn new(event: impl Into<String>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            time: Timestamp::now(),
            event: event.into(),
            workload: None,
            reason: None,
            incident: None,
            limit: None,
            value: None,
            history: Vec::new(),
            tree: Vec::new(),
            survivors: Vec::new(),
            more: Detail::new(),
        }
    }
}

/// The critical-failure log: append-only, on [`estop_durable::lines`].
#[derive(Debug)]
pub struct CriticalFailureLog {
    lines: Lines,
    path: PathBuf,
}

/// What a check of the log found: the answer of `estop record verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// The version of this form.
    pub schema_version: u32,
    /// The log.
    pub path: PathBuf,
    /// How many lines it has.
    pub lines: u64,
    /// Whether every line is as it was written, in its place, and none is missing.
    pub ok: bool,
    /// What is wrong.
    pub faults: Vec<AuditFault>,
}

/// One fault of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFault {
    /// In which line, from 1.
    pub line: u64,
    /// `changed`, `missing`, `swapped` or `truncated`.
    pub kind: String,
    /// For a person.
    pub detail: String,
}

impl CriticalFailureLog {
    /// Opens the log at `path`, or begins it.
    ///
    /// # Errors
    /// [`Error::Durable`] if it can't be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { lines: Lines::open(path)?, path: path.to_owned() })
    }

    /// Appends an entry and returns its sequence number, from 1. It is durable on return.
    ///
    /// A log whose end is damaged is put aside as it is, and a new one begun: damage must not keep what comes after it from being
    /// recorded. [`CriticalFailureLog::verify`] names what was put aside.
    ///
    /// # Errors
    /// [`Error::Durable`] if it could not be made durable.
    pub fn append(&self, entry: &CriticalFailure) -> Result<u64> {
        let unreadable = |detail: String| Error::Unreadable { path: self.path.clone(), detail };
        let fields = match serde_json::to_value(entry) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(unreadable("an entry is not an object".into())),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        match self.lines.append(&fields) {
            Err(estop_durable::Error::Damaged { .. }) => {
                put_aside(&self.path)?;
                Ok(Lines::open(&self.path)?.append(&fields)?)
            }
            other => Ok(other?),
        }
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks the log at `path` against its chain and against its head, which stands in a file beside it. Changes nothing, and needs no
    /// running estop.
    ///
    /// # Errors
    /// [`Error::Durable`] if it can't be read at all.
    pub fn verify(path: &Path) -> Result<AuditReport> {
        let report = lines::verify(path)?;
        let faults = report.faults.into_iter().map(|fault| AuditFault {
            line: fault.line,
            kind: fault.kind.to_string(),
            detail: fault.detail,
        });
        let damaged = damaged(path).into_iter().map(|aside| AuditFault {
            line: 0,
            kind: "damaged".to_owned(),
            detail: format!("an earlier log was damaged and put aside: {}", aside.display()),
        });
        let faults: Vec<_> = faults.chain(damaged).collect();
        let ok = report.ok && faults.is_empty();
        Ok(AuditReport { schema_version: SCHEMA_VERSION, path: path.to_owned(), lines: report.lines, ok, faults })
    }
}

/// How long another process that puts it aside is waited for.
const ASIDE_WAIT: Duration = Duration::from_secs(5);

/// What begins the name of a log that was put aside.
fn aside_prefix(path: &Path) -> String {
    format!("{}.damaged-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Renames the damaged log at `path` and its head, unless somebody else has done so by now.
fn put_aside(path: &Path) -> Result<()> {
    let named = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        path.with_file_name(name)
    };
    let _lock = Lock::acquire(&named(".aside"), ASIDE_WAIT)?;
    if lines::verify(path)?.ok {
        return Ok(());
    }
    let name = format!("{}{}", aside_prefix(path), Timestamp::now().as_millisecond());
    for (from, to) in [(named(".head"), format!("{name}.head")), (path.to_owned(), name)] {
        let to = path.with_file_name(to);
        match estop_durable::file::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Unreadable { path: from, detail: format!("it cannot be put aside: {error}") });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The logs beside `path` that were put aside.
fn damaged(path: &Path) -> Vec<PathBuf> {
    let prefix = aside_prefix(path);
    // Each has its head beside it, by the same name and a suffix.
    let is_aside =
        |name: &str| name.strip_prefix(&prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    let beside = path.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        beside.filter(|entry| entry.file_name().to_str().is_some_and(is_aside)).map(|entry| entry.path()).collect();
    found.sort_unstable();
    found
}
