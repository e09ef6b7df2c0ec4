//! Transactions over files: several paths change together, or none does.
//!
//! Nothing in the store changes before the commit. What is put is stored in the packs; what is to be done is kept in memory, and in
//! the vault if [`Transaction::keep`] is asked to. A commit checks that every path is still as the transaction found it (first
//! committer wins), makes the decision durable in the log, moves prepared files into place, and notes the end. A crash before the
//! decision leaves nothing of it; one after it is completed when the store is opened again.

mod apply;
mod commit;
mod conflict;
mod edit;
mod keep;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::log::{Lsn, Outcome};
use crate::path::StorePath;
use crate::snapshot::SnapshotManager;
use crate::state::Version;

pub use conflict::ChangedBy;
pub use keep::{KEPT, OpenTransaction};
pub(crate) use queue::Queue;

/// So many paths one transaction touches at most.
pub const MOST_PATHS: usize = 10_000;
/// So many kept transactions one store has at most.
pub const MOST_OPEN: usize = 64;

/// Makes the next name of this process differ from the last.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The name of a transaction: sixteen hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransactionId(String);

impl TransactionId {
    fn derive(vault: &[u8; 16], lsn: Lsn, begun: Timestamp) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("estop 2026 transaction id, version 1");
        hasher.update(vault);
        hasher.update(&lsn.to_le_bytes());
        hasher.update(&begun.as_nanosecond().to_le_bytes());
        hasher.update(&std::process::id().to_le_bytes());
        hasher.update(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Self(hasher.finalize().to_hex()[..16].to_owned())
    }

    /// Takes `text` as one; `None` if it can't be.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 16 && text.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a transaction is to do, and what it relies on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Draft {
    pub(crate) id: TransactionId,
    pub(crate) begun: Timestamp,
    /// The end of the history when it was begun.
    pub(crate) lsn: Lsn,
    pub(crate) touched: BTreeMap<StorePath, Touched>,
    /// Directories that it found and puts something into.
    pub(crate) directories: BTreeSet<StorePath>,
}

/// One path of a transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Touched {
    /// What was there when the transaction first looked; `None`: nothing.
    pub(crate) base: Option<Version>,
    /// What is to be there; `None`: nothing.
    pub(crate) after: Option<Version>,
}

/// A transaction that is not committed yet. Dropping it gives it up, unless it was kept.
#[derive(Debug)]
pub struct Transaction<'m> {
    manager: &'m SnapshotManager,
    draft: Draft,
}

impl Transaction<'_> {
    /// Its name.
    pub fn id(&self) -> &TransactionId {
        &self.draft.id
    }
}

/// What a commit did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommitReport {
    /// The version of this object.
    pub schema_version: u32,
    /// The store's name.
    pub store: String,
    /// The transaction.
    pub transaction: TransactionId,
    /// Its place in the history: `lsn:N` is the state right after it.
    pub lsn: Lsn,
    /// Files and symbolic links that were put in place.
    pub put: u64,
    /// Files and symbolic links that were removed.
    pub deleted: u64,
    /// Bytes of content put in place.
    pub bytes: u64,
    /// It had been committed before it was asked for again.
    pub already: bool,
    /// How many transactions were committed together with it, itself included.
    pub together: u64,
    /// How long the writers stood still for it; 0 if they were not frozen.
    pub frozen_seconds: f64,
    /// Why some of them may have run meanwhile.
    pub freeze_error: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// A commit that a crash interrupted and opening the store ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecoveredTransaction {
    /// The transaction.
    pub transaction: TransactionId,
    /// Its place in the history.
    pub lsn: Lsn,
    /// How it ended.
    pub outcome: Outcome,
}
