//! What a rollback did.

use serde::{Deserialize, Serialize};

use crate::log::{Lsn, Outcome};
use crate::platform::OpenBy;
use crate::snapshot::SnapshotId;
use crate::verify::VerifyError;

/// What a rollback did, or (dry run) would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RollbackReport {
    /// The version of this object.
    pub schema_version: u32,
    /// The store's name.
    pub store: String,
    /// Nothing was done; this is what would be.
    pub dry_run: bool,
    /// The state before.
    pub from_lsn: Lsn,
    /// The state that was gone back to.
    pub to_lsn: Lsn,
    /// The rollback's own place in the history; `None` for a dry run.
    pub new_lsn: Option<Lsn>,
    /// The snapshot that undoes it; `None` for a dry run.
    pub safety_snapshot: Option<SnapshotId>,
    /// How to undo it; `None` for a dry run.
    pub undo_command: Option<String>,
    /// Processes with files of the store open for writing, as far as they can be seen: they may write into files that are no longer
    /// in the store.
    pub open_by: Vec<OpenBy>,
    /// Files whose content or metadata was put back.
    pub restored: u64,
    /// Files that were not there at that point, moved to the trash.
    pub removed: u64,
    /// Files that were as they should be.
    pub unchanged: u64,
    /// Bytes of content put back.
    pub bytes: u64,
    /// Everything put back was read back, and everything concerned is as it should be.
    pub verified: bool,
    /// What is not.
    pub errors: Vec<VerifyError>,
    /// Files that came back without their set-uid or set-gid bits or capabilities, which are put back only on request.
    pub withheld: Vec<String>,
    /// Where in the vault what was removed lies; `None` if nothing was.
    pub trash: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// A rollback that a crash interrupted and opening the store ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovered {
    /// The state it was to go back to.
    pub to_lsn: Lsn,
    /// The snapshot that undoes it.
    pub safety_snapshot: SnapshotId,
    /// How it ended.
    pub outcome: Outcome,
    /// What is not as it should be.
    pub errors: Vec<VerifyError>,
}
