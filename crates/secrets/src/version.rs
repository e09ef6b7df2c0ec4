//! The versions of a secret, and what is known of each.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The number of a version: 1, 2, 3, … in the order in which they were made. 0 stands for "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// No version: what a write expects of a secret that must not exist yet.
    pub const NONE: Self = Self(0);

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a version stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Made by a rotation that has not promoted it yet. Readers don't get it unless they name it.
    Pending,
    /// The one in force.
    Current,
    /// No longer in force, still valid: whoever holds it can go on using it.
    Previous,
    /// No longer valid. Its value has been wiped.
    Revoked,
}

/// What is known of a version, apart from its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Its number.
    pub version: Version,
    /// Where it stands in its life.
    pub state: VersionState,
    /// When it was made, by the clock of the host that made it.
    pub created: Timestamp,
    /// The rotation that made it; `None` for one that was put.
    pub rotation_id: Option<Uuid>,
    /// Until when a [`VersionState::Previous`] one is to stay valid; `None` if nothing has been decided.
    pub valid_until: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// The revision of the store's document in which it first appeared (in Vault: the KV version).
    pub revision: u64,
}
