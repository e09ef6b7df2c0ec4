//! Committing: checking, deciding, doing; for all that come together at once.

use std::time::Instant;

use jiff::Timestamp;

use super::apply::Accepted;
use super::conflict::Claims;
use super::{CommitReport, Draft, Transaction, TransactionId};
use crate::log::{Lsn, Record, batch, commitment, look_into};
use crate::path::StorePath;
use crate::progress::Progress;
use crate::rollback::apply::Workshop;
use crate::rollback::plan::Plan;
use crate::snapshot::{Inner, SCHEMA_VERSION, SnapshotManager};
use crate::state::{Change, State, Version};
use crate::verify::Failure;
use crate::writers::Writers;
use crate::{Error, Result};

const NOTHING: &str = "nothing of it was committed";
const UNKNOWN: &str = "open the store again and look at `estop log`: it was committed whole or not at all";

/// What became of a commit.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(super) lsn: Lsn,
    pub(super) together: u64,
    put: u64,
    deleted: u64,
    bytes: u64,
}

impl Done {
    pub(super) fn of(lsn: Lsn, together: usize, changes: &[Change]) -> Self {
        let put = changes.iter().filter_map(|change| change.after.as_ref()).filter(|after| after.is_file());
        let gone = |change: &&Change| change.after.as_ref().is_none_or(|after| !after.is_file());
        let removed = changes.iter().filter(gone).filter_map(|change| change.before.as_ref());
        Self {
            lsn,
            together: together as u64,
            put: put.clone().count() as u64,
            deleted: removed.filter(|before| before.is_file()).count() as u64,
            bytes: put.map(Version::size).sum(),
        }
    }
}

impl Transaction<'_> {
    /// Commits it: all of it is in the store and durable when this returns, or nothing of it is. Commits of several threads that come
    /// together share what must be synchronised. Programs that look meanwhile may see half of it; see [`Transaction::commit_frozen`].
    ///
    /// One that was kept stays so where this fails.
    ///
    /// # Errors
    /// [`Error::Conflict`] (a refusal) if something that it touches was changed since it looked; [`Error::CommitFailed`] if the store
    /// refused a change; [`Error::Interrupted`] after one that could not be ended; [`Error::Io`] or [`Error::Durable`].
    pub fn commit(self, progress: &dyn Progress) -> Result<CommitReport> {
        let started = Instant::now();
        let (manager, id) = (self.manager, self.draft.id.clone());
        let interrupted = || Err(manager.interrupted());
        let done = manager.queue.join(self.draft, |drafts| manager.commit_together(drafts, progress), &interrupted)?;
        Ok(CommitReport { seconds: started.elapsed().as_secs_f64(), ..manager.commit_report(id, &done) })
    }

    /// As [`Transaction::commit`], with the programs that write to the store standing still from before the check until it is done:
    /// none of them sees half of it, and none changes a path between the check and the change.
    ///
    /// # Errors
    /// As [`Transaction::commit`]; [`Error::Writers`] if they can't be frozen: then nothing was committed.
    pub fn commit_frozen(self, writers: &dyn Writers, progress: &dyn Progress) -> Result<CommitReport> {
        let started = Instant::now();
        let frozen = writers.freeze().map_err(|detail| Error::Writers { action: "frozen", detail })?;
        let since = Instant::now();
        let committed = self.commit(progress);
        let (anybody, mut frozen) = (!frozen.names().is_empty(), frozen);
        let held = frozen.has_held();
        drop(frozen);
        let frozen_seconds = if anybody { since.elapsed().as_secs_f64() } else { 0.0 };
        let seconds = started.elapsed().as_secs_f64();
        committed.map(|report| CommitReport { frozen_seconds, freeze_error: held.err(), seconds, ..report })
    }
}

