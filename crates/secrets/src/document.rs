//! The document of a secret: all its versions and the rotation in course, moved as one by compare-and-set.
//!
//! Everything here is a plain change of a value in memory; [`crate::store`] makes it durable.

use std::ops::RangeInclusive;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::not_found;
use crate::{Secret, SecretName, SecretValue, StoreError, Version, VersionInfo, VersionState};

mod codec;

pub(crate) use codec::{DEFAULT_FIELD, Written, decode, encode};
#[cfg(feature = "vault")]
pub(crate) use codec::{RESERVED, write_id};

/// The largest value in bytes. Twenty of them, in base64, fit below Vault's limit for an entry (1 MiB).
pub const MAX_VALUE_BYTES: usize = 32 * 1024;

/// How far a rotation has come: the two states from which the next call has something different to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The new value is made and stored as pending. It may have been set and tested too; as nobody can tell how long ago,
    /// and whether it was being taken back, both are done again, so that noting them would decide nothing.
    Created,
    /// The new value is the current one; subscribers are yet to be told and the old value to be revoked.
    Promoted,
}

/// A rotation in course.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Its own id, which stands in every message about it.
    pub id: Uuid,
    /// The version that it makes.
    pub version: Version,
    /// The version that was in force when it began; [`Version::NONE`] if there was none.
    pub from: Version,
    /// The last step that is done.
    pub step: Step,
    /// Whether the old versions are to be revoked at once.
    pub emergency: bool,
    /// Whether the pending version is not to be promoted any more, because a step failed or a value was put meanwhile. It
    /// is then only to be taken back, by who knows the kind.
    #[serde(default)]
    pub condemned: bool,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it began, by the clock of the host that began it.
    pub started: Timestamp,
}

#[derive(Debug, Clone)]
struct Held {
    info: VersionInfo,
    value: Option<SecretValue>,
    /// The first revision that no longer holds the value.
    gone: Option<u64>,
}

/// A secret with its versions and the rotation in course.
///
/// Opaque outside this crate, except for what a store needs to keep it.
#[derive(Debug, Clone)]
pub struct Document {
    name: SecretName,
    /// 0 for one that is not stored yet.
    revision: u64,
    /// The highest number ever given, which is never given again.
    last: Version,
    held: Vec<Held>,
    rotation: Option<Rotation>,
    /// Fields that others keep in the same document. They stay as they are.
    extra: serde_json::Map<String, serde_json::Value>,
}

impl Document {
    /// The document of a secret that does not exist yet.
    pub fn absent(name: SecretName) -> Self {
        Self { name, revision: 0, last: Version::NONE, held: Vec::new(), rotation: None, extra: serde_json::Map::new() }
    }

    /// The document of a secret of which the store has kept no more than that there were `revision` revisions.
    #[cfg(feature = "vault")]
    pub(crate) fn deleted(name: SecretName, revision: u64) -> Self {
        // No version had a higher number than its revision.
        Self { revision, last: Version(revision), ..Self::absent(name) }
    }

    /// The same, now stored as `revision`.
    pub(crate) fn stored(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// The secret's name.
    pub fn name(&self) -> &SecretName {
        &self.name
    }

    /// The revision it was loaded with; 0 if it is not stored yet.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is known of the kept versions, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = &VersionInfo> {
        self.held.iter().map(|held| &held.info)
    }

    /// What is known of a version.
    pub fn info(&self, version: Version) -> Option<&VersionInfo> {
        self.versions().find(|info| info.version == version)
    }

    /// The version in force; [`Version::NONE`] if there is none.
    pub fn current_version(&self) -> Version {
        self.versions().find(|info| info.state == VersionState::Current).map_or(Version::NONE, |info| info.version)
    }

    /// The number that the next version will get.
    pub fn next_version(&self) -> Version {
        self.last.next()
    }

    /// The rotation in course.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// A version with its value, or the current one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Revoked`].
    pub fn secret(&self, version: Option<Version>) -> Result<Secret, StoreError> {
        let held = match version {
            Some(version) => self.held.iter().find(|held| held.info.version == version),
            // With none in force, the newest says why.
            None => self.held.iter().find(|held| held.info.state == VersionState::Current).or(self.held.last()),
        };
        let held = held.ok_or_else(|| not_found(&self.name, version))?;
        match &held.value {
            Some(value) if version.is_some() || held.info.state == VersionState::Current => {
                Ok(Secret { name: self.name.clone(), info: held.info.clone(), value: value.clone() })
            }
            Some(_) => Err(not_found(&self.name, None)),
            None => Err(StoreError::Revoked { name: self.name.clone(), version: held.info.version }),
        }
    }

    /// Makes `value` the current version. A rotation that has not promoted its version yet won't any more.
    pub(crate) fn put(&mut self, value: SecretValue, now: Timestamp) -> Version {
        if let Some(rotation) = self.rotation.as_mut().filter(|rotation| rotation.step < Step::Promoted) {
            rotation.condemned = true;
        }
        self.demote_current(None);
        self.push(value, VersionState::Current, None, now)
    }

    /// Begins a rotation with `value` as its pending version.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] if another one is in course.
    pub(crate) fn begin(&mut self, start: Start, value: SecretValue, now: Timestamp) -> Result<Version, StoreError> {
        if let Some(rotation) = &self.rotation {
            return Err(self.overtaken(format!("rotation {} is in course", rotation.id)));
        }
        let from = self.current_version();
        let version = self.push(value, VersionState::Pending, Some(start.id), now);
        let Start { id, emergency, reason } = start;
        self.rotation = Some(Rotation {
            id,
            version,
            from,
            step: Step::Created,
            emergency,
            condemned: false,
            reason,
            started: now,
        });
        Ok(version)
    }

