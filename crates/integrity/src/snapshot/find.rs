//! Finding snapshots and recovery points.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::{Details, Inner, KBSnapshot, SnapshotId, SnapshotManager};
use crate::log::Lsn;
use crate::progress::Progress;
use crate::rollback::RecoveryPoint;
use crate::{Error, Result};

/// How a store stands.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    /// The store's name.
    pub name: String,
    /// The protected directory.
    pub path: PathBuf,
    /// The last LSN of its history.
    pub lsn: Lsn,
    /// Files and symbolic links, as last known.
    pub files: u64,
    /// Bytes of content, as last known.
    pub bytes: u64,
    /// The latest snapshot.
    pub last_snapshot: Option<SnapshotId>,
    /// Files that are now other than last known.
    pub dirty_files: u64,
}

/// A recovery point that exists.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) lsn: Lsn,
    /// The snapshot there, if it is one.
    pub(crate) snapshot: Option<Details>,
}

impl SnapshotManager {
    /// How the store stands. It is looked at, which costs a scan, and nothing is changed.
    ///
    /// # Errors
    /// [`Error::CatalogueDamaged`], [`Error::Io`].
    pub fn status(&self, progress: &dyn Progress) -> Result<StoreStatus> {
        let mut inner = self.inner();
        let dirty = self.live_changes(&mut inner, progress)?;
        let totals = inner.state.totals();
        Ok(StoreStatus {
            name: self.store.name().to_owned(),
            path: self.store.path().to_owned(),
            lsn: self.lsn(),
            files: totals.files,
            bytes: totals.bytes,
            last_snapshot: inner.catalogue.snapshots()?.pop().map(|(_, details)| details.id),
            dirty_files: dirty.iter().filter(|change| change.is_of_file() && change.is_notable()).count() as u64,
        })
    }

    /// Every snapshot, oldest first.
    ///
    /// # Errors
    /// [`Error::CatalogueDamaged`].
    pub fn list(&self) -> Result<Vec<KBSnapshot>> {
        let snapshots = self.inner().catalogue.snapshots()?;
        Ok(snapshots.into_iter().map(|(lsn, details)| KBSnapshot::new(self.store.name(), lsn, details)).collect())
    }

    /// The snapshot whose id is, or begins with, `id`.
    ///
    /// # Errors
    /// [`Error::NoSuchPoint`] if there is none, [`Error::AmbiguousSnapshot`] if there are several.
    pub fn show(&self, id: &str) -> Result<KBSnapshot> {
        let (lsn, details) = self.find_snapshot(&self.inner(), id)?;
        Ok(KBSnapshot::new(self.store.name(), lsn, details))
    }

    pub(crate) fn find_snapshot(&self, inner: &Inner, id: &str) -> Result<(Lsn, Details)> {
        let all = inner.catalogue.snapshots()?;
        let mut matching: Vec<_> = all.into_iter().filter(|(_, details)| details.id.as_str().starts_with(id)).collect();
        let store = self.store.name().to_owned();
        match (matching.pop(), matching.len()) {
            (Some(found), 0) => Ok(found),
            (Some(_), others) => Err(Error::AmbiguousSnapshot { store, prefix: id.to_owned(), count: others + 1 }),
            (None, _) => Err(self.no_such_point(id, "`estop snapshot list` shows what there is")),
        }
    }

    pub(crate) fn resolve(&self, inner: &Inner, point: &RecoveryPoint) -> Result<Resolved> {
        match point {
            RecoveryPoint::Snapshot(id) => {
                let (lsn, details) = self.find_snapshot(inner, id)?;
                Ok(Resolved { lsn, snapshot: Some(details) })
            }
            RecoveryPoint::Lsn(lsn) => self.resolve_lsn(inner, *lsn, point),
            RecoveryPoint::Time(time) if *time > Timestamp::now() => {
                Err(self.no_such_point(point, "that time has not come yet"))
            }
            RecoveryPoint::Time(time) => match inner.catalogue.lsn_at(*time)? {
                Some(lsn) => self.resolve_lsn(inner, lsn, point),
                None => {
                    Err(self.no_such_point(point, "nothing is known of that time; the oldest state known is later"))
                }
            },
        }
    }

    fn resolve_lsn(&self, inner: &Inner, lsn: Lsn, point: &RecoveryPoint) -> Result<Resolved> {
        let last = self.lsn();
        if lsn == 0 || lsn > last {
            return Err(self.no_such_point(point, &format!("its history has LSN 1 to {last}")));
        }
        let snapshots = inner.catalogue.snapshots()?;
        let (earlier, later): (Vec<_>, Vec<_>) = snapshots.into_iter().partition(|(at, _)| *at <= lsn);
        if let Some((at, details)) = earlier.last()
            && *at == lsn
        {
            return Ok(Resolved { lsn, snapshot: Some(details.clone()) });
        }
        if lsn >= inner.catalogue.facts.pruned {
            return Ok(Resolved { lsn, snapshot: None });
        }
        let nearest = earlier.last().into_iter().chain(later.first());
        let nearest: Vec<_> = nearest.map(|(at, details)| format!("{} (lsn:{at})", details.id)).collect();
        let hint = format!("that time was pruned; the nearest snapshots kept are {}", nearest.join(" and "));
        Err(self.no_such_point(point, &hint))
    }

    fn no_such_point(&self, point: impl std::fmt::Display, hint: &str) -> Error {
        Error::NoSuchPoint { store: self.store.name().to_owned(), point: point.to_string(), hint: hint.to_owned() }
    }
}
