//! The catalogue: an `SQLite` index folded from the log, and rebuildable from it. Every version of every path, valid from one
//! LSN until another; every snapshot; where each content stands.
//!
//! Each row carries a checksum and the current state as a whole does, so that a changed byte is noticed and never taken for the
//! truth.

mod fold;
mod query;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::content::Mark;
use crate::log::{Intent, Lsn};
use crate::{Error, Result};

/// The layout of the tables; stands in `user_version`.
const FORMAT: i64 = 1;
/// "estp": tells that the database is a catalogue.
const APPLICATION: i64 = 0x6573_7470;
/// The end of a version that is still valid.
const OPEN: i64 = i64::MAX;

const SCHEMA: &str = "
    CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE version (
        path BLOB NOT NULL, from_lsn INTEGER NOT NULL, to_lsn INTEGER NOT NULL, data BLOB NOT NULL, checksum BLOB NOT NULL,
        PRIMARY KEY (path, from_lsn)) WITHOUT ROWID;
    CREATE INDEX version_from ON version (from_lsn);
    CREATE INDEX version_to ON version (to_lsn);
    CREATE TABLE snapshot (
        lsn INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, data BLOB NOT NULL, checksum BLOB NOT NULL);
    CREATE TABLE moment (lsn INTEGER PRIMARY KEY, time INTEGER NOT NULL);
    CREATE TABLE content (id BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL) WITHOUT ROWID;
";

/// A rollback that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub(crate) struct Pending {
    pub(crate) begin: Lsn,
    pub(crate) intent: Intent,
    /// It is to be finished, not given up.
    pub(crate) applies: bool,
}

/// Facts about the whole, kept in the table `fact`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub(crate) struct Facts {
    /// The vault it belongs to.
    pub(crate) vault: [u8; 16],
    /// Everything up to here is folded.
    pub(crate) folded: Lsn,
    /// Up to where the packs are indexed.
    pub(crate) mark: Mark,
    /// Of the time before this LSN only the snapshots are kept.
    pub(crate) pruned: Lsn,
    /// A rollback under way.
    pub(crate) pending: Option<Pending>,
}

/// A transaction that is committed and not yet known to be done in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) struct Applying {
    /// Its last record.
    pub(crate) commit: Lsn,
    /// Its first record.
    pub(crate) first: Lsn,
}

/// The catalogue of one store.
#[derive(Debug)]
pub(crate) struct Catalogue {
    path: PathBuf,
    store: String,
    connection: Connection,
    pub(crate) facts: Facts,
    /// Transactions under way, in order.
    pub(crate) applying: Vec<Applying>,
}

impl Catalogue {
    /// Opens the catalogue at `path`, making an empty one if there is none.
    pub(crate) fn open(path: &Path, store: &str, vault: [u8; 16]) -> Result<Self> {
        let connection = Connection::open(path).map_err(|error| failed("open", path, store, error))?;
        let mut catalogue = Self {
            path: path.to_owned(),
            store: store.to_owned(),
            connection,
            facts: Facts { vault, ..Facts::default() },
            applying: Vec::new(),
        };
        catalogue.prepare()?;
        let facts: Option<Facts> = catalogue.fact("facts")?;
        match facts {
            Some(facts) if facts.vault != vault => Err(catalogue.damaged("it belongs to another vault")),
            Some(facts) => {
                catalogue.facts = facts;
                catalogue.applying = catalogue.fact("applying")?.unwrap_or_default();
                Ok(catalogue)
            }
            None => Ok(catalogue),
        }
    }

    /// Whether a rollback or a transaction is under way.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.facts.pending.is_some() || !self.applying.is_empty()
    }

    /// Removes the catalogue's files, so that a new one can be made.
    pub(crate) fn remove(path: &Path) -> Result<()> {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            match std::fs::remove_file(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Io { action: "remove", path: name.into(), source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<()> {
        let pragma = |name: &str| self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
        let (application, format, tables) = self.sql("open", || {
            let tables =
                self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
            Ok((pragma("application_id")?, pragma("user_version")?, tables))
        })?;
        if tables == 0 {
            return self.create();
        }
        if application != APPLICATION {
            return Err(self.damaged("it is no catalogue of estop"));
        }
        if format != FORMAT {
            return Err(self.damaged(format!("it has format version {format}, this estop reads {FORMAT}")));
        }
        self.tune()
    }

    fn create(&self) -> Result<()> {
        self.tune()?;
        self.sql("create", || {
            let header = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};");
            self.connection.execute_batch(&format!("BEGIN; {SCHEMA} {header} COMMIT;"))
        })
    }

    /// WAL without a synchronisation at each commit: what a power failure takes is folded from the log again.
    fn tune(&self) -> Result<()> {
        self.sql("open", || {
            self.connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            self.connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536;")
        })
    }

    fn fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let value: Option<Vec<u8>> = self.sql("read", || {
            let mut statement = self.connection.prepare_cached("SELECT value FROM fact WHERE name = ?1")?;
            statement.query_row(params![name], |row| row.get(0)).optional()
        })?;
        let Some(value) = value else { return Ok(None) };
        let Some((checksum, body)) = value.split_first_chunk::<8>() else {
            return Err(self.damaged(format!("the fact {name:?} is cut short")));
        };
        if *checksum != short_hash(&[name.as_bytes(), body]) {
            return Err(self.damaged(format!("the fact {name:?} does not match its checksum")));
        }
        self.decode(body).map(Some)
    }

    fn set_fact(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let body = self.encode(value)?;
        let mut bytes = short_hash(&[name.as_bytes(), &body]).to_vec();
        bytes.extend_from_slice(&body);
        self.sql("write", || {
            let mut statement = self.connection.prepare_cached("INSERT OR REPLACE INTO fact VALUES (?1, ?2)")?;
            statement.execute(params![name, bytes])
        })?;
        Ok(())
    }

    fn encode(&self, value: &impl Serialize) -> Result<Vec<u8>> {
        postcard::to_stdvec(value).map_err(|error| self.damaged(error.to_string()))
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        postcard::from_bytes(bytes).map_err(|error| self.damaged(error.to_string()))
    }

    fn damaged(&self, detail: impl Into<String>) -> Error {
        Error::CatalogueDamaged { path: self.path.clone(), store: self.store.clone(), detail: detail.into() }
    }

    /// Runs `work` on the database and says what failed.
    fn sql<T>(&self, action: &'static str, work: impl FnOnce() -> rusqlite::Result<T>) -> Result<T> {
        work().map_err(|error| failed(action, &self.path, &self.store, error))
    }
}

fn failed(action: &'static str, path: &Path, store: &str, source: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, TypeMismatch};
    let damaged = match &source {
        rusqlite::Error::SqliteFailure(failure, text) => {
            matches!(failure.code, DatabaseCorrupt | NotADatabase | TypeMismatch)
                || text.as_ref().is_some_and(|text| text.contains("no such") || text.contains("malformed"))
        }
        error => matches!(
            error,
            rusqlite::Error::SqlInputError { .. }
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::QueryReturnedNoRows
        ),
    };
    if damaged {
        Error::CatalogueDamaged { path: path.to_owned(), store: store.to_owned(), detail: source.to_string() }
    } else {
        Error::Catalogue { action, path: path.to_owned(), source }
    }
}

/// A checksum for one row: the first eight bytes of BLAKE3 over its parts, each with its length.
fn short_hash(parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut short = [0; 8];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    short
}

/// `SQLite` integers are signed; an LSN never comes near their limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
