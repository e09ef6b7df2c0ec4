//! Doing what was decided: moving prepared files into place, putting back where the store refuses, noting the end; and doing so after a
//! crash.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::commit::{Done, current, divide, plan, wanted};
use super::{RecoveredTransaction, TransactionId};
use crate::catalogue::Applying;
use crate::log::{Batches, Lsn, Outcome, Record, batch};
use crate::observe::look_at;
use crate::path::StorePath;
use crate::place::Materials;
use crate::platform::Privileges;
use crate::progress::{Progress, Silent};
use crate::rollback::apply::Workshop;
use crate::rollback::plan::Plan;
use crate::snapshot::{Inner, SnapshotManager};
use crate::state::{Change, Node, State, Version};
use crate::verify::difference;
use crate::{Error, Result};

const PUT_BACK: &str = "all that it had changed was put back";
const BETWEEN: &str = "some of it could not be put back; `estop snapshot diff` shows what differs";
const LATER: &str = "it is committed; close the store and open it again, which completes it";

/// A transaction that can be committed, or is.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Its place among those that came together.
    pub(super) at: usize,
    pub(super) id: TransactionId,
    /// The LSN of the decision.
    pub(super) commit: Lsn,
    pub(super) changes: Vec<Change>,
}

impl Accepted {
    pub(super) fn failed(self, path: &str, detail: &str, outcome: &'static str) -> (usize, Result<Done>) {
        let (path, detail) = (if path.is_empty() { "its log" } else { path }.to_owned(), detail.to_owned());
        (self.at, Err(Error::CommitFailed { transaction: self.id, path, detail, outcome }))
    }
}

