//! The critical-failure log: what tripped, what led to it, what was running and what survived; one JSON line each, chained by hash, so that
//! no line can be changed, removed or moved unnoticed.

use std::path::{Path, PathBuf};

use estop_durable::lines::{self, Lines};
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
    /// # Errors
    /// [`Error::Durable`] if it could not be made durable, or the log's end is damaged.
    pub fn append(&self, entry: &CriticalFailure) -> Result<u64> {
        let unreadable = |detail: String| Error::Unreadable { path: self.path.clone(), detail };
        match serde_json::to_value(entry) {
            Ok(Value::Object(fields)) => Ok(self.lines.append(&fields)?),
            Ok(_) => Err(unreadable("an entry is not an object".into())),
            Err(error) => Err(unreadable(error.to_string())),
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
        Ok(AuditReport {
            schema_version: SCHEMA_VERSION,
            path: path.to_owned(),
            lines: report.lines,
            ok: report.ok,
            faults: faults.collect(),
        })
    }
}
