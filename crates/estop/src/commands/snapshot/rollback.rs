//! `estop rollback`.

use std::path::{Path, PathBuf};

use estop_integrity::{RecoveryPoint, RollbackRequest, StorePath};

use super::progress::{Bars, Steadfast};
use super::{open, text};
use crate::cli::Output;
use crate::engine::stores::{JobWriters, Place};
use crate::failure::{Code, Failure, Result};
use crate::site::{Choice, Site};

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
    let place_options = options(site);
    if let Some(command) = report.undo_command.as_mut().filter(|_| !place_options.is_empty()) {
        *command = command.replacen("estop ", &format!("estop{place_options} "), 1);
    }
    output.result(&report, text::rolled_back);
    let well = if dry_run { report.errors.is_empty() } else { report.verified };
    Ok(if well { Code::Done } else { Code::NotProven })
}

/// `path` as it is named in the store: relative to it, or absolute and in it.
fn inside(place: &Place, path: &Path) -> Result<StorePath> {
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

/// The options that lead to this estop, where they are not the ones that it finds by itself.
fn options(site: &Site) -> String {
    let said = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let choice =
        Choice { config: said("ESTOP_CONFIG"), state_dir: said("ESTOP_STATE_DIR"), run_dir: said("ESTOP_RUN_DIR") };
    let found = Site::find(&choice).ok();
    let same = |found: &Site| found.state_dir == site.state_dir && found.config.origin() == site.config.origin();
    if found.as_ref().is_some_and(same) {
        return String::new();
    }
    let mut options = String::new();
    if site.configured {
        let origin = std::path::absolute(site.config.origin()).unwrap_or_else(|_| site.config.origin().to_owned());
        options.push_str(" --config ");
        options.push_str(&estop_integrity::quoted(&origin.to_string_lossy()));
    }
    options.push_str(" --state-dir ");
    options.push_str(&estop_integrity::quoted(&site.state_dir.to_string_lossy()));
    options
}
