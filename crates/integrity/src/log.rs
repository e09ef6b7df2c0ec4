//! The transaction log: the truth about a store, from which everything else but the content can be made anew.
//!
//! Records are versioned, binary (postcard) and chained (see `estop_durable::chain`). A snapshot is a record in it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use estop_durable::Kind;
use estop_durable::chain::{Chain, Head, Options, Reader};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::content::Mark;
use crate::path::StorePath;
use crate::snapshot::{Details, SnapshotId};
use crate::state::Change;
use crate::transaction::TransactionId;
use crate::{Error, Result};

pub use estop_durable::chain::Lsn;

const KIND: Kind = Kind(*b"ESTOPTXL");
/// Small enough to be preallocated without notice, large enough to hold thousands of changes.
const SEGMENT_BYTES: u64 = 2 * 1024 * 1024;
/// A child that this process is just starting holds the lock of a log that was closed meanwhile, until it runs its own program.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// The format of a record's payload; its first byte.
const VERSION: u8 = 1;
/// So many changes go into one record: about a megabyte at most for usual paths, far below the chain's limit.
const CHANGES_PER_RECORD: usize = 2_000;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Record {
    /// The vault was made. Always the first record.
    Created {
        /// When.
        time: Timestamp,
        /// The identity of the vault.
        vault: [u8; 16],
    },
    /// The packs hold everything up to the mark, durably.
    Content(Mark),
    /// Changes that were observed together. They take effect at the LSN of the last record of their batch.
    Changes(Changes),
    /// A snapshot: the state at its own LSN.
    Snapshot(Box<Details>),
    /// A snapshot was pinned or unpinned.
    Pin {
        /// When.
        time: Timestamp,
        /// Which.
        snapshot: SnapshotId,
        /// Pinned from now on.
        pinned: bool,
    },
    /// Snapshots were given up; of the time before this record only the others are kept.
    Prune {
        /// When.
        time: Timestamp,
        /// Which.
        snapshots: Vec<SnapshotId>,
    },
    /// A rollback was decided on. Nothing in the store has changed yet.
    RollbackBegin(Intent),
    /// The rollback's new files are ready and durable; from here on it is finished, even after a crash.
    RollbackApply {
        /// The LSN of its [`Record::RollbackBegin`].
        begin: Lsn,
    },
    /// The rollback is over.
    RollbackEnd {
        /// When.
        time: Timestamp,
        /// The LSN of its [`Record::RollbackBegin`].
        begin: Lsn,
        /// How it ended.
        outcome: Outcome,
    },
    /// A transaction is committed: from the last record of it on it is finished, even after a crash. Its contents are durable.
    Transaction(Committed),
    /// What a transaction changes is done in the store.
    TransactionEnd {
        /// When.
        time: Timestamp,
        /// The LSN of its last [`Record::Transaction`].
        commit: Lsn,
        /// How it ended; abandoned: the store refused it, and was put back.
        outcome: Outcome,
    },
}

/// What a transaction changes, or a part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// When it was committed.
    pub time: Timestamp,
    /// Which transaction.
    pub transaction: TransactionId,
    /// Which part this is, from 0.
    pub part: u32,
    /// It ends here. One without its end was not committed.
    pub last: bool,
    /// The changes.
    pub changes: Vec<Change>,
}

/// Changes observed together, or a part of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// When they were observed.
    pub time: Timestamp,
    /// Which part of the batch this is, from 0.
    pub part: u32,
    /// The batch ends here. One without its end never happened.
    pub last: bool,
    /// The changes.
    pub changes: Vec<Change>,
}

/// What a rollback is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// When it was decided.
    pub time: Timestamp,
    /// The state before it.
    pub from_lsn: Lsn,
    /// The state to go back to.
    pub to_lsn: Lsn,
    /// Only these paths and what is below them; empty: everything.
    pub paths: Vec<StorePath>,
    /// Restore set-uid and set-gid bits and file capabilities too.
    pub privileges: bool,
    /// The snapshot that undoes it.
    pub safety_snapshot: SnapshotId,
}

