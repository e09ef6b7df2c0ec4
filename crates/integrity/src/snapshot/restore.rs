//! Restoring a whole state into an empty directory elsewhere.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::{SCHEMA_VERSION, SnapshotManager};
use crate::content::HashOnly;
use crate::error::Context as _;
use crate::log::Lsn;
use crate::observe::{Observer as _, Scan};
use crate::path::StorePath;
use crate::place::{Materials, full};
use crate::platform::{Privileges, Tree};
use crate::progress::{Phase, Progress};
use crate::rollback::RecoveryPoint;
use crate::state::{Node, State};
use crate::verify::{Failure, VerifyError, compare, explain};
use crate::{Error, Result};

/// What restoring elsewhere did.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// The version of this object.
    pub schema_version: u32,
    /// The store's name.
    pub store: String,
    /// The state that was restored.
    pub lsn: Lsn,
    /// Where to.
    pub target: PathBuf,
    /// Files and symbolic links made.
    pub files: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Everything was read back and is as it should be.
    pub verified: bool,
    /// What is not.
    pub errors: Vec<VerifyError>,
    /// How long it took.
    pub seconds: f64,
}

impl SnapshotManager {
    /// Restores the state at `point` into `target`, which is made or must be empty. Set-uid and set-gid bits and file capabilities
    /// are restored only with `privileges`.
    ///
    /// # Errors
    /// [`Error::TargetNotEmpty`], [`Error::Overlap`] if it lies in the store, the vault or what they are apart from, [`Error::Io`]. Content that can't be
    /// read is no error but in the report: everything else is restored.
    pub fn restore(
        &self,
        point: &RecoveryPoint,
        target: &Path,
        privileges: bool,
        progress: &dyn Progress,
    ) -> Result<RestoreReport> {
        let started = Instant::now();
        self.store.refuse_target(target)?;
        let (lsn, state) = {
            let inner = self.inner();
            let lsn = self.resolve(&inner, point)?.lsn;
            (lsn, inner.catalogue.state_at(lsn)?)
        };
        std::fs::create_dir_all(target).context("make the directory", target)?;
        let tree = Tree::open(target).context("open", target)?;
        if !tree.list(&[]).context("list", target)?.is_empty() {
            return Err(Error::TargetNotEmpty { path: target.to_owned() });
        }
        let privileges = Privileges::from(privileges);
        let failures = fill(&tree, &state, &Materials { packs: &self.packs, privileges }, progress)?;
        let root: &[u8] = &[];
        let all = state.0.keys().map(StorePath::as_bytes).chain([root]).collect();
        tree.sync(&all).context("synchronise", target)?;
        let found = Scan.observe(&tree, &State::default(), &HashOnly, progress)?;
        let mut there = State::default();
        there.apply(found.changes);
        let mut errors = compare(&state, &there, privileges);
        explain(&mut errors, failures);
        let totals = state.totals();
        Ok(RestoreReport {
            schema_version: SCHEMA_VERSION,
            store: self.store.name().to_owned(),
            lsn,
            target: target.to_owned(),
            files: totals.files,
            bytes: totals.bytes,
            verified: errors.is_empty(),
            errors,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// Makes everything in `state` in the empty `tree`. Directories get their metadata last: what is put into one changes its time, and
/// its mode may forbid to. Gives the files whose content the vault does not give.
fn fill(tree: &Tree, state: &State, materials: &Materials<'_>, progress: &dyn Progress) -> Result<Vec<Failure>> {
    let total = state.0.len() as u64;
    let mut failures: Vec<Failure> = Vec::new();
    for (done, (path, version)) in state.0.iter().enumerate().filter(|(_, (path, _))| !path.is_root()) {
        let made = match version.link().filter(|first| *first != path) {
            Some(first) if failures.iter().any(|(failed, _)| failed == first) => Ok(()),
            Some(first) => tree.make_link(first, path).context("link", &full(tree, path)),
            None => materials.make(tree, path, version),
        };
        match made {
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(error) => failures.push((path.clone(), error)),
            Ok(()) => {}
        }
        progress.report(Phase::Applying, done as u64 + 1, total);
    }
    for (path, version) in state.0.iter().rev() {
        if matches!(version.node, Node::Directory) {
            materials.dress(tree, path, &version.meta)?;
        }
    }
    Ok(failures)
}
