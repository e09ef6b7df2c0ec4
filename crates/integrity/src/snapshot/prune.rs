//! Giving up snapshots, and freeing what only they needed.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use super::{Inner, KBSnapshot, SCHEMA_VERSION, SnapshotId, SnapshotManager};
use crate::Result;
use crate::content::Tidied;
use crate::error::Context as _;
use crate::log::Record;

/// What a rollback moved aside is kept this long.
const TRASH_KEPT: Duration = Duration::from_hours(7 * 24);

/// Which snapshots to keep. One is kept if any rule keeps it; the latest and pinned ones always are. Hours, days, weeks (from Monday)
/// and months are those of UTC; the latest snapshot of each counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// So many of the latest.
    pub last: usize,
    /// Of so many hours.
    pub hourly: usize,
    /// Of so many days.
    pub daily: usize,
    /// Of so many weeks.
    pub weekly: usize,
    /// Of so many months.
    pub monthly: usize,
    /// All that are younger.
    pub within: Option<Duration>,
}

/// What pruning did.
#[derive(Clone, Debug, Serialize)]
pub struct PruneReport {
    /// The version of this object.
    pub schema_version: u32,
    /// The store's name.
    pub store: String,
    /// Nothing was done; this is what would be.
    pub dry_run: bool,
    /// Snapshots removed.
    pub removed: Vec<SnapshotId>,
    /// Snapshots kept.
    pub kept: Vec<SnapshotId>,
    /// Pack files removed.
    pub packs_removed: u64,
    /// Bytes freed on the device.
    pub freed_bytes: u64,
}

impl Retention {
    /// The snapshots, of all there are (oldest first), that no rule keeps.
    pub fn surplus(&self, all: &[KBSnapshot], now: Timestamp) -> Vec<SnapshotId> {
        let mut kept: HashSet<&SnapshotId> = all.iter().filter(|snapshot| snapshot.pinned).map(|s| &s.id).collect();
        let latest_first = || all.iter().rev();
        kept.extend(latest_first().take(self.last.max(1)).map(|snapshot| &snapshot.id));
        for (count, period) in
            [(self.hourly, "%Y-%m-%dT%H"), (self.daily, "%Y-%m-%d"), (self.weekly, "%G-W%V"), (self.monthly, "%Y-%m")]
        {
            let mut seen = HashSet::new();
            for snapshot in latest_first() {
                if seen.len() < count && seen.insert(snapshot.created.strftime(period).to_string()) {
                    kept.insert(&snapshot.id);
                }
            }
        }
        let young = |snapshot: &&KBSnapshot| {
            let age = Duration::try_from(now.duration_since(snapshot.created)).unwrap_or_default();
            self.within.is_some_and(|within| age <= within)
        };
        kept.extend(all.iter().filter(young).map(|snapshot| &snapshot.id));
        all.iter().map(|snapshot| &snapshot.id).filter(|id| !kept.contains(id)).cloned().collect()
    }
}

impl SnapshotManager {
    /// Removes the snapshots that `retention` doesn't keep, and frees content that nothing refers to any more. Of the time before
    /// this moment, only the remaining snapshots can be gone back to.
    ///
    /// # Errors
    /// [`Error::Durable`](crate::Error::Durable), [`Error::Io`](crate::Error::Io), [`Error::CatalogueDamaged`](crate::Error::CatalogueDamaged). A crash or failure leaves
    /// content that is needed in at least one place; the next call frees the rest.
    pub fn prune(&self, retention: &Retention, dry_run: bool) -> Result<PruneReport> {
        let all = self.list()?;
        let removed = retention.surplus(&all, Timestamp::now());
        let kept = all.into_iter().map(|snapshot| snapshot.id).filter(|id| !removed.contains(id)).collect();
        let mut tidied = Tidied::default();
        if !dry_run {
            let mut inner = self.inner();
            if !removed.is_empty() {
                let record = Record::Prune { time: Timestamp::now(), snapshots: removed.clone() };
                self.commit(&mut inner, vec![record])?;
            }
            tidied = self.tidy(&mut inner)?;
            self.empty_trash()?;
        }
        Ok(PruneReport {
            schema_version: SCHEMA_VERSION,
            store: self.store.name().to_owned(),
            dry_run,
            removed,
            kept,
            packs_removed: tidied.packs,
            freed_bytes: tidied.bytes,
        })
    }

    /// Frees content that no snapshot, no later moment and not the present needs. What is needed is durable in its new place, and
    /// the log knows, before the old place goes.
    fn tidy(&self, inner: &mut Inner) -> Result<Tidied> {
        if inner.catalogue.facts.folded != self.lsn() {
            return Ok(Tidied::default());
        }
        let mut needed = inner.catalogue.contents_referred_to()?;
        needed.extend(self.kept_contents()?);
        let emptied = self.packs.evacuate(&needed)?;
        self.commit(inner, Vec::new())?;
        self.packs.forget(&emptied);
        inner.catalogue.replace_contents(self.packs.locations())?;
        self.packs.remove(&emptied)
    }

    fn empty_trash(&self) -> Result<()> {
        let trash = self.store.vault().join("trash");
        for entry in std::fs::read_dir(&trash).context("list", &trash)? {
            let path = entry.context("list", &trash)?.path();
            let changed = path.symlink_metadata().and_then(|found| found.modified()).context("look at", &path)?;
            if SystemTime::now().duration_since(changed).is_ok_and(|age| age > TRASH_KEPT) {
                std::fs::remove_dir_all(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }
}
