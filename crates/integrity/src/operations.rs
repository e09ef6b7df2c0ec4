//! Looking at the transaction log: every operation on every path, in order, also while another process writes it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::Result;
use crate::content::ContentId;
use crate::log::{Batches, Lsn, Record, look_into};
use crate::path::StorePath;
use crate::snapshot::{SCHEMA_VERSION, SnapshotManager};
use crate::state::{ChangeKind, Node, Version};
use crate::transaction::TransactionId;

/// Why a path changed, as far as estop knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OperationOrigin {
    /// A transaction.
    Transaction,
    /// Some program, as a look at the store has shown.
    Observed,
    /// A rollback of the store.
    Rollback,
}

/// What was at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// `file`, `directory` or `symlink`.
    pub kind: &'static str,
    /// Length in bytes.
    pub bytes: u64,
    /// The name of its content: its BLAKE3 hash. `None` for what has none, or could not be read.
    #[serde(serialize_with = "as_text")]
    pub content: Option<ContentId>,
    /// Permission bits; on Windows, the attributes that are kept.
    pub mode: u32,
}

#[expect(clippy::ref_option, reason = "serde hands the field over like this")]
fn as_text<S: serde::Serializer>(id: &Option<ContentId>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

impl From<&Version> for Held {
    fn from(version: &Version) -> Self {
        let kind = match version.node {
            Node::File { .. } => "file",
            Node::Directory => "directory",
            Node::Symlink { .. } => "symlink",
        };
        Self { kind, bytes: version.size(), content: version.content(), mode: version.meta.mode }
    }
}

/// One operation on one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// The version of this object.
    pub schema_version: u32,
    /// From where in the history on it holds; operations of one transaction have the same.
    pub lsn: Lsn,
    /// When it was committed or observed.
    pub time: Timestamp,
    /// Why.
    pub origin: OperationOrigin,
    /// The transaction it belongs to.
    pub transaction: Option<TransactionId>,
    /// What kind of change it is.
    pub kind: ChangeKind,
    /// The path.
    pub path: StorePath,
    /// What was there; `None`: nothing.
    pub before: Option<Held>,
    /// What is there since; `None`: nothing.
    pub after: Option<Held>,
}

/// A place in a log, from which it is read on.
#[derive(Debug)]
pub struct Operations {
    dir: PathBuf,
    next: Lsn,
    in_rollback: bool,
}

impl Operations {
    /// The operations in the log of the vault `vault`, from its beginning. No lock is taken: another process may be writing it.
    pub fn of(vault: &Path) -> Self {
        Self { dir: vault.join("log"), next: 1, in_rollback: false }
    }

    /// The operations that have come since the last call. Where only a directory's time moved, none is told.
    ///
    /// # Errors
    /// [`Error::Durable`](crate::Error::Durable), [`Error::LogRecord`](crate::Error::LogRecord) if the log is damaged.
    pub fn more(&mut self) -> Result<Vec<Operation>> {
        let mut operations = Vec::new();
        let mut batches = Batches::default();
        let dir = self.dir.clone();
        for record in look_into(&dir, self.next)? {
            let (lsn, mut record) = record?;
            let joined = batches.take(&mut record);
            let (time, origin, transaction) = match &record {
                // The rest of it may be about to come.
                Record::Changes(part) if !part.last => continue,
                Record::Transaction(part) if !part.last => continue,
                Record::Changes(part) if self.in_rollback => (part.time, OperationOrigin::Rollback, None),
                Record::Changes(part) => (part.time, OperationOrigin::Observed, None),
                Record::Transaction(part) => (part.time, OperationOrigin::Transaction, Some(part.transaction.clone())),
                other => {
                    self.in_rollback = match other {
                        Record::RollbackApply { .. } => true,
                        Record::RollbackEnd { .. } => false,
                        _ => self.in_rollback,
                    };
                    self.next = lsn + 1;
                    continue;
                }
            };
            self.next = lsn + 1;
            for change in joined.unwrap_or_default().into_iter().filter(crate::state::Change::is_notable) {
                operations.push(Operation {
                    schema_version: SCHEMA_VERSION,
                    lsn,
                    time,
                    origin,
                    transaction: transaction.clone(),
                    kind: change.kind(),
                    before: change.before.as_ref().map(Held::from),
                    after: change.after.as_ref().map(Held::from),
                    path: change.path,
                });
            }
        }
        Ok(operations)
    }
}

impl SnapshotManager {
    /// Every operation in the log so far.
    ///
    /// # Errors
    /// As [`Operations::more`].
    pub fn operations(&self) -> Result<Vec<Operation>> {
        Operations::of(self.store().vault()).more()
    }
}