    /// Makes the pending version of rotation `id` the current one; the one before stays valid until `valid_until`.
    /// `false` if another host did so already.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] if that rotation is no longer in course and did not succeed.
    pub(crate) fn promote(
        &mut self,
        id: Uuid,
        emergency: bool,
        valid_until: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        if self.has_promoted(id) {
            return Ok(false);
        }
        let rotation = self.own(id)?;
        rotation.step = Step::Promoted;
        rotation.emergency |= emergency;
        let version = rotation.version;
        // Older ones too: a value that was put by hand has left the one before it valid without an end.
        for held in self.held.iter_mut().filter(|held| held.info.state == VersionState::Previous) {
            held.info.valid_until = held.info.valid_until.into_iter().chain(valid_until).min();
        }
        self.demote_current(valid_until);
        if let Some(held) = self.held_mut(version) {
            held.info.state = VersionState::Current;
        }
        Ok(true)
    }

    /// Whether the rotation `id` has promoted its version, and that is still valid.
    pub(crate) fn has_promoted(&self, id: Uuid) -> bool {
        self.versions().any(|info| {
            info.rotation_id == Some(id) && matches!(info.state, VersionState::Current | VersionState::Previous)
        })
    }

    /// Sees to it that the rotation `id` won't promote its version any more. `false` if that needs no change.
    pub(crate) fn condemn(&mut self, id: Uuid) -> bool {
        let rotation = self.rotation.as_mut().filter(|rotation| rotation.id == id && rotation.step < Step::Promoted);
        rotation.is_some_and(|rotation| !std::mem::replace(&mut rotation.condemned, true))
    }

    /// Takes the pending version of rotation `id` back. `false` if that rotation is not in course.
    pub(crate) fn withdraw(&mut self, id: Uuid, now: Timestamp) -> bool {
        match self.rotation.take_if(|rotation| rotation.id == id && rotation.step < Step::Promoted) {
            Some(rotation) => {
                self.revoke(rotation.version, now);
                true
            }
            None => false,
        }
    }

    /// Ends the rotation `id` after it has promoted. `false` if it is not in course.
    pub(crate) fn settle(&mut self, id: Uuid) -> bool {
        self.rotation.take_if(|rotation| rotation.id == id && rotation.step == Step::Promoted).is_some()
    }

    /// Revokes a version and wipes its value.
    pub(crate) fn revoke(&mut self, version: Version, now: Timestamp) {
        let revision = self.revision;
        if self.rotation.as_ref().is_some_and(|r| r.version == version && r.step < Step::Promoted) {
            self.rotation = None;
        }
        if let Some(held) = self.held_mut(version).filter(|held| held.info.state != VersionState::Revoked) {
            held.info.state = VersionState::Revoked;
            held.info.revoked = Some(now);
            held.info.valid_until = None;
            held.value = None;
            held.gone = Some(revision + 1);
        }
    }

    /// The revisions of this document in which a revoked version's value can still be read.
    pub(crate) fn gone_revisions(&self, version: Version) -> Option<RangeInclusive<u64>> {
        let held = self.held.iter().find(|held| held.info.version == version)?;
        let last = held.gone?.checked_sub(1)?;
        (held.info.revision <= last).then_some(held.info.revision..=last)
    }

    /// Drops the oldest versions above `keep`: revoked ones first, then previous ones.
    pub(crate) fn trim(&mut self, keep: usize) {
        for state in [VersionState::Revoked, VersionState::Previous] {
            while self.held.len() > keep.max(1) {
                let Some(at) = self.held.iter().position(|held| held.info.state == state) else { break };
                self.held.remove(at);
            }
        }
    }

    fn push(&mut self, value: SecretValue, state: VersionState, rotation_id: Option<Uuid>, now: Timestamp) -> Version {
        self.last = self.last.next();
        let info = VersionInfo {
            version: self.last,
            state,
            created: now,
            rotation_id,
            valid_until: None,
            revoked: None,
            revision: self.revision + 1,
        };
        self.held.push(Held { info, value: Some(value), gone: None });
        self.last
    }

    fn demote_current(&mut self, valid_until: Option<Timestamp>) {
        for held in self.held.iter_mut().filter(|held| held.info.state == VersionState::Current) {
            held.info.state = VersionState::Previous;
            held.info.valid_until = valid_until;
        }
    }

    fn held_mut(&mut self, version: Version) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.info.version == version)
    }

    /// The rotation in course, if it is `id`.
    fn own(&mut self, id: Uuid) -> Result<&mut Rotation, StoreError> {
        let detail = match &self.rotation {
            Some(rotation) if rotation.id != id => format!("rotation {} took its place", rotation.id),
            Some(rotation) if rotation.condemned => {
                format!("its version was given up; version {} is in force", self.current_version())
            }
            _ => format!("it was withdrawn; version {} is in force", self.current_version()),
        };
        let overtaken = self.overtaken(detail);
        self.rotation.as_mut().filter(|rotation| rotation.id == id && !rotation.condemned).ok_or(overtaken)
    }

    fn overtaken(&self, detail: String) -> StoreError {
        StoreError::Overtaken { name: self.name.clone(), detail }
    }
}

/// What a rotation is begun with.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) id: Uuid,
    pub(crate) emergency: bool,
    pub(crate) reason: String,
}
