//! Whether everything is still as a transaction found it: first committer wins.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::{Draft, Touched, TransactionId};
use crate::error::Context as _;
use crate::log::{Lsn, Record};
use crate::observe::{Named, look_at};
use crate::path::StorePath;
use crate::place::full;
use crate::snapshot::{Inner, SnapshotManager};
use crate::state::{Change, Node, Version};
use crate::{Error, Result};

/// Who changed a path before a transaction could.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ChangedBy {
    /// Another transaction; without an LSN, it is being committed just now.
    Transaction(TransactionId, Option<Lsn>),
    /// A rollback of the store, which ended there.
    Rollback(Lsn),
    /// A program, whose change was observed there.
    Observed(Lsn, Timestamp),
    /// A program, whose change was not observed before.
    Program,
    /// Nobody: what was put there is in the vault no more, because it was pruned meanwhile.
    Pruned,
}

impl fmt::Display for ChangedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transaction(id, Some(lsn)) => write!(f, "by transaction {id} (lsn:{lsn})"),
            Self::Transaction(id, None) => write!(f, "by transaction {id}"),
            Self::Rollback(lsn) => write!(f, "by a rollback of the store (lsn:{lsn})"),
            Self::Observed(lsn, time) => write!(f, "by a program, as was observed at {time:.0} (lsn:{lsn})"),
            Self::Program => f.write_str("by a program outside of any transaction"),
            Self::Pruned => f.write_str("by a prune, which freed what was put there"),
        }
    }
}

/// What the transactions before it, of those that are committed together, change.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<StorePath, (TransactionId, bool)>);

impl Claims {
    pub(super) fn add(&mut self, id: &TransactionId, changes: &[Change]) {
        let is_directory = |change: &Change| is_directory(change.after.as_ref());
        self.0.extend(changes.iter().map(|change| (change.path.clone(), (id.clone(), is_directory(change)))));
    }

    fn clash(&self, path: &StorePath, touched: &Touched) -> Option<&TransactionId> {
        let (id, directory) = self.0.get(path)?;
        let both_make_it = *directory && touched.base.is_none() && is_directory(touched.after.as_ref());
        (!both_make_it).then_some(id)
    }

    /// A path in a directory that goes, of which the transaction knows nothing.
    fn inside(&self, directory: &StorePath, draft: &Draft) -> Option<(&StorePath, &TransactionId)> {
        let unknown = |path: &StorePath| path.is_within(directory) && !draft.touched.contains_key(path);
        self.0.iter().find(|(path, _)| unknown(path)).map(|(path, (id, _))| (path, id))
    }

    fn no_directory(&self, path: &StorePath) -> Option<&TransactionId> {
        self.0.get(path).filter(|(_, directory)| !directory).map(|(id, _)| id)
    }
}

pub(super) fn is_directory(version: Option<&Version>) -> bool {
    version.is_some_and(|version| version.node == Node::Directory)
}

/// Whether a path is as the transaction found it. What is in a directory is asked by itself.
fn is_same(touched: &Touched, now: Option<&Version>) -> bool {
    match (&touched.base, now) {
        (None, None) => true,
        (None, Some(now)) => now.node == Node::Directory && is_directory(touched.after.as_ref()),
        (Some(_), None) => false,
        (Some(base), Some(now)) if base.node == Node::Directory => now.node == Node::Directory,
        (Some(base), Some(now)) => {
            // Another name of the same file changes nothing about it.
            let same_node = base.node.same_kind(&now.node) && base.content() == now.content();
            let same_target = !matches!(base.node, Node::Symlink { .. }) || base.node == now.node;
            same_node && same_target && base.meta == now.meta
        }
    }
}