impl SnapshotManager {
    /// The report of a transaction that was committed before, for whoever did not hear of it: a crash may have kept the answer back.
    ///
    /// # Errors
    /// [`Error::Durable`] if the log can't be read.
    pub fn committed(&self, id: &str) -> Result<Option<CommitReport>> {
        let Some(id) = TransactionId::parse(id) else { return Ok(None) };
        let mut found: Option<(Lsn, Vec<Change>)> = None;
        let mut ends_badly = false;
        for record in look_into(&self.store.log_dir(), 1)? {
            match record? {
                (lsn, Record::Transaction(part)) if part.transaction == id => {
                    let (at, changes) = found.get_or_insert_default();
                    *at = lsn;
                    changes.extend(part.changes);
                }
                (_, Record::TransactionEnd { commit, outcome, .. }) => {
                    ends_badly |= found.as_ref().is_some_and(|(at, _)| *at == commit) && !outcome.is_done();
                }
                _ => {}
            }
        }
        let report = |(lsn, changes): (Lsn, Vec<Change>)| CommitReport {
            already: true,
            ..self.commit_report(id, &Done::of(lsn, 1, &changes))
        };
        Ok(found.filter(|_| !ends_badly).map(report))
    }

    /// How many commits of other threads wait for the one that is being done.
    pub fn commits_waiting(&self) -> usize {
        self.queue.waiting()
    }

    fn commit_report(&self, transaction: TransactionId, done: &Done) -> CommitReport {
        CommitReport {
            schema_version: SCHEMA_VERSION,
            store: self.store.name().to_owned(),
            transaction,
            lsn: done.lsn,
            put: done.put,
            deleted: done.deleted,
            bytes: done.bytes,
            already: false,
            together: done.together,
            frozen_seconds: 0.0,
            freeze_error: None,
            seconds: 0.0,
        }
    }

    /// Commits all of `drafts` that can be; answers each in turn.
    fn commit_together(&self, drafts: Vec<Draft>, progress: &dyn Progress) -> Vec<Result<Done>> {
        let mut inner = self.inner();
        if let Err(error) = self.know(&mut inner, progress) {
            let detail = error.to_string();
            let failed = |draft: Draft| Accepted { at: 0, id: draft.id, commit: 0, changes: Vec::new() };
            return drafts.into_iter().map(|draft| failed(draft).failed("", &detail, NOTHING).1).collect();
        }
        let mut answers: Vec<Option<Result<Done>>> = drafts.iter().map(|_| None).collect();
        let mut noted = Vec::new();
        let mut claims = Claims::default();
        let mut accepted = Vec::new();
        for (at, draft) in drafts.into_iter().enumerate() {
            if inner.catalogue.is_interrupted() {
                answers[at] = Some(Err(self.interrupted()));
                continue;
            }
            match self.check(&mut inner, &draft, &claims, &mut noted) {
                Ok(changes) if changes.is_empty() => {
                    answers[at] = Some(self.forget_kept(&draft.id).map(|()| Done::of(self.lsn(), 1, &[])));
                }
                Ok(changes) => {
                    claims.add(&draft.id, &changes);
                    accepted.push(Accepted { at, id: draft.id, commit: 0, changes });
                }
                Err(error) => answers[at] = Some(Err(error)),
            }
        }
        for (at, answer) in self.carry_out_all(&mut inner, &noted, accepted, progress) {
            answers[at] = Some(answer);
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.interrupted()))).collect()
    }

    /// Looks at all of a store that nobody has looked at yet: going back to the moment of a commit must not take for new what was there.
    fn know(&self, inner: &mut Inner, progress: &dyn Progress) -> Result<()> {
        if inner.state.0.contains_key(&StorePath::root()) || inner.catalogue.is_interrupted() {
            return Ok(());
        }
        let changes = self.observe(inner, progress)?.changes;
        inner.state.apply(changes.iter().cloned());
        let noted = self.commit(inner, batch(Timestamp::now(), &changes)).map(drop);
        if noted.is_err() {
            take_back(&mut inner.state, &changes);
        }
        noted
    }

    /// Prepares, decides and does what was accepted. `noted` is in `inner.state` already, and not in the log.
    fn carry_out_all(
        &self,
        inner: &mut Inner,
        noted: &[Change],
        accepted: Vec<Accepted>,
        progress: &dyn Progress,
    ) -> Vec<(usize, Result<Done>)> {
        let mut answers = Vec::new();
        let prepared = self.prepare(accepted, &mut answers, progress);
        let Some((mut accepted, plan, workshop)) = prepared else {
            take_back(&mut inner.state, noted);
            return answers;
        };
        let before = current(&accepted);
        if let Err(error) = self.decide(inner, noted, &mut accepted) {
            take_back(&mut inner.state, noted);
            let detail = error.to_string();
            answers.extend(accepted.into_iter().map(|it| it.failed("", &detail, UNKNOWN)));
            return answers;
        }
        answers.extend(self.finish(inner, accepted, &plan, &before, workshop, progress));
        answers
    }

    /// Writes every new file in the vault, durably. Those of which one can't be are answered, and the others prepared without them.
    fn prepare(
        &self,
        mut accepted: Vec<Accepted>,
        answers: &mut Vec<(usize, Result<Done>)>,
        progress: &dyn Progress,
    ) -> Option<(Vec<Accepted>, Plan, Workshop<'_>)> {
        while !accepted.is_empty() {
            let plan = plan(&current(&accepted), &wanted(&accepted));
            let staged = Workshop::open(&self.store, self.lsn() + 1).and_then(|workshop| {
                let failures = workshop.stage(&plan, &self.materials(), progress)?;
                Ok((failures, workshop))
            });
            let failures = match staged {
                Ok((failures, workshop)) if failures.is_empty() => return Some((accepted, plan, workshop)),
                Ok((failures, workshop)) => workshop.close().map(|()| failures),
                Err(error) => Err(error),
            };
            let failures = failures.unwrap_or_else(|error| vec![(StorePath::root(), error)]);
            let (failed, rest) = divide(accepted, &failures);
            accepted = rest;
            answers.extend(failed.into_iter().map(|(it, path, detail)| it.failed(&path, &detail, NOTHING)));
        }
        None
    }

    /// Makes the decision durable: from here on all of it is done, whatever happens.
    fn decide(&self, inner: &mut Inner, noted: &[Change], accepted: &mut [Accepted]) -> Result<()> {
        let time = Timestamp::now();
        let mut records = batch(time, noted);
        let mut counts = Vec::new();
        for it in &*accepted {
            let parts = commitment(time, &it.id, &it.changes);
            counts.push(parts.len() as Lsn);
            records.extend(parts);
            inner.state.apply(it.changes.iter().cloned());
        }
        match self.commit(inner, records) {
            Ok(mut last) => {
                for (it, count) in accepted.iter_mut().zip(counts).rev() {
                    it.commit = last;
                    last -= count;
                }
                Ok(())
            }
            Err(error) => {
                for it in accepted.iter().rev() {
                    take_back(&mut inner.state, &it.changes);
                }
                Err(error)
            }
        }
    }
}