impl SnapshotManager {
    pub(super) fn materials(&self) -> Materials<'_> {
        Materials { packs: &self.packs, privileges: Privileges::Withhold }
    }

    /// Does what was decided. `before` is how the paths are in the store.
    pub(super) fn finish(
        &self,
        inner: &mut Inner,
        accepted: Vec<Accepted>,
        plan: &Plan,
        before: &State,
        mut workshop: Workshop<'_>,
        progress: &dyn Progress,
    ) -> Vec<(usize, Result<Done>)> {
        for it in &accepted {
            if let Err(error) = self.forget_kept(&it.id) {
                tracing::warn!(%error, "what was kept of a transaction that is committed is still there");
            }
        }
        let failures = match workshop.apply(plan, before, &self.materials(), progress) {
            Ok(failures) => failures,
            Err(error) => {
                let detail = error.to_string();
                return accepted.into_iter().map(|it| it.failed("", &detail, LATER)).collect();
            }
        };
        if let Err(error) = workshop.close() {
            tracing::warn!(%error, "what a commit left in the vault could not be removed");
        }
        let together = accepted.len();
        let (failed, done) = if failures.is_empty() { (Vec::new(), accepted) } else { divide(accepted, &failures) };
        self.conclude(inner, failed, done, together, progress)
    }

    /// Puts back what the store refused, and notes how all of it ended.
    fn conclude(
        &self,
        inner: &mut Inner,
        failed: Vec<(Accepted, String, String)>,
        done: Vec<Accepted>,
        together: usize,
        progress: &dyn Progress,
    ) -> Vec<(usize, Result<Done>)> {
        let mut post = Vec::new();
        let mut ends = Vec::new();
        let mut answers = Vec::new();
        for (it, path, detail) in failed {
            let back = self.put_back(inner, &it, &mut post, progress);
            let outcome = match &back {
                Ok(()) => (Outcome::Abandoned, PUT_BACK),
                Err(error) => {
                    tracing::warn!(%error, transaction = it.id.as_str(), "a commit that failed could not be undone");
                    (Outcome::Differs, BETWEEN)
                }
            };
            ends.push((it.commit, outcome.0));
            answers.push(it.failed(&path, &detail, outcome.1));
        }
        for it in &done {
            ends.push((it.commit, Outcome::Verified));
        }
        self.settle(inner, &done, &mut post);
        let time = Timestamp::now();
        let mut records = batch(time, &post);
        records.extend(ends.into_iter().map(|(commit, outcome)| Record::TransactionEnd { time, commit, outcome }));
        if let Err(error) = self.commit(inner, records) {
            // It is decided, durable and done; the next opening of the store finds that out.
            tracing::warn!(%error, "the end of a commit could not be noted");
        }
        answers.extend(done.into_iter().map(|it| (it.at, Ok(Done::of(it.commit, together, &it.changes)))));
        answers
    }

    /// Puts the paths of a transaction back to what was there before it.
    fn put_back(
        &self,
        inner: &mut Inner,
        it: &Accepted,
        post: &mut Vec<Change>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let paths: Vec<_> = it.changes.iter().map(|change| change.path.clone()).collect();
        let live = self.look_at_all(&paths)?;
        let before = current(std::slice::from_ref(it));
        let plan = plan(&live, &before);
        let mut workshop = Workshop::open(&self.store, self.lsn() + 1)?;
        let mut failures = workshop.stage(&plan, &self.materials(), progress)?;
        failures.extend(workshop.apply(&plan, &live, &self.materials(), progress)?);
        workshop.close()?;
        for path in &paths {
            self.note(inner, path, post)?;
        }
        match failures.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn look_at_all<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) -> Result<State> {
        let mut state = State::default();
        for path in paths {
            let found = look_at(self.store.tree(), None, &self.packs, path)?.version();
            state.0.extend(found.map(|version| (path.clone(), version)));
        }
        Ok(state)
    }

    /// Notes by what the new files are recognised, and the times of the directories that they are in. What somebody has changed again
    /// is left to the next look at the store.
    fn settle(&self, inner: &mut Inner, done: &[Accepted], post: &mut Vec<Change>) {
        let changes = || done.iter().flat_map(|it| &it.changes);
        let mut paths: BTreeSet<StorePath> = changes().map(|change| change.path.clone()).collect();
        paths.extend(changes().map(|change| change.path.parent().unwrap_or_else(StorePath::root)));
        for path in paths {
            let Some(intended) = inner.state.0.get(&path).cloned() else { continue };
            let found = match look_at(self.store.tree(), Some(&intended), &self.packs, &path) {
                Ok(found) => found.version(),
                Err(error) => {
                    tracing::warn!(%error, "a file could not be looked at after a commit");
                    continue;
                }
            };
            let as_intended = |found: &Version| match (&intended.node, &found.node) {
                (Node::Directory, Node::Directory) => true,
                _ => difference(&intended, found, Privileges::Withhold).is_none(),
            };
            if let Some(found) = found.filter(|found| *found != intended && as_intended(found)) {
                post.push(Change { path, before: Some(intended), after: Some(found) });
            }
        }
        post.extend(loosened(&inner.state, changes()));
        inner.state.apply(post.iter().cloned());
    }

    /// Completes the commits that a crash interrupted after their decision. It goes by how the store is found, so it does not matter
    /// how far they had come.
    pub(crate) fn recover_transactions(&self) -> Result<Vec<RecoveredTransaction>> {
        let mut inner = self.inner();
        let mut accepted = Vec::new();
        for applying in inner.catalogue.applying.clone() {
            accepted.push(self.decided(applying, accepted.len())?);
        }
        if accepted.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = wanted(&accepted);
        let old = current(&accepted);
        let paths: BTreeSet<_> = accepted.iter().flat_map(|it| &it.changes).map(|change| change.path.clone()).collect();
        let mut live = self.look_at_all(&paths)?;
        let plan = plan(&live, &wanted);
        // What is neither the old nor the new was put there since: it is moved aside, not overwritten.
        let is_ours = |path: &StorePath, found: &Version| {
            let same = |state: &State| {
                state.0.get(path).is_some_and(|it| difference(it, found, Privileges::Withhold).is_none())
            };
            same(&old) || same(&wanted)
        };
        live.0.retain(|path, found| is_ours(path, found));
        let workshop = Workshop::open(&self.store, self.lsn() + 1)?;
        let failures = workshop.stage(&plan, &self.materials(), &Silent)?;
        if let Some((_, error)) = failures.into_iter().next() {
            return Err(error);
        }
        let told: Vec<_> = accepted.iter().map(|it| (it.id.clone(), it.commit)).collect();
        let answers: BTreeMap<_, _> =
            self.finish(&mut inner, accepted, &plan, &live, workshop, &Silent).into_iter().collect();
        let outcome = |at: usize| match answers.get(&at) {
            Some(Ok(_)) => Outcome::Verified,
            Some(Err(Error::CommitFailed { outcome, .. })) if *outcome == PUT_BACK => Outcome::Abandoned,
            _ => Outcome::Differs,
        };
        let recovered = |(at, (transaction, lsn))| RecoveredTransaction { transaction, lsn, outcome: outcome(at) };
        Ok(told.into_iter().enumerate().map(recovered).collect())
    }

    /// What was decided, from the log.
    fn decided(&self, applying: Applying, at: usize) -> Result<Accepted> {
        let mut batches = Batches::default();
        let lost = || Error::LogRecord {
            path: self.store.log_dir(),
            lsn: applying.commit,
            detail: "it ends no transaction, and the catalogue says that it does".to_owned(),
        };
        for record in self.log.read_from(applying.first)? {
            let (lsn, mut record) = record?;
            let changes = batches.take(&mut record);
            if lsn == applying.commit {
                let (Record::Transaction(part), Some(changes)) = (record, changes) else { return Err(lost()) };
                return Ok(Accepted { at, id: part.transaction, commit: lsn, changes });
            }
        }
        Err(lost())
    }
}

/// Names of hard links of which others were replaced or removed: they are named anew after the first of those that are left.
fn loosened<'c>(state: &State, changes: impl Iterator<Item = &'c Change>) -> Vec<Change> {
    let groups: BTreeSet<_> = changes.filter_map(|change| change.before.as_ref()?.link()).collect();
    if groups.is_empty() {
        return Vec::new();
    }
    let mut members: BTreeMap<&StorePath, Vec<(&StorePath, &Version)>> = BTreeMap::new();
    for (path, version) in &state.0 {
        if let Some(first) = version.link().filter(|first| groups.contains(first)) {
            members.entry(first).or_default().push((path, version));
        }
    }
    let renamed = |group: Vec<(&StorePath, &Version)>| {
        let first = (group.len() > 1).then(|| group[0].0.clone());
        let rename = move |(path, version): (&StorePath, &Version)| {
            let mut after = version.clone();
            if let Node::File { link, .. } = &mut after.node {
                link.clone_from(&first);
            }
            Change { path: path.clone(), before: Some(version.clone()), after: Some(after) }
        };
        group.into_iter().map(rename).collect::<Vec<_>>()
    };
    members.into_values().flat_map(renamed).filter(|change| change.before != change.after).collect()
}