impl SnapshotManager {
    /// What `draft` changes, if everything is as it found it. What was not known of the paths is noted in `inner.state` and `noted`.
    pub(super) fn check(
        &self,
        inner: &mut Inner,
        draft: &Draft,
        claims: &Claims,
        noted: &mut Vec<Change>,
    ) -> Result<Vec<Change>> {
        let conflict =
            |path: &StorePath, by| Error::Conflict { transaction: draft.id.clone(), path: path.to_string(), by };
        for directory in &draft.directories {
            if let Some(id) = claims.no_directory(directory) {
                return Err(conflict(directory, ChangedBy::Transaction(id.clone(), None)));
            }
            let now = self.note(inner, directory, noted)?;
            if !is_directory(now.as_ref()) {
                return Err(conflict(directory, self.changed_by(draft.lsn, directory, noted)?));
            }
        }
        let mut changes = Vec::new();
        for (path, touched) in &draft.touched {
            if let Some(id) = claims.clash(path, touched) {
                return Err(conflict(path, ChangedBy::Transaction(id.clone(), None)));
            }
            let now = self.note(inner, path, noted)?;
            if !is_same(touched, now.as_ref()) {
                return Err(conflict(path, self.changed_by(draft.lsn, path, noted)?));
            }
            if is_directory(now.as_ref()) && !is_directory(touched.after.as_ref()) {
                if let Some((inside, id)) = claims.inside(path, draft) {
                    return Err(conflict(inside, ChangedBy::Transaction(id.clone(), None)));
                }
                if let Some(inside) = self.unknown_inside(path, draft)? {
                    self.note(inner, &inside, noted)?;
                    return Err(conflict(&inside, self.changed_by(draft.lsn, &inside, noted)?));
                }
            }
            let lacking = |version: &Version| !version.contents().all(|id| self.packs.contains(&id));
            if touched.after.as_ref().is_some_and(lacking) {
                return Err(conflict(path, ChangedBy::Pruned));
            }
            let made_by_another = touched.base.is_none() && now.is_some();
            let claimed = claims.0.contains_key(path);
            if !made_by_another && !claimed && (now.is_some() || touched.after.is_some()) {
                changes.push(Change { path: path.clone(), before: now, after: touched.after.clone() });
            }
        }
        Ok(changes)
    }

    /// A name in a directory of the store of which the transaction knows nothing.
    fn unknown_inside(&self, directory: &StorePath, draft: &Draft) -> Result<Option<StorePath>> {
        let tree = self.store.tree();
        let listed = tree.list(directory.as_bytes()).context("list", &full(tree, directory))?;
        let mut names = listed.into_iter().map(|listed| StorePath::child(directory.as_bytes(), &listed.name));
        Ok(names.find(|name| !draft.touched.contains_key(name)))
    }

    /// Takes what is at `path` into `inner.state`, so that the history has it before it is changed. Of a known directory, nothing new is
    /// noted: its time moves with all that is in it.
    pub(super) fn note(&self, inner: &mut Inner, path: &StorePath, noted: &mut Vec<Change>) -> Result<Option<Version>> {
        if let Some(parent) = path.parent().filter(|parent| !is_directory(inner.state.0.get(parent))) {
            self.note(inner, &parent, noted)?;
        }
        let known = inner.state.0.get(path).cloned();
        let found = look_at(self.store.tree(), known.as_ref(), &self.packs, path)?;
        if let Named::Other(what) = found {
            let detail = format!("it is {what} now");
            return Err(Error::Unfit { action: "commit", path: path.to_string(), detail });
        }
        let now = found.version();
        if known == now || is_directory(known.as_ref()) && is_directory(now.as_ref()) {
            return Ok(now);
        }
        let mut changes = Vec::new();
        if is_directory(known.as_ref()) {
            let inside = inner.state.0.iter().filter(|(other, _)| *other != path && other.is_within(path));
            changes.extend(inside.map(|(inside, version)| Change {
                path: inside.clone(),
                before: Some(version.clone()),
                after: None,
            }));
        }
        changes.push(Change { path: path.clone(), before: known, after: now.clone() });
        inner.state.apply(changes.iter().cloned());
        noted.append(&mut changes);
        Ok(now)
    }

    /// Who changed `path` last since `lsn`.
    fn changed_by(&self, lsn: Lsn, path: &StorePath, noted: &[Change]) -> Result<ChangedBy> {
        let notable = |change: &Change| change.path == *path && change.is_notable();
        if noted.iter().any(notable) {
            return Ok(ChangedBy::Program);
        }
        let mut by = ChangedBy::Program;
        let mut rollback = false;
        for record in self.log.read_from(lsn + 1)? {
            match record? {
                (_, Record::RollbackApply { .. }) => rollback = true,
                (_, Record::RollbackEnd { .. }) => rollback = false,
                (at, Record::Transaction(part)) if part.changes.iter().any(notable) => {
                    by = ChangedBy::Transaction(part.transaction, Some(at));
                }
                (at, Record::Changes(part)) if part.changes.iter().any(notable) => {
                    by = if rollback { ChangedBy::Rollback(at) } else { ChangedBy::Observed(at, part.time) };
                }
                _ => {}
            }
        }
        Ok(by)
    }
}
