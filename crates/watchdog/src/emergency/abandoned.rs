//! What dead guardians leave behind, ended by whoever takes over the name, so that nobody else does meanwhile.

use estop_durable::lock::Lock;

use super::end_recorded;
use crate::Result;
use crate::error::Context as _;
use crate::registry::JobDir;
use crate::stop::StopReport;

/// Ends what the dead guardian of the job in `dir` left, and removes its secret files; `_held` is the lock of the directory.
/// `None` if there is nothing to end: the guardian has proven the end itself, or there is no record of this boot.
///
/// # Errors
/// If the job's record cannot be trusted or read.
pub fn end_abandoned(dir: &JobDir, _held: &Lock) -> Result<Option<StopReport>> {
    let Some((entry, owner)) = dir.owned_entry()? else { return Ok(None) };
    if dir.outcome()?.is_some() {
        return Ok(None);
    }
    let ended = end_recorded(&entry, owner, false, false);
    remove_secrets(dir)?;
    Ok(ended.map(|ended| ended.report))
}

/// Ends what the dead guardian of the job `id` in `dir` left, and removes its directory once nothing is left. `None` if there
/// was nothing to end, or another job has the name by now, whose guardian has seen to that.
///
/// # Errors
/// As for [`end_abandoned`], and if the guardian lives after all.
pub fn settle_abandoned(dir: &JobDir, id: &str) -> Result<Option<StopReport>> {
    let Some(held) = dir.settle(id)? else { return Ok(None) };
    let report = end_abandoned(dir, &held)?;
    if report.as_ref().is_none_or(|report| report.proven_empty) {
        dir.remove_held(&held)?;
    }
    Ok(report)
}

/// Removes the secret files of the job `id`, whose guardian has died, unless the name is another job's by now.
pub(super) fn clear_secrets(dir: &JobDir, id: &str) {
    if dir.secrets().exists()
        && let Ok(Some(_held)) = dir.settle(id)
    {
        // What cannot be removed, the next job of this name takes over.
        let _ = remove_secrets(dir);
    }
}

/// The plaintext of secrets that a workload no longer needs.
fn remove_secrets(dir: &JobDir) -> Result<()> {
    match std::fs::remove_dir_all(dir.secrets()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", &dir.secrets()),
        _ => Ok(()),
    }
}
