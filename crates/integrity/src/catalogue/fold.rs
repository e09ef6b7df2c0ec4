//! Folding records of the log into the catalogue.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::params;

use super::{Applying, Catalogue, OPEN, Pending, short_hash, signed, unsigned};
use crate::Result;
use crate::content::{ContentId, Location};
use crate::log::{Batches, Lsn, Record};
use crate::path::StorePath;
use crate::snapshot::{Details, SnapshotId};
use crate::state::{Change, StateChecksum, Version};

impl Catalogue {
    /// Folds the records that follow [`Facts::folded`](super::Facts::folded), and takes up where contents stand, in one
    /// transaction. `checksum` is that of the current state after them, where it is known.
    pub(crate) fn fold(
        &mut self,
        records: impl Iterator<Item = Result<(Lsn, Record)>>,
        contents: impl IntoIterator<Item = (ContentId, Location)>,
        checksum: Option<StateChecksum>,
    ) -> Result<()> {
        let before = (self.facts.clone(), self.applying.clone());
        self.sql("write", || self.connection.execute_batch("BEGIN IMMEDIATE"))?;
        let folded = self.fold_all(records, contents, checksum).and_then(|()| {
            self.set_fact("facts", &self.facts)?;
            if self.applying != before.1 {
                self.set_fact("applying", &self.applying)?;
            }
            self.sql("write", || self.connection.execute_batch("COMMIT"))
        });
        if folded.is_err() {
            // The first error is the one to report; without the commit nothing of this stays.
            let _ = self.connection.execute_batch("ROLLBACK");
            (self.facts, self.applying) = before;
        }
        folded
    }

    fn fold_all(
        &mut self,
        records: impl Iterator<Item = Result<(Lsn, Record)>>,
        contents: impl IntoIterator<Item = (ContentId, Location)>,
        checksum: Option<StateChecksum>,
    ) -> Result<()> {
        let mut batches = Batches::default();
        for record in records {
            let (lsn, mut record) = record?;
            let joined = batches.take(&mut record);
            self.fold_record(lsn, &record, joined)?;
            self.facts.folded = lsn;
        }
        self.add_contents(contents)?;
        match checksum {
            Some(checksum) => self.set_current_checksum(checksum),
            None => Ok(()),
        }
    }

    /// Notes the checksum of the current state, against which it is checked when it is loaded.
    pub(crate) fn set_current_checksum(&self, checksum: StateChecksum) -> Result<()> {
        self.set_fact("current", &(self.facts.folded, checksum))
    }

    fn fold_record(&mut self, lsn: Lsn, record: &Record, joined: Option<Vec<Change>>) -> Result<()> {
        match record {
            Record::Created { vault, .. } => {
                if *vault != self.facts.vault {
                    return Err(self.damaged("the log belongs to another vault"));
                }
            }
            Record::Content(mark) => self.facts.mark = *mark,
            Record::Changes(part) => {
                if let Some(changes) = joined {
                    self.fold_changes(lsn, &changes)?;
                    self.add_moment(lsn, part.time)?;
                }
            }
            Record::Snapshot(details) => {
                self.put_snapshot(lsn, details)?;
                self.add_moment(lsn, details.created)?;
            }
            Record::Pin { snapshot, pinned, .. } => {
                if let Some((at, mut details)) = self.snapshot(snapshot)? {
                    details.pinned = *pinned;
                    self.put_snapshot(at, &details)?;
                }
            }
            Record::Prune { snapshots, .. } => self.fold_prune(lsn, snapshots)?,
            Record::RollbackBegin(intent) => {
                self.facts.pending = Some(Pending { begin: lsn, intent: intent.clone(), applies: false });
            }
            Record::RollbackApply { begin } => {
                if let Some(pending) = self.facts.pending.as_mut().filter(|pending| pending.begin == *begin) {
                    pending.applies = true;
                }
            }
            Record::RollbackEnd { time, .. } => {
                self.facts.pending = None;
                self.add_moment(lsn, *time)?;
            }
            Record::Transaction(part) => {
                if let Some(changes) = joined {
                    self.fold_changes(lsn, &changes)?;
                    self.add_moment(lsn, part.time)?;
                    self.applying.push(Applying { commit: lsn, first: lsn - Lsn::from(part.part) });
                }
            }
            Record::TransactionEnd { time, commit, .. } => {
                self.applying.retain(|applying| applying.commit != *commit);
                self.add_moment(lsn, *time)?;
            }
        }
        Ok(())
    }

