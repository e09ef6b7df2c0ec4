//! Making a snapshot.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;

use super::{Consistency, Details, Inner, KBSnapshot, Origin, SnapshotId, SnapshotManager};
use crate::log::{Record, batch};
use crate::observe::Observation;
use crate::path::StorePath;
use crate::progress::Progress;
use crate::state::{Change, State};
use crate::writers::Writers;
use crate::{Error, Result, root};

/// What snapshot is wanted.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// What to call it.
    pub label: Option<String>,
    /// Why it is made.
    pub origin: Origin,
    /// Never remove it by rotation.
    pub pinned: bool,
}

impl Default for NewSnapshot {
    fn default() -> Self {
        Self { label: None, origin: Origin::Manual, pinned: false }
    }
}

/// How the writers were held.
struct Stillness {
    consistency: Consistency,
    seconds: f64,
    error: Option<String>,
}

impl SnapshotManager {
    /// Makes a snapshot. Most of it is read while the writers run; they are frozen only for a last look.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a rollback that failed; [`Error::Io`] or [`Error::Durable`] if something can't be read or written: then there is no snapshot. Writers that can't be
    /// frozen are no error; the snapshot says so ([`KBSnapshot::freeze_error`]).
    pub fn create(&self, wanted: &NewSnapshot, writers: &dyn Writers, progress: &dyn Progress) -> Result<KBSnapshot> {
        self.create_within(&mut self.inner(), wanted, writers, progress)
    }

    pub(crate) fn create_within(
        &self,
        inner: &mut Inner,
        wanted: &NewSnapshot,
        writers: &dyn Writers,
        progress: &dyn Progress,
    ) -> Result<KBSnapshot> {
        let started = Instant::now();
        if inner.catalogue.is_interrupted() {
            return Err(self.interrupted());
        }
        // Before a rollback it may be the damage that one would note.
        if wanted.origin != Origin::BeforeRollback {
            root::note(self.store.path(), self.store.vault())?;
        }
        let (observation, stillness) = self.look(inner, writers, progress)?;
        let Observation { changes, skipped, unstable, coverage } = observation;
        let created = Timestamp::now();
        let before = std::mem::take(&mut inner.state);
        let mut state = before.clone();
        state.apply(changes.iter().cloned());
        let checksum = state.checksum();
        let totals = state.totals();
        let changed = changes.iter().filter(|change| change.is_of_file() && change.is_notable());
        let (changed_files, changed_bytes) = changed.fold((0, 0), |(files, bytes), change| {
            (files + 1, bytes + change.after.as_ref().map_or(0, crate::state::Version::size))
        });
        let details = Details {
            id: SnapshotId::derive(&self.store.identity(), self.lsn(), created, &checksum),
            created,
            label: wanted.label.clone(),
            pinned: wanted.pinned,
            origin: wanted.origin,
            files: totals.files,
            directories: totals.directories,
            bytes: totals.bytes,
            changed_files,
            changed_bytes,
            checksum,
            seconds: started.elapsed().as_secs_f64(),
            frozen_seconds: stillness.seconds,
            consistency: stillness.consistency,
            freeze_error: stillness.error,
            coverage,
            skipped,
            unstable,
        };
        let mut records = batch(created, &changes);
        records.push(Record::Snapshot(Box::new(details.clone())));
        inner.state = state;
        match self.commit(inner, records) {
            Ok(lsn) => Ok(KBSnapshot::new(self.store.name(), lsn, details)),
            Err(error) => {
                inner.state = before;
                Err(error)
            }
        }
    }

    /// Looks at the store, and once more with the writers frozen if there are any.
    fn look(
        &self,
        inner: &mut Inner,
        writers: &dyn Writers,
        progress: &dyn Progress,
    ) -> Result<(Observation, Stillness)> {
        let first = self.observe(inner, progress)?;
        let mut frozen = match writers.freeze() {
            Ok(frozen) if frozen.names().is_empty() => return Ok((first, Stillness::live(None))),
            Ok(frozen) => frozen,
            Err(error) => return Ok((first, Stillness::live(Some(error)))),
        };
        let since = Instant::now();
        let mut interim = inner.state.clone();
        interim.apply(first.changes.iter().cloned());
        let known = std::mem::replace(&mut inner.state, interim);
        let second = self.observe(inner, progress);
        // A freeze is a lease: whoever takes long must ask whether it lasted.
        let held = frozen.has_held();
        drop(frozen);
        let seconds = since.elapsed().as_secs_f64();
        inner.state = known;
        let second = second?;
        let changes = compose(&inner.state, first.changes, second.changes);
        let stillness = match held {
            Ok(()) => Stillness { consistency: Consistency::Frozen, seconds, error: None },
            Err(error) => Stillness { seconds, ..Stillness::live(Some(error)) },
        };
        Ok((Observation { changes, ..second }, stillness))
    }

    /// Keeps a snapshot from rotation, or no longer. `id` may be the beginning of one.
    ///
    /// # Errors
    /// [`Error::NoSuchPoint`], [`Error::AmbiguousSnapshot`]; [`Error::Durable`] if it can't be written.
    pub fn pin(&self, id: &str, pinned: bool) -> Result<KBSnapshot> {
        let mut inner = self.inner();
        let (lsn, mut details) = self.find_snapshot(&inner, id)?;
        if details.pinned != pinned {
            let record = Record::Pin { time: Timestamp::now(), snapshot: details.id.clone(), pinned };
            self.commit(&mut inner, vec![record])?;
            details.pinned = pinned;
        }
        Ok(KBSnapshot::new(self.store.name(), lsn, details))
    }
}

impl Stillness {
    fn live(error: Option<String>) -> Self {
        Self { consistency: Consistency::Live, seconds: 0.0, error }
    }
}

/// One list of changes against `known` from two that followed each other.
fn compose(known: &State, first: Vec<Change>, second: Vec<Change>) -> Vec<Change> {
    let mut composed: BTreeMap<StorePath, Change> = BTreeMap::new();
    for change in first.into_iter().chain(second) {
        let before = known.0.get(&change.path).cloned();
        composed.insert(change.path.clone(), Change { before, ..change });
    }
    composed.into_values().filter(|change| change.before != change.after).collect()
}

/// Turns the failure of a safety snapshot into the reason why nothing was rolled back.
pub(crate) fn safety_failed(error: Error) -> Error {
    Error::SafetySnapshot { source: Box::new(error) }
}
