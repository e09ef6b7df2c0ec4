//! What differs between two points, or between a point and the live store.

use serde::Serialize;

use super::{SCHEMA_VERSION, SnapshotManager};
use crate::Result;
use crate::content::HashOnly;
use crate::log::Lsn;
use crate::path::StorePath;
use crate::progress::Progress;
use crate::rollback::RecoveryPoint;
use crate::state::{Change, ChangeKind, Node, State, Version};

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path.
    pub path: StorePath,
    /// How it differs.
    pub change: ChangeKind,
    /// What it is (after the change, or before a removal): `file`, `directory` or `symlink`.
    pub kind: &'static str,
    /// Length before, in bytes.
    pub before_bytes: Option<u64>,
    /// Length after, in bytes.
    pub after_bytes: Option<u64>,
}

/// What differs between two points.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotDiff {
    /// The version of this object.
    pub schema_version: u32,
    /// The store's name.
    pub store: String,
    /// The first point.
    pub from_lsn: Lsn,
    /// The second point; `None`: the live store.
    pub to_lsn: Option<Lsn>,
    /// Paths that only the second has.
    pub added: u64,
    /// Paths that only the first has.
    pub removed: u64,
    /// Paths that both have, with other content or metadata.
    pub changed: u64,
    /// Each of them, in order of the paths.
    pub differences: Vec<Difference>,
}

impl SnapshotManager {
    /// What differs from `from` to `to`, or to the live store if that is `None`. Comparing with the live store reads what looks
    /// different, and changes nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchPoint`](crate::Error::NoSuchPoint), [`Error::CatalogueDamaged`](crate::Error::CatalogueDamaged),
    /// [`Error::Io`](crate::Error::Io).
    pub fn diff(
        &self,
        from: &RecoveryPoint,
        to: Option<&RecoveryPoint>,
        progress: &dyn Progress,
    ) -> Result<SnapshotDiff> {
        let mut inner = self.inner();
        let from_lsn = self.resolve(&inner, from)?.lsn;
        let (to_lsn, changes) = if let Some(point) = to {
            let to_lsn = self.resolve(&inner, point)?.lsn;
            (Some(to_lsn), inner.catalogue.changes_between(from_lsn, to_lsn)?)
        } else {
            let live = self.live_state(&mut inner, progress)?;
            (None, changes(&inner.catalogue.state_at(from_lsn)?, &live))
        };
        let differences: Vec<_> = changes.iter().filter(|change| change.is_notable()).map(difference).collect();
        let count =
            |kinds: &[ChangeKind]| differences.iter().filter(|found| kinds.contains(&found.change)).count() as u64;
        Ok(SnapshotDiff {
            schema_version: SCHEMA_VERSION,
            store: self.store.name().to_owned(),
            from_lsn,
            to_lsn,
            added: count(&[ChangeKind::Added]),
            removed: count(&[ChangeKind::Removed]),
            changed: count(&[ChangeKind::Content, ChangeKind::Metadata]),
            differences,
        })
    }

    /// The live store as it is, without noting it anywhere.
    pub(crate) fn live_state(&self, inner: &mut super::Inner, progress: &dyn Progress) -> Result<State> {
        let changes = self.live_changes(inner, progress)?;
        let mut live = inner.state.clone();
        live.apply(changes);
        Ok(live)
    }

    /// How the live store differs from what is known, without noting it anywhere.
    pub(crate) fn live_changes(&self, inner: &mut super::Inner, progress: &dyn Progress) -> Result<Vec<Change>> {
        let super::Inner { state, observer, .. } = inner;
        Ok(observer.observe(self.store.tree(), state, &HashOnly, progress)?.changes)
    }
}

/// What differs between two states, in order of the paths.
fn changes(from: &State, to: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    for (path, before) in &from.0 {
        let after = to.0.get(path);
        if after.is_none_or(|after| !after.same_state(before)) {
            changes.push(Change { path: path.clone(), before: Some(before.clone()), after: after.cloned() });
        }
    }
    let added = to.0.iter().filter(|(path, _)| !from.0.contains_key(path));
    changes.extend(added.map(|(path, after)| Change { path: path.clone(), before: None, after: Some(after.clone()) }));
    changes.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    changes
}

fn difference(change: &Change) -> Difference {
    let length = |version: &Version| version.is_file().then(|| version.size());
    let kind = change.after.as_ref().or(change.before.as_ref()).map_or("file", |version| match version.node {
        Node::File { .. } => "file",
        Node::Directory => "directory",
        Node::Symlink { .. } => "symlink",
    });
    Difference {
        path: change.path.clone(),
        change: change.kind(),
        kind,
        before_bytes: change.before.as_ref().and_then(length),
        after_bytes: change.after.as_ref().and_then(length),
    }
}