/// Undoes `changes` in `state`.
pub(super) fn take_back(state: &mut State, changes: &[Change]) {
    let back = changes.iter().rev().map(|change| Change {
        path: change.path.clone(),
        before: change.after.clone(),
        after: change.before.clone(),
    });
    state.apply(back);
}

/// What is at the paths that change, before.
pub(super) fn current(accepted: &[Accepted]) -> State {
    let mut state = State::default();
    for change in accepted.iter().flat_map(|it| &it.changes) {
        if let Some(before) = &change.before {
            state.0.entry(change.path.clone()).or_insert_with(|| before.clone());
        }
    }
    state
}

/// What is to be at the paths that change.
pub(super) fn wanted(accepted: &[Accepted]) -> State {
    let mut state = State::default();
    state.apply(accepted.iter().flat_map(|it| it.changes.iter().cloned()));
    state
}

pub(super) fn plan(current: &State, wanted: &State) -> Plan {
    Plan::between(current, wanted, wanted, current, crate::platform::Privileges::Withhold)
}

/// Tells those in which something failed, with where and why, from the others. What belongs to none of them is everybody's.
pub(super) fn divide(
    accepted: Vec<Accepted>,
    failures: &[Failure],
) -> (Vec<(Accepted, String, String)>, Vec<Accepted>) {
    let is_of = |it: &Accepted, failure: &Failure| it.changes.iter().any(|change| change.path == failure.0);
    let nobodys = failures.iter().find(|failure| !accepted.iter().any(|it| is_of(it, failure)));
    let (mut failed, mut rest) = (Vec::new(), Vec::new());
    for it in accepted {
        match failures.iter().find(|failure| is_of(&it, failure)).or(nobodys) {
            Some((path, error)) => failed.push((it, path.to_string(), error.to_string())),
            None => rest.push(it),
        }
    }
    (failed, rest)
}
