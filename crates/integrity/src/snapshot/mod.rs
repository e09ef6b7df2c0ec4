//! Snapshots of a store: making them, finding them, comparing them, giving them up.

mod create;
mod diff;
mod find;
mod prune;
mod restore;
mod types;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::catalogue::Catalogue;
use crate::content::{Mark, Packs};
use crate::log::{Lsn, Record, TransactionLog};
use crate::observe::{Observation, Observer, Scan};
use crate::progress::Progress;
use crate::rollback::Recovered;
use crate::state::State;
use crate::store::Store;
use crate::transaction::{Queue, RecoveredTransaction};
use crate::{Error, Result};

pub use create::NewSnapshot;
pub(crate) use create::safety_failed;
pub use diff::{Difference, SnapshotDiff};
pub use find::StoreStatus;
pub use prune::{PruneReport, Retention};
pub use restore::RestoreReport;
pub(crate) use types::SCHEMA_VERSION;
pub use types::{Consistency, Details, KBSnapshot, Origin, SnapshotId};

/// Makes, keeps and gives back the snapshots of one store. It can be shared between threads, which take turns.
pub struct SnapshotManager {
    pub(crate) store: Store,
    pub(crate) packs: Packs,
    pub(crate) log: TransactionLog,
    pub(crate) queue: Queue,
    inner: Mutex<Inner>,
    recovered: Option<Recovered>,
    recovered_transactions: Vec<RecoveredTransaction>,
}

/// What changes with every operation.
pub(crate) struct Inner {
    pub(crate) catalogue: Catalogue,
    /// The state after everything in the log.
    pub(crate) state: State,
    pub(crate) observer: Box<dyn Observer>,
}

/// What making the catalogue anew found.
#[derive(Clone, Debug, Serialize)]
pub struct RebuildReport {
    /// The version of this object.
    pub schema_version: u32,
    /// The store's name.
    pub store: String,
    /// Records of the log that were folded.
    pub records: u64,
    /// Contents found whole in the packs.
    pub contents: u64,
    /// What in the packs could not be used.
    pub faults: Vec<String>,
}

impl SnapshotManager {
    /// Opens the snapshots of `store`: folds what the catalogue lacks, and finishes or gives up what a crash interrupted.
    ///
    /// # Errors
    /// [`Error::CatalogueDamaged`], which names the command that helps; [`Error::Durable`] if the log is damaged or in use;
    /// [`Error::Io`].
    pub fn open(store: Store) -> Result<Self> {
        let log = open_log(&store)?;
        let path = store.catalogue_path();
        let mut catalogue = Catalogue::open(&path, store.name(), store.identity())?;
        if catalogue.facts.folded > log.head().lsn {
            let detail = format!("it knows record {}, the log ends at {}", catalogue.facts.folded, log.head().lsn);
            return Err(Error::CatalogueDamaged { path, store: store.name().to_owned(), detail });
        }
        fold_tail(&store, &log, &mut catalogue)?;
        let packs = Packs::open(&store.packs_dir(), catalogue.facts.mark, catalogue.contents()?)?;
        let state = catalogue.current_state()?;
        catalogue.set_current_checksum(state.checksum())?;
        let inner = Inner { catalogue, state, observer: Box::<Scan>::default() };
        let (inner, queue) = (Mutex::new(inner), Queue::default());
        let mut manager = Self { store, packs, log, queue, inner, recovered: None, recovered_transactions: Vec::new() };
        manager.recovered_transactions = manager.recover_transactions()?;
        manager.recovered = manager.recover()?;
        manager.expire_transactions()?;
        Ok(manager)
    }

