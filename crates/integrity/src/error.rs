//! What can go wrong, each with what to do about it.

use std::path::{Path, PathBuf};

use crate::content::ContentId;
use crate::transaction::{ChangedBy, TransactionId};
use crate::writers::Writer;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, to what, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file of the vault could not be read or written.
    #[error(transparent)]
    Durable(#[from] estop_durable::Error),
    /// The directory to protect is not there.
    #[error("there is no directory {path}: create it, or correct the store's path", path = path.display())]
    StoreMissing {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path to protect is not a directory.
    #[error("{path} is not a directory: a store is a directory", path = path.display())]
    StoreNotDirectory {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path to protect is a symbolic link, which somebody could point elsewhere.
    #[error("{path} is a symbolic link: give the directory it points to, {target}", path = path.display(), target = target.display())]
    StoreIsSymlink {
        /// The path that was given.
        path: PathBuf,
        /// Where the link leads.
        target: PathBuf,
    },
    /// Two directories that must be apart lie in each other.
    #[error("{what} {other} and the store {store} lie in each other: choose places apart from each other", other = other.display(), store = store.display())]
    Overlap {
        /// What the other directory is: "the vault", "the state directory".
        what: &'static str,
        /// The store's directory.
        store: PathBuf,
        /// The other directory.
        other: PathBuf,
    },
    /// Renames and clones need store and vault on one filesystem.
    #[error("the vault {vault} is on another filesystem than the store {store}: choose a vault beside the store", vault = vault.display(), store = store.display())]
    OtherFilesystem {
        /// The store's directory.
        store: PathBuf,
        /// The vault's directory.
        vault: PathBuf,
    },
    /// Others can read or write the vault, or own it.
    #[error("the vault {vault} is open to others: {detail}", vault = vault.display())]
    VaultExposed {
        /// The vault's directory.
        vault: PathBuf,
        /// What gives others access, and what it must be.
        detail: String,
    },
    /// The vault belongs to another directory.
    #[error("the vault {vault} belongs to the store {owner}, not to {store}: give each store a vault of its own", vault = vault.display(), owner = owner.display(), store = store.display())]
    VaultOfAnother {
        /// The vault's directory.
        vault: PathBuf,
        /// The directory it belongs to.
        owner: PathBuf,
        /// The directory that was to be opened.
        store: PathBuf,
    },
    /// Another estop works on this store.
    #[error("the store {store} is in use by another estop: wait for it, or ask the running daemon", store = store.display())]
    Locked {
        /// The store's directory.
        store: PathBuf,
    },
    /// The catalogue can't be used; the log and the packs still hold everything.
    #[error("the catalogue {path} is damaged ({detail}): run `estop snapshot rebuild {store}`, which makes it anew from the log", path = path.display())]
    CatalogueDamaged {
        /// The catalogue's file.
        path: PathBuf,
        /// The store's name.
        store: String,
        /// What does not fit.
        detail: String,
    },
    /// The catalogue refused an operation for a reason other than damage.
    #[error("cannot {action} the catalogue {path}: {source}", path = path.display())]
    Catalogue {
        /// What was tried.
        action: &'static str,
        /// The catalogue's file.
        path: PathBuf,
        /// `SQLite`'s answer.
        source: rusqlite::Error,
    },
    /// A record of the transaction log is not understood.
    #[error("record {lsn} of the transaction log {path} can't be read ({detail}): use the estop that wrote it, or restore the vault from a copy", path = path.display())]
    LogRecord {
        /// The log's directory.
        path: PathBuf,
        /// The record's position.
        lsn: u64,
        /// Why it can't be read.
        detail: String,
    },
    /// Content that the log refers to is in no pack.
    #[error("content {id} is in no pack of {dir}: it can't be restored from this vault; run `estop snapshot verify` to see what is affected", dir = dir.display())]
    ContentMissing {
        /// The content's name.
        id: ContentId,
        /// The packs' directory.
        dir: PathBuf,
    },
    /// Content in a pack is not what was stored.
    #[error("content {id} in {pack} is damaged ({detail}): it can't be restored from this vault", pack = pack.display())]
    ContentDamaged {
        /// The content's name.
        id: ContentId,
        /// The pack file.
        pack: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// A file that should be a pack is none.
    #[error("{path} is no readable pack ({detail}): it was left untouched", path = path.display())]
    PackDamaged {
        /// The file concerned.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// An earlier write failed, so nothing more is written by this process.
    #[error("the packs in {dir} are not written any more, because an earlier write failed ({detail}): close the store and open it again", dir = dir.display())]
    Poisoned {
        /// The packs' directory.
        dir: PathBuf,
        /// The first failure.
        detail: String,
    },
    /// A path that can't name something inside a store.
    #[error("{path:?} is no path inside a store: give it relative to the store, without `..`")]
    InvalidPath {
        /// What was given.
        path: String,
    },
    /// The text names no recovery point.
    #[error("{text:?} is no recovery point: give a snapshot's id, `lsn:N`, or a time such as 2026-01-31T12:00:00Z")]
    InvalidPoint {
        /// What was given.
        text: String,
    },
    /// There is no such snapshot, LSN or moment in the store's history.
    #[error("the store {store} has no recovery point {point}: {hint}")]
    NoSuchPoint {
        /// The store's name.
        store: String,
        /// What was asked for.
        point: String,
        /// What there is instead.
        hint: String,
    },
    /// The path is neither in the store nor in what it is to be put back to.
    #[error("{path} is neither in {store} nor was it there at that point: check the path")]
    NoSuchPath {
        /// The store's name.
        store: String,
        /// The path as it was given.
        path: String,
    },
    /// Several snapshots begin with the id given.
    #[error("{count} snapshots of {store} begin with {prefix:?}: give more of the id")]
    AmbiguousSnapshot {
        /// The store's name.
        store: String,
        /// What was given.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// Programs may still write to the store.
    #[error("programs still write to the store {store}: {writers}; stop them first, or insist with --force", writers = Writer::join(writers))]
    WritersAlive {
        /// The store's name.
        store: String,
        /// Who is alive, or not proven stopped.
        writers: Vec<Writer>,
    },
    /// The writers of the store could not be asked or frozen.
    #[error("the writers of the store could not be {action}: {detail}")]
    Writers {
        /// What was tried: "frozen", "listed".
        action: &'static str,
        /// The reason.
        detail: String,
    },
    /// A rollback or a commit could not be ended, so the store may be between two states.
    #[error("a rollback or commit of {store} was interrupted: close the store and open it again, which ends it")]
    Interrupted {
        /// The store's name.
        store: String,
    },
    /// Without a safety snapshot there is no rollback.
    #[error("nothing was rolled back, because the safety snapshot failed: {source}")]
    SafetySnapshot {
        /// Why the snapshot failed.
        source: Box<Error>,
    },
    /// What the recovery point needs can't be read, so nothing was changed.
    #[error(
        "nothing was rolled back: {count} files of the recovery point can't be restored, the first is {path:?} ({detail}); choose another point, or roll back other paths"
    )]
    NotRestorable {
        /// How many files.
        count: usize,
        /// The first of them.
        path: String,
        /// Why.
        detail: String,
    },
    /// Another change of a path came first.
    #[error(
        "nothing of transaction {transaction} was committed: {path} was changed {by}, after the transaction had read it; give it up, look at what is there, and begin again"
    )]
    Conflict {
        /// The transaction that can't be committed.
        transaction: TransactionId,
        /// The first path that is not as the transaction found it.
        path: String,
        /// Who changed it.
        by: ChangedBy,
    },
    /// There is no such open transaction.
    #[error(
        "{store} has no open transaction {transaction}: it ended, or was given up after a day; `estop log` shows whether it was committed"
    )]
    NoSuchTransaction {
        /// The store's name.
        store: String,
        /// What was asked for.
        transaction: String,
    },
    /// Too many transactions are open.
    #[error("{store} has {limit} open transactions, which is the most: commit or roll back one of them first")]
    TooManyTransactions {
        /// The store's name.
        store: String,
        /// The most there can be.
        limit: usize,
    },
    /// A transaction touches too many paths.
    #[error("a transaction touches {limit} paths at most: commit it in parts")]
    TransactionTooLarge {
        /// The most there can be.
        limit: usize,
    },
    /// An operation does not fit what is at the path, as the transaction sees it.
    #[error("cannot {action} {path}: {detail}")]
    Unfit {
        /// What was wanted: "put", "delete", "rename".
        action: &'static str,
        /// The path.
        path: String,
        /// What does not fit.
        detail: String,
    },
    /// The store refused what a transaction changes.
    #[error("transaction {transaction} could not be done at {path} ({detail}): {outcome}")]
    CommitFailed {
        /// The transaction.
        transaction: TransactionId,
        /// Where it failed.
        path: String,
        /// Why.
        detail: String,
        /// How the store is now.
        outcome: &'static str,
    },
    /// A restore needs an empty directory.
    #[error("{path} is not empty: restore into an empty directory, or use `estop rollback` to put the store itself back", path = path.display())]
    TargetNotEmpty {
        /// The directory that was given.
        path: PathBuf,
    },
    /// An `SQLite` database is not sound, or can't be checked.
    #[error("the database {path} is not sound, or can't be checked: {detail}", path = path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// `SQLite`'s answer.
        detail: String,
    },
}

impl Error {
    /// Whether nothing was done because something forbids it for now (exit code 4), rather than because it failed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::WritersAlive { .. }
            | Self::Locked { .. }
            | Self::Conflict { .. }
            | Self::TooManyTransactions { .. } => true,
            Self::Durable(error) => matches!(error, estop_durable::Error::Locked { .. }),
            _ => false,
        }
    }
}

/// Shorthand that names what was tried and on what.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: source.into() })
    }
}