    fn fold_changes(&self, lsn: Lsn, changes: &[Change]) -> Result<()> {
        for change in changes {
            let same = match (&change.before, &change.after) {
                (Some(before), Some(after)) => before.same_state(after),
                _ => false,
            };
            match &change.after {
                Some(after) if same => self.refresh(&change.path, after)?,
                after => {
                    if change.before.is_some() {
                        self.close(&change.path, lsn)?;
                    }
                    if let Some(after) = after {
                        self.put_version(&change.path, lsn, OPEN, &self.encode(after)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The path's version is the same, only recognised by something else.
    fn refresh(&self, path: &StorePath, version: &Version) -> Result<()> {
        let (from, _) = self.open_version(path)?;
        self.put_version(path, from, OPEN, &self.encode(version)?)
    }

    /// The path's version ends at `lsn`.
    fn close(&self, path: &StorePath, lsn: Lsn) -> Result<()> {
        let (from, data) = self.open_version(path)?;
        self.put_version(path, from, signed(lsn), &data)
    }

    fn open_version(&self, path: &StorePath) -> Result<(Lsn, Vec<u8>)> {
        let found = self.sql("read", || {
            let query = "SELECT from_lsn, to_lsn, data FROM version WHERE path = ?1 ORDER BY from_lsn DESC LIMIT 1";
            let mut statement = self.connection.prepare_cached(query)?;
            statement.query_row(params![path.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        });
        let (from, to, data): (i64, i64, Vec<u8>) = found?;
        if to != OPEN {
            return Err(self.damaged(format!("{path:?} has no current version, and the log says it has")));
        }
        Ok((unsigned(from), data))
    }

    fn put_version(&self, path: &StorePath, from: Lsn, to: i64, data: &[u8]) -> Result<()> {
        let checksum = version_checksum(path.as_bytes(), signed(from), to, data);
        self.sql("write", || {
            let insert = "INSERT OR REPLACE INTO version VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut statement = self.connection.prepare_cached(insert)?;
            statement.execute(params![path.as_bytes(), signed(from), to, data, checksum])
        })?;
        Ok(())
    }

    fn put_snapshot(&self, lsn: Lsn, details: &Details) -> Result<()> {
        let data = self.encode(details)?;
        let checksum = short_hash(&[&signed(lsn).to_le_bytes(), &data]);
        self.sql("write", || {
            let insert = "INSERT OR REPLACE INTO snapshot VALUES (?1, ?2, ?3, ?4)";
            let mut statement = self.connection.prepare_cached(insert)?;
            statement.execute(params![signed(lsn), details.id.as_str(), data, checksum])
        })?;
        Ok(())
    }

    fn add_moment(&self, lsn: Lsn, time: Timestamp) -> Result<()> {
        self.sql("write", || {
            let insert = "INSERT OR REPLACE INTO moment VALUES (?1, ?2)";
            self.connection.prepare_cached(insert)?.execute(params![signed(lsn), nanoseconds(time)])
        })?;
        Ok(())
    }

    fn add_contents(&self, contents: impl IntoIterator<Item = (ContentId, Location)>) -> Result<()> {
        self.sql("write", || {
            let mut statement = self.connection.prepare_cached("INSERT OR REPLACE INTO content VALUES (?1, ?2, ?3)")?;
            for (id, location) in contents {
                statement.execute(params![id.0, location.pack, signed(location.offset)])?;
            }
            Ok(())
        })
    }

    /// Takes these for all the contents there are.
    pub(crate) fn replace_contents(&mut self, contents: Vec<(ContentId, Location)>) -> Result<()> {
        self.sql("write", || self.connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM content"))?;
        let replaced =
            self.add_contents(contents).and_then(|()| self.sql("write", || self.connection.execute_batch("COMMIT")));
        if replaced.is_err() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        replaced
    }

    /// Forgets the snapshots, and the versions that no remaining snapshot and no later moment needs.
    fn fold_prune(&mut self, lsn: Lsn, snapshots: &[SnapshotId]) -> Result<()> {
        self.sql("write", || {
            let mut statement = self.connection.prepare_cached("DELETE FROM snapshot WHERE id = ?1")?;
            for id in snapshots {
                statement.execute(params![id.as_str()])?;
            }
            let forget = "DELETE FROM version WHERE to_lsn <= ?1 AND NOT EXISTS (
                SELECT 1 FROM snapshot WHERE snapshot.lsn >= version.from_lsn AND snapshot.lsn < version.to_lsn)";
            // When things happened stays known, so that a time is never taken for one with another state.
            self.connection.prepare_cached(forget)?.execute(params![signed(lsn)])
        })?;
        self.facts.pruned = lsn;
        Ok(())
    }

    /// Where the contents stand.
    pub(crate) fn contents(&self) -> Result<HashMap<ContentId, Location>> {
        self.sql("read", || {
            let mut statement = self.connection.prepare_cached("SELECT id, pack, offset FROM content")?;
            let rows = statement.query_map([], |row| {
                Ok((ContentId(row.get(0)?), Location { pack: row.get(1)?, offset: unsigned(row.get(2)?) }))
            })?;
            rows.collect()
        })
    }
}

pub(super) fn version_checksum(path: &[u8], from: i64, to: i64, data: &[u8]) -> [u8; 8] {
    short_hash(&[path, &from.to_le_bytes(), &to.to_le_bytes(), data])
}

pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}
