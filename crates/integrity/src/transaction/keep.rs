//! Transactions that outlive their process: what each is to do stands in a sealed file of the vault, and what was put in the packs.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use estop_durable::{Kind, replace};
use jiff::Timestamp;
use serde::Serialize;

use super::{Draft, MOST_OPEN, Transaction, TransactionId};
use crate::content::ContentId;
use crate::error::Context as _;
use crate::log::Lsn;
use crate::snapshot::SnapshotManager;
use crate::state::Version;
use crate::store::{load, save};
use crate::{Error, Result};

const KIND: Kind = Kind(*b"ESTOPTXO");
const VERSION: u32 = 1;
/// So long a kept transaction waits for its end.
pub const KEPT: Duration = Duration::from_hours(24);

/// A transaction that waits for its end.
#[derive(Clone, Debug, Serialize)]
pub struct OpenTransaction {
    /// Its name.
    pub transaction: TransactionId,
    /// When it was begun. It is given up a day later.
    pub begun: Timestamp,
    /// The end of the history when it was begun.
    pub lsn: Lsn,
    /// How many paths it touches.
    pub paths: u64,
}

impl SnapshotManager {
    fn transactions_dir(&self) -> PathBuf {
        self.store.vault().join("transactions")
    }

    fn kept_file(&self, id: &TransactionId) -> PathBuf {
        self.transactions_dir().join(id.as_str())
    }

    /// Takes up a transaction that was kept.
    ///
    /// # Errors
    /// [`Error::NoSuchTransaction`] if it is not open; [`Error::Durable`] if what was kept of it is damaged.
    pub fn resume(&self, id: &str) -> Result<Transaction<'_>> {
        let unknown = || Error::NoSuchTransaction { store: self.store.name().to_owned(), transaction: id.to_owned() };
        let id = TransactionId::parse(id).ok_or_else(unknown)?;
        let draft: Draft = load(&self.kept_file(&id), KIND, VERSION)?.ok_or_else(unknown)?;
        Ok(Transaction { manager: self, draft })
    }

    /// Gives up a transaction that was kept, also one of which what was kept is damaged.
    ///
    /// # Errors
    /// [`Error::NoSuchTransaction`] if it is not open; [`Error::Io`].
    pub fn give_up(&self, id: &str) -> Result<()> {
        let known = TransactionId::parse(id).filter(|id| self.kept_file(id).exists());
        let unknown = || Error::NoSuchTransaction { store: self.store.name().to_owned(), transaction: id.to_owned() };
        self.forget_kept(&known.ok_or_else(unknown)?)
    }

    /// The transactions that were kept and are open, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`]. One that can't be read is left out, and said so in the log.
    pub fn open_transactions(&self) -> Result<Vec<OpenTransaction>> {
        let open = |draft: Draft| OpenTransaction {
            transaction: draft.id,
            begun: draft.begun,
            lsn: draft.lsn,
            paths: draft.touched.len() as u64,
        };
        let mut all: Vec<_> = self.kept()?.into_iter().map(open).collect();
        all.sort_by_key(|one| one.begun);
        Ok(all)
    }

    fn kept_ids(&self) -> Result<Vec<TransactionId>> {
        let dir = self.transactions_dir();
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&dir).context("list", &dir)? {
            let name = entry.context("list", &dir)?.file_name();
            ids.extend(name.to_str().and_then(TransactionId::parse));
        }
        Ok(ids)
    }

    fn kept(&self) -> Result<Vec<Draft>> {
        let mut kept = Vec::new();
        for id in self.kept_ids()? {
            match load(&self.kept_file(&id), KIND, VERSION) {
                Ok(draft) => kept.extend(draft),
                Err(error) => {
                    tracing::warn!(%error, transaction = id.as_str(), "an open transaction can't be read: roll it back");
                }
            }
        }
        Ok(kept)
    }

    /// Contents that only kept transactions refer to.
    pub(crate) fn kept_contents(&self) -> Result<HashSet<ContentId>> {
        let kept = self.kept()?;
        let touched = kept.iter().flat_map(|draft| draft.touched.values());
        Ok(touched.flat_map(|touched| touched.after.iter().flat_map(Version::contents)).collect())
    }

    /// Gives up what has waited too long, and removes what a crash left of writing it.
    pub(crate) fn expire_transactions(&self) -> Result<()> {
        let dir = self.transactions_dir();
        for entry in std::fs::read_dir(&dir).context("list", &dir)? {
            let path = entry.context("list", &dir)?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                std::fs::remove_file(&path).context("remove", &path)?;
            }
        }
        let now = Timestamp::now();
        for draft in self.kept()? {
            // One from the future was begun before the clock was set back: it is as old as it was.
            if Duration::try_from(now.duration_since(draft.begun)).is_ok_and(|age| age > KEPT) {
                self.forget_kept(&draft.id)?;
            }
        }
        Ok(())
    }

    /// Removes what was kept of a transaction, if it was.
    pub(crate) fn forget_kept(&self, id: &TransactionId) -> Result<()> {
        let file = self.kept_file(id);
        match std::fs::remove_file(&file) {
            Ok(()) => Ok(replace::sync_dir(&self.transactions_dir())?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context("remove", &file),
        }
    }
}

impl Transaction<'_> {
    /// Makes it durable as it is now, so that [`SnapshotManager::resume`] takes it up again, in whatever process, for a day.
    ///
    /// # Errors
    /// [`Error::TooManyTransactions`]; [`Error::Durable`] or [`Error::Io`] if it can't be written.
    pub fn keep(&self) -> Result<()> {
        let mut inner = self.manager.inner();
        let file = self.manager.kept_file(&self.draft.id);
        if !file.exists() && self.manager.kept_ids()?.len() >= MOST_OPEN {
            return Err(Error::TooManyTransactions { store: self.manager.store.name().to_owned(), limit: MOST_OPEN });
        }
        // What was put counts once the log says up to where the packs do.
        self.manager.commit(&mut inner, Vec::new())?;
        save(&file, KIND, VERSION, &self.draft)
    }

    /// Gives it up. Nothing in the store was changed by it.
    ///
    /// # Errors
    /// [`Error::Io`] if what was kept of it can't be removed.
    pub fn rollback(self) -> Result<()> {
        self.manager.forget_kept(&self.draft.id)
    }
}