/// How a rollback ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every path is as it was at the recovery point.
    Verified,
    /// Applied, but some paths are not as they should be.
    Differs,
    /// Given up before anything was changed.
    Abandoned,
}

impl Outcome {
    /// Whether what was begun is done.
    pub(crate) fn is_done(self) -> bool {
        !matches!(self, Self::Abandoned)
    }
}

/// The transaction log of one store: append-only, chained, the truth.
#[derive(Debug)]
pub struct TransactionLog {
    dir: PathBuf,
    chain: Chain,
}

impl TransactionLog {
    /// Opens the log in `dir`, creating it if it is absent.
    ///
    /// # Errors
    /// [`Error::Durable`] if it is in use elsewhere, damaged, or can't be read or written.
    pub fn open(dir: &Path) -> Result<Self> {
        let deadline = Instant::now() + LOCK_WAIT;
        let chain = loop {
            match Chain::open(dir, Options { kind: KIND, segment_bytes: SEGMENT_BYTES }) {
                Err(estop_durable::Error::Locked { .. }) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
                other => break other?,
            }
        };
        Ok(Self { dir: dir.to_owned(), chain })
    }

    /// Appends records under consecutive LSNs. They are durable when this returns.
    ///
    /// # Errors
    /// [`Error::Durable`] if they can't be written; none of them counts then.
    pub fn append(&self, records: &[Record]) -> Result<RangeInclusive<Lsn>> {
        let payloads: Vec<_> = records.iter().map(|record| self.encode(record)).collect::<Result<_>>()?;
        let payloads: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
        Ok(self.chain.append_all(&payloads)?)
    }

    /// The last record's LSN and hash.
    pub fn head(&self) -> Head {
        self.chain.head()
    }

    /// The records from `lsn` to the present head, each checked to follow the one before.
    ///
    /// # Errors
    /// [`Error::Durable`] if the log can't be read there.
    pub fn read_from(&self, lsn: Lsn) -> Result<impl Iterator<Item = Result<(Lsn, Record)>> + use<'_>> {
        let reader = self.chain.read_from(lsn.max(1))?;
        Ok(reader.map(|record| {
            let record = record?;
            Ok((record.lsn, decode(&self.dir, record.lsn, &record.payload)?))
        }))
    }

    /// How often the log was synchronised with the device since it was opened: less often than there were commits, where several
    /// came together.
    pub fn synchronisations(&self) -> u64 {
        self.chain.synchronisations()
    }

    fn encode(&self, record: &Record) -> Result<Vec<u8>> {
        postcard::to_extend(record, vec![VERSION]).map_err(|error| Error::LogRecord {
            path: self.dir.clone(),
            lsn: self.head().lsn + 1,
            detail: error.to_string(),
        })
    }
}

/// The records of the log in `dir` from `lsn` on, without its lock: for looking at a log that another process writes.
pub(crate) fn look_into(dir: &Path, lsn: Lsn) -> Result<impl Iterator<Item = Result<(Lsn, Record)>> + use<'_>> {
    let reader = Reader::open_at(dir, KIND, lsn.max(1))?;
    Ok(reader.map(move |record| {
        let record = record?;
        Ok((record.lsn, decode(dir, record.lsn, &record.payload)?))
    }))
}

fn decode(dir: &Path, lsn: Lsn, payload: &[u8]) -> Result<Record> {
    let refused = |detail: String| Error::LogRecord { path: dir.to_owned(), lsn, detail };
    match payload.split_first() {
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((record, [])) => Ok(record),
            Ok(_) => Err(refused("there is something behind its end".to_owned())),
            Err(error) => Err(refused(error.to_string())),
        },
        Some((version, _)) => Err(refused(format!("it has format version {version}, this estop reads {VERSION}"))),
        None => Err(refused("it is empty".to_owned())),
    }
}

