//! What the run directory has from Windows: owners by their SIDs, and who runs inside a job: whoever does may give no orders.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::Path;

use estop_durable::access;
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT};

use super::RunDir;
use crate::error::Context as _;
use crate::job::windows::Stranded;
use crate::{Error, Result};

/// A record that is trusted is this user's, or an administrator's.
pub(crate) type Owner = ();

/// Windows names no boot. A record of an earlier one leads to a guardian that has gone, and with it the job.
pub fn boot_id() -> String {
    String::new()
}

/// Opens a record. No link is followed.
pub(super) fn open_record(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(path)
}

/// Whose an open record is; `None` if others could have written it.
pub(super) fn owner_of(file: &File, _metadata: &Metadata) -> io::Result<Option<Owner>> {
    Ok(access::is_own(file)?.then_some(()))
}

/// A directory in which another user could put records is no run directory of ours.
pub(super) fn refuse_strangers(path: &Path) -> Result<()> {
    let flags = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(path).on("look at", path)?;
    if access::is_own(&directory).on("look at", path)? {
        return Ok(());
    }
    Err(Error::Record { path: path.to_owned(), detail: "it belongs to another user".to_owned() })
}

/// Whether the process `pid` runs inside the job of a guardian in `run_dir`.
pub fn is_below_a_guardian(run_dir: &RunDir, pid: u32) -> bool {
    let entries = run_dir.jobs().unwrap_or_default().into_iter().filter_map(|dir| dir.entry().ok().flatten());
    entries.into_iter().any(|entry| Stranded::open(&entry, true, ()).holds(pid))
}
