//! Asking the catalogue: the state at an LSN, what changed between two, the snapshots.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};

use super::fold::{nanoseconds, version_checksum};
use super::{Catalogue, OPEN, short_hash, signed, unsigned};
use crate::Result;
use crate::content::ContentId;
use crate::log::Lsn;
use crate::path::StorePath;
use crate::snapshot::{Details, SnapshotId};
use crate::state::{Change, State, StateChecksum, Version};

type RawVersion = (Vec<u8>, i64, i64, Vec<u8>, [u8; 8]);

impl Catalogue {
    /// The state at `lsn`.
    pub(crate) fn state_at(&self, lsn: Lsn) -> Result<State> {
        let query = "SELECT path, from_lsn, to_lsn, data, checksum FROM version WHERE from_lsn <= ?1 AND to_lsn > ?1";
        self.load(query, signed(lsn))
    }

    /// The state after everything folded, checked as a whole.
    pub(crate) fn current_state(&self) -> Result<State> {
        let query = "SELECT path, from_lsn, to_lsn, data, checksum FROM version WHERE to_lsn = ?1";
        let state = self.load(query, OPEN)?;
        let noted: Option<(Lsn, StateChecksum)> = self.fact("current")?;
        match noted {
            Some((lsn, checksum)) if lsn == self.facts.folded && checksum != state.checksum() => {
                Err(self.damaged("the current state does not match its checksum"))
            }
            _ => Ok(state),
        }
    }

    fn load(&self, query: &str, argument: i64) -> Result<State> {
        let rows: Vec<RawVersion> = self.sql("read", || {
            let mut statement = self.connection.prepare_cached(query)?;
            statement.query_map(params![argument], raw_version)?.collect()
        })?;
        let mut versions = Vec::with_capacity(rows.len());
        for row in rows {
            let (path, _, _, version) = self.version_of(row)?;
            versions.push((path, version));
        }
        Ok(State(BTreeMap::from_iter(versions)))
    }

    fn version_of(&self, (path, from, to, data, checksum): RawVersion) -> Result<(StorePath, Lsn, Lsn, Version)> {
        if checksum != version_checksum(&path, from, to, &data) {
            return Err(
                self.damaged(format!("the version of {} from {from} on is not what was written", path.escape_ascii()))
            );
        }
        let path = StorePath::recorded(&path).map_err(|error| self.damaged(error.to_string()))?;
        Ok((path, unsigned(from), unsigned(to), self.decode(&data)?))
    }

    /// What changed from the state at `from` to the state at `to`. It costs what changed between them, not what there is.
    pub(crate) fn changes_between(&self, from: Lsn, to: Lsn) -> Result<Vec<Change>> {
        let (low, high) = (from.min(to), from.max(to));
        let rows: Vec<RawVersion> = self.sql("read", || {
            let query = "SELECT path, from_lsn, to_lsn, data, checksum FROM version WHERE path IN (
                    SELECT path FROM version WHERE from_lsn > ?1 AND from_lsn <= ?2
                    UNION SELECT path FROM version WHERE to_lsn > ?1 AND to_lsn <= ?2)
                AND from_lsn <= ?2 AND to_lsn > ?1";
            let mut statement = self.connection.prepare_cached(query)?;
            statement.query_map(params![signed(low), signed(high)], raw_version)?.collect()
        })?;
        let mut changes: BTreeMap<StorePath, Change> = BTreeMap::new();
        for row in rows {
            let (path, begin, end, version) = self.version_of(row)?;
            let change = changes.entry(path.clone()).or_insert(Change { path, before: None, after: None });
            if begin <= from && from < end {
                change.before = Some(version.clone());
            }
            if begin <= to && to < end {
                change.after = Some(version);
            }
        }
        let differs = |change: &Change| match (&change.before, &change.after) {
            (Some(before), Some(after)) => !before.same_state(after),
            (before, after) => before.is_some() || after.is_some(),
        };
        Ok(changes.into_values().filter(differs).collect())
    }

    /// Every content that some version there is refers to.
    pub(crate) fn contents_referred_to(&self) -> Result<HashSet<ContentId>> {
        let rows: Vec<RawVersion> = self.sql("read", || {
            let query = "SELECT path, from_lsn, to_lsn, data, checksum FROM version";
            self.connection.prepare_cached(query)?.query_map([], raw_version)?.collect()
        })?;
        let mut contents = HashSet::new();
        for row in rows {
            contents.extend(self.version_of(row)?.3.contents());
        }
        Ok(contents)
    }

    /// Every snapshot with its LSN, oldest first.
    pub(crate) fn snapshots(&self) -> Result<Vec<(Lsn, Details)>> {
        let rows: Vec<(i64, Vec<u8>, [u8; 8])> = self.sql("read", || {
            let mut statement =
                self.connection.prepare_cached("SELECT lsn, data, checksum FROM snapshot ORDER BY lsn")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })?;
        rows.into_iter().map(|row| self.snapshot_of(row)).collect()
    }

    /// The snapshot with exactly this id.
    pub(crate) fn snapshot(&self, id: &SnapshotId) -> Result<Option<(Lsn, Details)>> {
        let row = self.sql("read", || {
            let query = "SELECT lsn, data, checksum FROM snapshot WHERE id = ?1";
            let mut statement = self.connection.prepare_cached(query)?;
            statement.query_row(params![id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
        })?;
        row.map(|row| self.snapshot_of(row)).transpose()
    }

    fn snapshot_of(&self, (lsn, data, checksum): (i64, Vec<u8>, [u8; 8])) -> Result<(Lsn, Details)> {
        if checksum != short_hash(&[&lsn.to_le_bytes(), &data]) {
            return Err(self.damaged(format!("the snapshot at {lsn} is not what was written")));
        }
        Ok((unsigned(lsn), self.decode(&data)?))
    }

    /// The last LSN known to hold at `time`; `None` before the first.
    pub(crate) fn lsn_at(&self, time: Timestamp) -> Result<Option<Lsn>> {
        let found: Option<i64> = self.sql("read", || {
            let query = "SELECT max(lsn) FROM moment WHERE time <= ?1";
            self.connection.prepare_cached(query)?.query_row(params![nanoseconds(time)], |row| row.get(0))
        })?;
        Ok(found.map(unsigned))
    }
}

fn raw_version(row: &Row<'_>) -> rusqlite::Result<RawVersion> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}