    /// Makes the catalogue anew from the log and the packs, reading every content once. Nothing else is changed.
    ///
    /// # Errors
    /// [`Error::Durable`] if the log is damaged; [`Error::Io`].
    pub fn rebuild(store: Store) -> Result<(Self, RebuildReport)> {
        let log = open_log(&store)?;
        let path = store.catalogue_path();
        Catalogue::remove(&path)?;
        let mut catalogue = Catalogue::open(&path, store.name(), store.identity())?;
        let packs = Packs::open(&store.packs_dir(), Mark::default(), HashMap::new())?;
        let found = packs.scan(Mark::default(), None)?;
        let report = RebuildReport {
            schema_version: SCHEMA_VERSION,
            store: store.name().to_owned(),
            records: log.head().lsn,
            contents: found.contents.len() as u64,
            faults: found.faults,
        };
        catalogue.fold(log.read_from(1)?, found.contents, None)?;
        drop(catalogue);
        drop(log);
        Ok((Self::open(store)?, report))
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The last LSN of the store's history.
    pub fn lsn(&self) -> Lsn {
        self.log.head().lsn
    }

    /// The rollback that opening the store finished or gave up, because a crash had interrupted it.
    pub fn recovered(&self) -> Option<&Recovered> {
        self.recovered.as_ref()
    }

    /// The commits that opening the store completed, because a crash had interrupted them.
    pub fn recovered_transactions(&self) -> &[RecoveredTransaction] {
        &self.recovered_transactions
    }

    /// The transaction log.
    pub fn log(&self) -> &TransactionLog {
        &self.log
    }

    /// What is answered while something that a crash interrupted has not been completed.
    pub(crate) fn interrupted(&self) -> Error {
        Error::Interrupted { store: self.store.name().to_owned() }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        // The state is replaced as a whole, and the catalogue works in transactions.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `records` part of the history: makes the contents they speak of durable, appends them behind a note of that, and folds
    /// them. Gives the LSN of the last one.
    pub(crate) fn commit(&self, inner: &mut Inner, mut records: Vec<Record>) -> Result<Lsn> {
        let mark = self.packs.sync()?;
        if mark != inner.catalogue.facts.mark {
            records.insert(0, Record::Content(mark));
        }
        if records.is_empty() {
            return Ok(self.lsn());
        }
        let lsn = *self.log.append(&records)?.end();
        let fresh = self.packs.take_fresh();
        let checksum = inner.state.checksum();
        let tail = self.log.read_from(inner.catalogue.facts.folded + 1)?;
        if let Err(error) = inner.catalogue.fold(tail, fresh.iter().copied(), Some(checksum)) {
            // What was appended holds; the catalogue catches up the next time.
            tracing::warn!(%error, store = self.store.name(), "the catalogue lags behind the log");
            self.packs.give_back_fresh(fresh);
        }
        Ok(lsn)
    }

    /// Looks at the live store, storing the content of what changed. It is part of the history only once it is committed.
    pub(crate) fn observe(&self, inner: &mut Inner, progress: &dyn Progress) -> Result<Observation> {
        let Inner { state, observer, .. } = inner;
        observer.observe(self.store.tree(), state, &self.packs, progress)
    }
}

impl std::fmt::Debug for SnapshotManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotManager").field("store", &self.store).finish_non_exhaustive()
    }
}

fn open_log(store: &Store) -> Result<TransactionLog> {
    let log = TransactionLog::open(&store.log_dir())?;
    if log.head().lsn == 0 {
        refuse_lost_log(store)?;
        log.append(&[Record::Created { time: Timestamp::now(), vault: store.identity() }])?;
    }
    Ok(log)
}

/// An empty log beside a catalogue that has folded records means that the log was lost, not that the store is new.
fn refuse_lost_log(store: &Store) -> Result<()> {
    let path: &Path = &store.catalogue_path();
    if path.exists() && Catalogue::open(path, store.name(), store.identity())?.facts.folded > 0 {
        let detail = "the log is empty, and the catalogue knows of records: restore the vault from a copy".to_owned();
        return Err(estop_durable::Error::Damaged { path: store.log_dir(), detail }.into());
    }
    Ok(())
}

/// Folds what the catalogue lacks, finding the new contents in the packs.
fn fold_tail(store: &Store, log: &TransactionLog, catalogue: &mut Catalogue) -> Result<()> {
    if catalogue.facts.folded == log.head().lsn {
        return Ok(());
    }
    let from = catalogue.facts.mark;
    let mut until = from;
    for record in log.read_from(catalogue.facts.folded + 1)? {
        if let (_, Record::Content(mark)) = record? {
            until = mark;
        }
    }
    let packs = Packs::open(&store.packs_dir(), from, HashMap::new())?;
    let found = packs.scan(from, Some(until))?;
    for fault in &found.faults {
        tracing::warn!(store = store.name(), fault, "a pack holds something unreadable");
    }
    catalogue.fold(log.read_from(catalogue.facts.folded + 1)?, found.contents, None)
}