/// Divides changes that were observed together into records.
pub(crate) fn batch(time: Timestamp, changes: &[Change]) -> Vec<Record> {
    divide(changes, |part, last, changes| Record::Changes(Changes { time, part, last, changes }))
}

/// Divides what a transaction changes into records.
pub(crate) fn commitment(time: Timestamp, transaction: &TransactionId, changes: &[Change]) -> Vec<Record> {
    divide(changes, |part, last, changes| {
        Record::Transaction(Committed { time, transaction: transaction.clone(), part, last, changes })
    })
}

fn divide(changes: &[Change], record: impl Fn(u32, bool, Vec<Change>) -> Record) -> Vec<Record> {
    let parts = changes.chunks(CHANGES_PER_RECORD);
    let count = parts.len();
    let part = |(at, chunk): (usize, &[Change])| {
        record(u32::try_from(at).unwrap_or(u32::MAX), at + 1 == count, chunk.to_vec())
    };
    parts.enumerate().map(part).collect()
}

/// Puts batches together again: gives the changes of a batch when its last part has come.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    pending: Vec<Change>,
    next: u32,
}

impl Batches {
    /// Takes the next record of the log.
    pub(crate) fn take(&mut self, record: &mut Record) -> Option<Vec<Change>> {
        let (part, last, changes) = match record {
            Record::Changes(it) => (it.part, it.last, &mut it.changes),
            Record::Transaction(it) => (it.part, it.last, &mut it.changes),
            _ => {
                *self = Self::default();
                return None;
            }
        };
        if part == 0 {
            *self = Self::default();
        }
        if part != self.next {
            return None;
        }
        self.next += 1;
        self.pending.append(changes);
        last.then(|| std::mem::take(self).pending)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn change(name: &str) -> Change {
        Change { path: name.parse().unwrap(), before: None, after: None }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let log = TransactionLog::open(dir.path()).unwrap();
        let time = Timestamp::now();
        let records = [
            Record::Created { time, vault: [7; 16] },
            Record::Content(Mark { pack: 3, length: 77 }),
            Record::Changes(Changes { time, part: 0, last: true, changes: vec![change("a")] }),
            Record::RollbackEnd { time, begin: 9, outcome: Outcome::Differs },
        ];
        assert_eq!(log.append(&records).unwrap(), 1..=4);
        let read: Vec<_> = log.read_from(1).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(read.iter().map(|(_, record)| record).eq(records.iter()));
    }

    #[test]
    fn an_unknown_version_and_trailing_bytes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let log = TransactionLog::open(dir.path()).unwrap();
        let mut payload = log.encode(&Record::RollbackApply { begin: 1 }).unwrap();
        payload.push(0);
        assert!(matches!(decode(dir.path(), 1, &payload), Err(Error::LogRecord { .. })));
        payload.pop();
        assert!(decode(dir.path(), 1, &payload).is_ok());
        payload[0] = 99;
        assert!(matches!(decode(dir.path(), 1, &payload), Err(Error::LogRecord { .. })));
    }

    #[test]
    fn a_batch_counts_only_with_its_end() {
        let time = Timestamp::UNIX_EPOCH;
        let changes: Vec<_> = (0..4_500).map(|n| change(&n.to_string())).collect();
        let mut records = batch(time, &changes);
        assert_eq!(records.len(), 3);
        let mut batches = Batches::default();
        let joined: Vec<_> = records.clone().iter_mut().filter_map(|record| batches.take(record)).collect();
        assert_eq!(joined, [changes]);

        let mut torn = records[..2].to_vec();
        torn.extend(batch(time, &[change("later")]));
        let joined: Vec<_> = torn.iter_mut().filter_map(|record| batches.take(record)).collect();
        assert_eq!(joined, [vec![change("later")]]);
        assert_eq!(batches.take(&mut records[2]), None, "an end without its beginning");
    }
}
