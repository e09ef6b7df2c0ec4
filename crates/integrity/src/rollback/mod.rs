//! Putting a store, or some paths of it, back to a recovery point.
//!
//! In order: a safety snapshot, pinned; the intent, durable; every new file prepared in the vault, durable; the decision, durable;
//! renames; a look at the store that reads back what was put there; the end, durable. A crash before the decision leaves the old state,
//! one after it the new: opening the store finishes it. History is never erased: the rollback is a change at a new LSN.

pub(crate) mod apply;
pub(crate) mod plan;
mod point;
mod report;

use std::time::Instant;

use jiff::Timestamp;

use crate::catalogue::Pending;
use crate::content::ContentId;
use crate::log::{Intent, Lsn, Outcome, Record, batch};
use crate::path::StorePath;
use crate::place::Materials;
use crate::platform::{OpenBy, Privileges, open_for_writing, quoted, same_name};
use crate::progress::{Progress, Silent};
use crate::snapshot::{Inner, NewSnapshot, Origin, SCHEMA_VERSION, SnapshotManager, safety_failed};
use crate::state::{Node, State};
use crate::verify::{Failure, FaultKind, VerifyError, compare, explain, unread};
use crate::writers::{Frozen, Writer, Writers};
use crate::{Error, Result};

use apply::{Workshop, clear_staging};
use plan::{Plan, Selection};
pub use point::RecoveryPoint;
pub use report::{Recovered, RollbackReport};

/// So many failed paths are told.
const TOLD: usize = 100;

/// What rollback is wanted.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a refusal that a person lifts by itself")]
pub struct RollbackRequest {
    /// Where to go back to.
    pub to: RecoveryPoint,
    /// Only these paths and what is below them; empty: everything.
    pub paths: Vec<StorePath>,
    /// Change nothing, say what would be done.
    pub dry_run: bool,
    /// Go on although writers are alive. They are frozen meanwhile where that is possible.
    pub force: bool,
    /// Go on although programs outside have files of the store open for writing: what they write then is lost to the store.
    pub despite_open: bool,
    /// Restore set-uid and set-gid bits and file capabilities too.
    pub privileges: bool,
}

impl RollbackRequest {
    /// The whole store, to `to`, with nothing forced.
    pub fn new(to: RecoveryPoint) -> Self {
        Self { to, paths: Vec::new(), dry_run: false, force: false, despite_open: false, privileges: false }
    }
}

/// Writers that somebody else already holds.
struct AlreadyFrozen(Vec<String>);

impl Writers for AlreadyFrozen {
    fn freeze(&self) -> std::result::Result<Frozen, String> {
        Ok(Frozen::new(self.0.clone(), ()))
    }

    fn alive(&self) -> std::result::Result<Vec<Writer>, String> {
        Ok(Vec::new())
    }
}

/// How the end of a rollback looks.
struct Ending {
    new_lsn: Lsn,
    outcome: Outcome,
    errors: Vec<VerifyError>,
}

