//! The trait that every store of secrets has, and what follows from it for all of them.

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::document::{Document, MAX_VALUE_BYTES};
use crate::{SecretName, SecretValue, StoreError, Version, VersionInfo, VersionState};

/// How many versions of a secret a store keeps when it is not told otherwise.
pub const DEFAULT_KEPT_VERSIONS: usize = 20;

/// How often a change is decided anew after another writer was faster. One of the racing writers always gets through,
/// so that this bounds how many can overtake.
const MAX_RACES: u32 = 64;

/// A version of a secret with its value.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its name.
    pub name: SecretName,
    /// What is known of the version.
    pub info: VersionInfo,
    /// Its value.
    pub value: SecretValue,
}

/// A store of secrets.
///
/// A store holds one [`Document`] for each secret and moves it by compare-and-set on the document's revision. That is all
/// that differs between stores; versions, rotations and revocations are changes of the document, made in one place for
/// all, so that two hosts never make two winners.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// What this store is, for messages: its kind and place, never a credential.
    fn describe(&self) -> String;

    /// The document of `name`; `None` if there is no such secret.
    ///
    /// # Errors
    /// [`StoreError`], except `NotFound`.
    async fn load(&self, name: &SecretName) -> Result<Option<Document>, StoreError>;

    /// Stores `document` if the stored one still has the revision that this one was loaded with, and gives the new revision.
    ///
    /// # Errors
    /// [`StoreError::Moved`] if another writer was faster: nothing was changed. [`StoreError::Unsettled`] if it is not known
    /// whether the document was stored.
    async fn store(&self, document: &Document) -> Result<u64, StoreError>;

    /// Wipes what the store itself may have kept of older `revisions` of the document.
    ///
    /// # Errors
    /// [`StoreError`] if something may be left of them.
    async fn forget(&self, name: &SecretName, revisions: RangeInclusive<u64>) -> Result<(), StoreError>;

    /// The names of all secrets, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(&self) -> Result<Vec<SecretName>, StoreError>;

    /// Removes a secret with all its versions and their history.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is none.
    async fn delete(&self, name: &SecretName) -> Result<(), StoreError>;

    /// How many versions of a secret are kept; the oldest revoked ones go first, then the oldest previous ones.
    fn kept_versions(&self) -> usize {
        DEFAULT_KEPT_VERSIONS
    }

    /// Reads a version, or the current one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Revoked`], or what the store itself answers.
    async fn read(&self, name: &SecretName, version: Option<Version>) -> Result<Secret, StoreError> {
        let document = self.load(name).await?.ok_or_else(|| not_found(name, version))?;
        document.secret(version)
    }

    /// Puts `value` as the new current version, if `expected` is the current one ([`Version::NONE`]: there must be none).
    /// The version before stays valid until it is revoked. A rotation in course
    /// won't promote its version any more.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with the version found; [`StoreError::Invalid`] for a value above 32 KiB.
    async fn write(&self, name: &SecretName, value: &SecretValue, expected: Version) -> Result<Version, StoreError> {
        check_size(name, value)?;
        let written = update(self, name, |document| {
            let found = document.current_version();
            if found != expected {
                return Err(StoreError::Conflict { name: name.clone(), expected, found });
            }
            Ok(Change::Write(document.put(value.clone(), Timestamp::now())))
        });
        written.await
    }

    /// Puts `value` as the new current version whatever the current one is.
    ///
    /// # Errors
    /// As for [`SecretStore::write`], except `Conflict`.
    async fn put(&self, name: &SecretName, value: &SecretValue) -> Result<Version, StoreError> {
        check_size(name, value)?;
        update(self, name, |document| Ok(Change::Write(document.put(value.clone(), Timestamp::now())))).await
    }

    /// What is known of the kept versions, oldest first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or what the store itself answers.
    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionInfo>, StoreError> {
        let document = self.load(name).await?;
        let versions: Vec<VersionInfo> = document.iter().flat_map(Document::versions).cloned().collect();
        if versions.is_empty() { Err(not_found(name, None)) } else { Ok(versions) }
    }

    /// Revokes a version: its value is wiped here and from the store's own history. Doing it again finishes what an
    /// interrupted one left.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; any other error means that the value may still be there.
    async fn revoke(&self, name: &SecretName, version: Version) -> Result<(), StoreError> {
        let revisions = update(self, name, |document| revocation(document, version)).await?;
        match revisions {
            Some(revisions) => self.forget(name, revisions).await,
            None => Ok(()),
        }
    }
}

