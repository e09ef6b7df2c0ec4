//! `estop rollback`.

use std::path::{Path, PathBuf};

use estop_integrity::{RecoveryPoint, RollbackRequest, StorePath};

use super::progress::{Bars, Steadfast};
use super::{open, text};
use crate::cli::Output;
use crate::engine::stores::{JobWriters, Place};
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// How a rollback is done.
#[derive(Clone, Copy, Debug)]
pub(in crate::commands) struct How {
    /// It is only said what would be done.
    pub(in crate::commands) dry_run: bool,
    /// Living writers and open files are no reason to refuse.
    pub(in crate::commands) force: bool,
    /// Set-uid and set-gid bits and file capabilities come back too.
    pub(in crate::commands) privileges: bool,
}

/// Puts a store, or the `paths` of it, back to the point `to`.
///
/// # Errors
/// Nothing was changed if a point or path is wrong (2), or programs still write to the store (4).
pub(in crate::commands) fn rollback(
    site: &Site,
    store: &str,
    to: &str,
    paths: &[PathBuf],
    how: How,
    output: &Output,
) -> Result<Code> {
    let How { dry_run, force, privileges } = how;
    let to: RecoveryPoint = to.parse()?;
    if !dry_run && let Some(aside) = Place::remake(site, store)? {
        output.warn(&format!("what stood in the place of {store} is now {}", aside.display()));
    }
    let (place, manager) = open(site, store, output)?;
    let paths = paths.iter().map(|path| inside(&place, path)).collect::<Result<Vec<_>>>()?;
    let request = RollbackRequest { to, paths, dry_run, force, despite_open: force, privileges };
    let steadfast = Steadfast::begin();
    let progress = Bars::new(output).answering(&steadfast);
    let mut report = manager.rollback(&request, &JobWriters::of(site, &place), &progress)?;
    drop(progress);
    drop(steadfast);
    report.undo_command = report.undo_command.map(|command| site.command(&command));
    output.result(&report, text::rolled_back);
    let well = if dry_run { report.errors.is_empty() } else { report.verified };
    Ok(if well { Code::Done } else { Code::NotProven })
}

/// `path` as it is named in the store: relative to it, or absolute and in it.
pub(in crate::commands) fn inside(place: &Place, path: &Path) -> Result<StorePath> {
    let relative = if path.is_absolute() {
        let outside = || {
            let message = format!("{} is not in the store {}", path.display(), place.path.display());
            Failure::usage(message, "give a path inside the store; for all of it, leave --path out")
        };
        path.strip_prefix(&place.path).map_err(|_| outside())?
    } else {
        path
    };
    Ok(StorePath::of(relative)?)
}