impl SnapshotManager {
    /// Puts the store back to a recovery point.
    ///
    /// # Errors
    /// Nothing in the store was changed with [`Error::WritersAlive`] (a refusal), [`Error::SafetySnapshot`],
    /// [`Error::NotRestorable`], [`Error::NoSuchPoint`] and its kin. With [`Error::Io`] or [`Error::Durable`] it may have been
    /// interrupted: opening the store again ends it. Paths that could not be put back are no error but in the report.
    pub fn rollback(
        &self,
        request: &RollbackRequest,
        writers: &dyn Writers,
        progress: &dyn Progress,
    ) -> Result<RollbackReport> {
        let started = Instant::now();
        let mut inner = self.inner();
        if inner.catalogue.is_interrupted() {
            return Err(self.interrupted());
        }
        let to_lsn = self.resolve(&inner, &request.to)?.lsn;
        let everything = inner.catalogue.state_at(to_lsn)?;
        let request = &RollbackRequest { paths: self.spelled(&request.paths, &everything)?, ..request.clone() };
        if request.dry_run {
            return self.dry_run(&mut inner, request, to_lsn, &everything, progress, started);
        }
        let alive = writers.alive().map_err(|detail| Error::Writers { action: "listed", detail })?;
        if !alive.is_empty() && !request.force {
            return Err(Error::WritersAlive { store: self.store.name().to_owned(), writers: alive });
        }
        if !request.despite_open {
            self.refuse_open()?;
        }
        let frozen = if alive.is_empty() { None } else { freeze(writers) };
        let held = AlreadyFrozen(frozen.as_ref().map(|frozen| frozen.names().to_vec()).unwrap_or_default());
        let wanted = NewSnapshot { label: None, origin: Origin::BeforeRollback, pinned: true };
        let safety = self.create_within(&mut inner, &wanted, &held, progress).map_err(safety_failed)?;
        let intent = Intent {
            time: Timestamp::now(),
            from_lsn: safety.lsn,
            to_lsn,
            paths: request.paths.clone(),
            privileges: request.privileges,
            safety_snapshot: safety.id,
        };
        let mut report = self.carry_out(&mut inner, intent, &everything, progress)?;
        drop(frozen);
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    fn refuse_open(&self) -> Result<()> {
        let open = open_for_writing(self.store.tree());
        if open.is_empty() {
            return Ok(());
        }
        let writer = |open: &OpenBy| Writer {
            name: format!("process {} ({}), which has {} open", open.pid, open.command, open.path),
            stop_unproven: false,
        };
        let writers = open.iter().map(writer).collect();
        Err(Error::WritersAlive { store: self.store.name().to_owned(), writers })
    }

    /// The paths as the store has them. One that is neither there now nor was there then is a slip.
    fn spelled(&self, paths: &[StorePath], everything: &State) -> Result<Vec<StorePath>> {
        let tree = self.store.tree();
        let known = |path: &StorePath| {
            if everything.0.contains_key(path) {
                return Some(path.clone());
            }
            let same = everything.0.keys().find(|key| same_name(key.as_bytes(), path.as_bytes()));
            same.cloned().or_else(|| tree.spelling(path).ok().flatten())
        };
        let unknown =
            |path: &StorePath| Error::NoSuchPath { store: self.store.name().to_owned(), path: path.to_string() };
        paths.iter().map(|path| known(path).ok_or_else(|| unknown(path))).collect()
    }

    fn dry_run(
        &self,
        inner: &mut Inner,
        request: &RollbackRequest,
        to_lsn: Lsn,
        everything: &State,
        progress: &dyn Progress,
        started: Instant,
    ) -> Result<RollbackReport> {
        let live = self.live_state(inner, progress)?;
        let selection = Selection(&request.paths);
        let (wanted, current) = (selection.of(everything), selection.of(&live));
        let plan = Plan::between(&current, &wanted, everything, &live, Privileges::from(request.privileges));
        let mut report = self.report(self.lsn(), to_lsn, &plan);
        report.dry_run = true;
        report.errors = self.unavailable(&plan);
        report.errors.extend(unread(&wanted));
        report.withheld = plan.withheld(Privileges::from(request.privileges));
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Everything from the intent to the end. The live store is what `inner.state` says.
    fn carry_out(
        &self,
        inner: &mut Inner,
        intent: Intent,
        everything: &State,
        progress: &dyn Progress,
    ) -> Result<RollbackReport> {
        let selection = Selection(&intent.paths);
        let wanted = selection.of(everything);
        let privileges = Privileges::from(intent.privileges);
        let current = selection.of(&inner.state);
        let plan = Plan::between(&current, &wanted, everything, &inner.state, privileges);
        refuse_if_unavailable(&self.unavailable(&plan))?;
        let begin = self.commit(inner, vec![Record::RollbackBegin(intent.clone())])?;
        let materials = Materials { packs: &self.packs, privileges };
        let staged = Workshop::open(&self.store, begin)
            .and_then(|workshop| Ok((workshop.stage(&plan, &materials, progress)?, workshop)));
        let mut workshop = match staged {
            Ok((failures, workshop)) if failures.is_empty() => workshop,
            Ok((failures, _)) => return Err(self.abandon(inner, begin, not_restorable(failures))),
            Err(error) => return Err(self.abandon(inner, begin, error)),
        };
        self.commit(inner, vec![Record::RollbackApply { begin }])?;
        let failures = workshop.apply(&plan, &inner.state, &materials, progress)?;
        let trash = workshop.trash();
        let ending = self.end(inner, begin, &intent, everything, failures, progress)?;
        if let Err(error) = workshop.close() {
            tracing::warn!(%error, "what a rollback left in the vault could not be removed");
        }
        let mut report = self.report(intent.from_lsn, intent.to_lsn, &plan);
        report.new_lsn = Some(ending.new_lsn);
        report.undo_command = Some(self.undo_command(intent.safety_snapshot.as_str(), &intent.paths));
        report.safety_snapshot = Some(intent.safety_snapshot);
        report.verified = ending.outcome == Outcome::Verified;
        report.errors = ending.errors;
        report.withheld = plan.withheld(privileges);
        report.trash = trash.map(|path| path.display().to_string());
        Ok(report)
    }

    /// Reads back what was put in place, compares, and makes it part of the history.
    fn end(
        &self,
        inner: &mut Inner,
        begin: Lsn,
        intent: &Intent,
        everything: &State,
        failures: Vec<Failure>,
        progress: &dyn Progress,
    ) -> Result<Ending> {
        let observation = self.observe(inner, progress)?;
        let time = Timestamp::now();
        let mut records = batch(time, &observation.changes);
        let before = inner.state.clone();
        inner.state.apply(observation.changes);
        let selection = Selection(&intent.paths);
        let (wanted, found) = (selection.of(everything), selection.of(&inner.state));
        let mut errors = compare(&wanted, &found, Privileges::from(intent.privileges));
        explain(&mut errors, failures);
        errors.truncate(TOLD);
        let outcome = if errors.is_empty() { Outcome::Verified } else { Outcome::Differs };
        records.push(Record::RollbackEnd { time, begin, outcome });
        match self.commit(inner, records) {
            Ok(new_lsn) => Ok(Ending { new_lsn, outcome, errors }),
            Err(error) => {
                inner.state = before;
                Err(error)
            }
        }
    }

    /// Ends a rollback that has changed nothing; gives back why.
    fn abandon(&self, inner: &mut Inner, begin: Lsn, why: Error) -> Error {
        let record = Record::RollbackEnd { time: Timestamp::now(), begin, outcome: Outcome::Abandoned };
        if let Err(error) = self.commit(inner, vec![record]).and_then(|_| clear_staging(&self.store)) {
            tracing::warn!(%error, "giving up a rollback is left to the next opening of the store");
        }
        why
    }

    /// Ends a rollback that a crash interrupted: gives it up if it was not decided, finishes it if it was. It begins anew from how the
    /// store is found, so it does not matter how far it had come.
    pub(crate) fn recover(&self) -> Result<Option<Recovered>> {
        let mut inner = self.inner();
        let Some(Pending { begin, intent, applies }) = inner.catalogue.facts.pending.clone() else {
            clear_staging(&self.store)?;
            return Ok(None);
        };
        let recovered = |outcome, errors| {
            Some(Recovered { to_lsn: intent.to_lsn, safety_snapshot: intent.safety_snapshot.clone(), outcome, errors })
        };
        if !applies {
            let record = Record::RollbackEnd { time: Timestamp::now(), begin, outcome: Outcome::Abandoned };
            self.commit(&mut inner, vec![record])?;
            clear_staging(&self.store)?;
            return Ok(recovered(Outcome::Abandoned, Vec::new()));
        }
        let observation = self.observe(&mut inner, &Silent)?;
        inner.state.apply(observation.changes.iter().cloned());
        self.commit(&mut inner, batch(Timestamp::now(), &observation.changes))?;
        let everything = inner.catalogue.state_at(intent.to_lsn)?;
        let selection = Selection(&intent.paths);
        let (wanted, current) = (selection.of(&everything), selection.of(&inner.state));
        let privileges = Privileges::from(intent.privileges);
        let plan = Plan::between(&current, &wanted, &everything, &inner.state, privileges);
        let materials = Materials { packs: &self.packs, privileges };
        let mut workshop = Workshop::open(&self.store, begin)?;
        let mut failures = workshop.stage(&plan, &materials, &Silent)?;
        failures.extend(workshop.apply(&plan, &inner.state, &materials, &Silent)?);
        let ending = self.end(&mut inner, begin, &intent, &everything, failures, &Silent)?;
        workshop.close()?;
        Ok(recovered(ending.outcome, ending.errors))
    }

    fn report(&self, from_lsn: Lsn, to_lsn: Lsn, plan: &Plan) -> RollbackReport {
        RollbackReport {
            schema_version: SCHEMA_VERSION,
            store: self.store.name().to_owned(),
            dry_run: false,
            from_lsn,
            to_lsn,
            new_lsn: None,
            safety_snapshot: None,
            undo_command: None,
            open_by: open_for_writing(self.store.tree()),
            restored: plan.restored_files(),
            removed: plan.removed_files,
            unchanged: plan.unchanged_files,
            bytes: plan.bytes(),
            verified: false,
            errors: Vec::new(),
            withheld: Vec::new(),
            trash: None,
            seconds: 0.0,
        }
    }

    /// What of the plan can't be restored because no pack holds it.
    fn unavailable(&self, plan: &Plan) -> Vec<VerifyError> {
        let files = plan.puts.iter().filter(|put| put.version.is_file() && put.same_as.is_none());
        let is_stored = |id: ContentId| self.packs.contains(&id);
        let lacking = files.filter(|put| match &put.version.node {
            Node::File { content: None, .. } => true,
            _ => !put.version.contents().all(is_stored),
        });
        let error = |put: &plan::Put| VerifyError {
            path: put.path.to_string(),
            kind: FaultKind::Missing,
            detail: "its content is not in the vault".to_owned(),
        };
        lacking.map(error).collect()
    }

    fn undo_command(&self, safety: &str, paths: &[StorePath]) -> String {
        let mut command = format!("estop rollback {} --to {safety}", quoted(self.store.name()));
        for path in paths {
            command.push_str(" --path ");
            command.push_str(&quoted(&path.to_string()));
        }
        command
    }
}

/// Freezes writers for a rollback that was insisted on. It goes on if they can't be.
fn freeze(writers: &dyn Writers) -> Option<Frozen> {
    match writers.freeze() {
        Ok(frozen) => Some(frozen),
        Err(detail) => {
            tracing::warn!(detail, "the store is rolled back with its writers running");
            None
        }
    }
}

fn refuse_if_unavailable(lacking: &[VerifyError]) -> Result<()> {
    match lacking.first() {
        None => Ok(()),
        Some(first) => {
            Err(Error::NotRestorable { count: lacking.len(), path: first.path.clone(), detail: first.detail.clone() })
        }
    }
}

fn not_restorable(failures: Vec<Failure>) -> Error {
    let count = failures.len();
    match failures.into_iter().next() {
        Some((path, error)) => Error::NotRestorable { count, path: path.to_string(), detail: error.to_string() },
        None => Error::NotRestorable { count, path: String::new(), detail: String::new() },
    }
}
