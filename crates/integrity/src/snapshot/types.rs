//! What a snapshot is, in the log and in answers.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::log::Lsn;
use crate::observe::{Coverage, Skipped, Unstable};
use crate::state::StateChecksum;

/// The version of every object that this crate answers with.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The name of a snapshot: sixteen hexadecimal digits. A unique beginning of it is enough to name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// The name that follows from what the snapshot is.
    pub(crate) fn derive(vault: &[u8; 16], before: Lsn, created: Timestamp, checksum: &StateChecksum) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("estop 2026 snapshot id, version 1");
        hasher.update(vault);
        hasher.update(&before.to_le_bytes());
        hasher.update(&created.as_nanosecond().to_le_bytes());
        hasher.update(&checksum.0);
        Self(hasher.finalize().to_hex()[..16].to_owned())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a snapshot was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Somebody asked for it.
    Manual,
    /// It was due.
    Schedule,
    /// A program was about to be started.
    BeforeRun,
    /// A rollback was about to be made: it undoes the rollback.
    BeforeRollback,
    /// An emergency was being handled.
    Incident,
}

/// Whether the snapshot is one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// The known writers stood still: it is one point in time.
    Frozen,
    /// There was no known writer, or they could not be frozen: each file is as it was when it was read.
    Live,
}

/// What the log keeps of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Its name.
    pub id: SnapshotId,
    /// When.
    pub created: Timestamp,
    /// What somebody called it.
    pub label: Option<String>,
    /// It is never removed by rotation.
    pub pinned: bool,
    /// Why it was made.
    pub origin: Origin,
    /// Regular files and symbolic links, by name.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of content; a file with several names counts once.
    pub bytes: u64,
    /// Files that its observation found added, changed or removed.
    pub changed_files: u64,
    /// Bytes of the added and changed ones.
    pub changed_bytes: u64,
    /// Over the whole state.
    pub checksum: StateChecksum,
    /// From the request until its record was written.
    pub seconds: f64,
    /// How long the writers stood still.
    pub frozen_seconds: f64,
    /// Whether it is one moment.
    pub consistency: Consistency,
    /// Why the writers could not be frozen, if they could not.
    pub freeze_error: Option<String>,
    /// How it is known that nothing was missed.
    pub coverage: Coverage,
    /// What it does not hold.
    pub skipped: Skipped,
    /// What changed while it was read.
    pub unstable: Unstable,
}

/// A snapshot of a store: the whole state at one LSN. Serialises to the interface that scripts rely on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KBSnapshot {
    /// The version of this object.
    pub schema_version: u32,
    /// Its name: sixteen hexadecimal digits.
    pub id: SnapshotId,
    /// The store's name.
    pub store: String,
    /// The state that it is.
    pub lsn: Lsn,
    /// When.
    pub created: Timestamp,
    /// What somebody called it.
    pub label: Option<String>,
    /// It is never removed by rotation.
    pub pinned: bool,
    /// Regular files and symbolic links, by name.
    pub files: u64,
    /// Bytes of content; a file with several names counts once.
    pub bytes: u64,
    /// Files that its observation found added, changed or removed.
    pub changed_files: u64,
    /// Bytes of the added and changed ones.
    pub changed_bytes: u64,
    /// BLAKE3 over the whole state, hexadecimal.
    pub checksum: String,
    /// From the request until its record was written; making that durable comes on top.
    pub seconds: f64,
    /// How long the writers stood still.
    pub frozen_seconds: f64,
    /// Why it was made.
    pub origin: Origin,
    /// Directories.
    pub directories: u64,
    /// Whether it is one moment.
    pub consistency: Consistency,
    /// Why the writers could not be frozen, if they could not.
    pub freeze_error: Option<String>,
    /// How it is known that nothing was missed.
    pub coverage: Coverage,
    /// What it does not hold.
    pub skipped: Skipped,
    /// What changed while it was read.
    pub unstable: Unstable,
}

impl KBSnapshot {
    pub(crate) fn new(store: &str, lsn: Lsn, details: Details) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            id: details.id,
            store: store.to_owned(),
            lsn,
            created: details.created,
            label: details.label,
            pinned: details.pinned,
            files: details.files,
            bytes: details.bytes,
            changed_files: details.changed_files,
            changed_bytes: details.changed_bytes,
            checksum: details.checksum.to_string(),
            seconds: details.seconds,
            frozen_seconds: details.frozen_seconds,
            origin: details.origin,
            directories: details.directories,
            consistency: details.consistency,
            freeze_error: details.freeze_error,
            coverage: details.coverage,
            skipped: details.skipped,
            unstable: details.unstable,
        }
    }
}