fn check_size(name: &SecretName, value: &SecretValue) -> Result<(), StoreError> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    let detail = format!("it has {} bytes, the limit is {MAX_VALUE_BYTES}", value.len());
    Err(StoreError::invalid(format!("the value for {name}"), detail))
}

/// What a change of a document came to.
pub(crate) enum Change<T> {
    /// Nothing is to be written.
    Keep(T),
    /// The document was changed and is to be stored.
    Write(T),
}

/// Changes the document of `name`, deciding anew as often as another writer was faster.
pub(crate) async fn update<S, T, F>(store: &S, name: &SecretName, change: F) -> Result<T, StoreError>
where
    S: SecretStore + ?Sized,
    T: Send,
    F: FnMut(&mut Document) -> Result<Change<T>, StoreError> + Send,
{
    Editor::new(store, name).change(change).await
}

/// Changes one document several times in a row. What it has stored itself it doesn't read again.
pub(crate) struct Editor<'a, S: SecretStore + ?Sized> {
    store: &'a S,
    name: &'a SecretName,
    /// The document as it was when it was last read or stored here.
    latest: Option<Document>,
}

impl<'a, S: SecretStore + ?Sized> Editor<'a, S> {
    pub(crate) fn new(store: &'a S, name: &'a SecretName) -> Self {
        Self { store, name, latest: None }
    }

    /// The document as it is stored now; `NotFound` if there is none, or nothing is left in it.
    pub(crate) async fn read(&mut self) -> Result<&Document, StoreError> {
        let document = self.store.load(self.name).await?;
        let document = document.filter(|document| document.versions().next().is_some());
        Ok(self.latest.insert(document.ok_or_else(|| not_found(self.name, None))?))
    }

    /// The document as it was when it was last read or stored here.
    pub(crate) async fn latest(&mut self) -> Result<&Document, StoreError> {
        match self.latest.take() {
            Some(document) => Ok(self.latest.insert(document)),
            None => self.read().await,
        }
    }

    /// Decides on the document and stores what was decided. On one that is not fresh, only a decision to write counts:
    /// whether it still fits is seen when it is stored.
    pub(crate) async fn change<T, F>(&mut self, mut change: F) -> Result<T, StoreError>
    where
        T: Send,
        F: FnMut(&mut Document) -> Result<Change<T>, StoreError> + Send,
    {
        for race in 0..MAX_RACES {
            let latest = self.latest.take();
            let is_fresh = latest.is_none();
            let mut document = match latest {
                Some(document) => document,
                None => self.store.load(self.name).await?.unwrap_or_else(|| Document::absent(self.name.clone())),
            };
            match change(&mut document) {
                Ok(Change::Write(outcome)) => {
                    document.trim(self.store.kept_versions());
                    match self.store.store(&document).await {
                        Err(StoreError::Moved { .. }) => pause(race).await,
                        Err(error) => return Err(error),
                        Ok(revision) => {
                            self.latest = Some(document.stored(revision));
                            return Ok(outcome);
                        }
                    }
                }
                Ok(Change::Keep(outcome)) if is_fresh => return Ok(outcome),
                Err(error) if is_fresh => return Err(error),
                Ok(Change::Keep(_)) | Err(_) => {}
            }
        }
        Err(StoreError::Moved { name: self.name.clone() })
    }
}

/// Revokes a version in a document, and gives the revisions that still hold its value.
pub(crate) fn revocation(
    document: &mut Document,
    version: Version,
) -> Result<Change<Option<RangeInclusive<u64>>>, StoreError> {
    let info = document.info(version).ok_or_else(|| not_found(document.name(), Some(version)))?;
    if info.state == VersionState::Revoked {
        return Ok(Change::Keep(document.gone_revisions(version)));
    }
    document.revoke(version, Timestamp::now());
    Ok(Change::Write(document.gone_revisions(version)))
}

/// Waits a moment that grows with the number of lost races and differs between the racers.
async fn pause(race: u32) {
    let spread = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
    tokio::time::sleep(Duration::from_micros(spread * u64::from(race.min(20) + 1))).await;
}

pub(crate) fn not_found(name: &SecretName, version: Option<Version>) -> StoreError {
    StoreError::NotFound { name: name.clone(), version }
}
