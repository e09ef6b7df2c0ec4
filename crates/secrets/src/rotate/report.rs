//! What a rotation came to, in the form of the contract's JSON.

use serde::Serialize;

use crate::notify::Notified;
use crate::{SecretName, Version};

/// What the rotation of one secret came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The secret.
    pub name: SecretName,
    /// The version that was in force before; `None` if there was none.
    pub from_version: Option<Version>,
    /// The version that was made; `None` if none could be.
    pub to_version: Option<Version>,
    /// Whether it is in force now.
    pub promoted: bool,
    /// Whether the version before, and all older ones where it is an emergency, are refused from now on.
    pub old_revoked: bool,
    /// In an emergency: whether a version that may have leaked is still valid.
    pub still_exposed: bool,
    /// What failed.
    pub error: Option<String>,
    /// How the subscribers took it.
    pub notified: Vec<Notified>,
    /// How long all of it took, in seconds.
    pub seconds: f64,
}

impl Report {
    pub(super) fn new(name: SecretName) -> Self {
        Self {
            name,
            from_version: None,
            to_version: None,
            promoted: false,
            old_revoked: false,
            still_exposed: false,
            error: None,
            notified: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Whether everything that was to be done is done.
    pub fn is_complete(&self) -> bool {
        self.promoted && self.error.is_none() && !self.still_exposed
    }

    /// Adds what failed to what failed before.
    pub(super) fn fail(&mut self, what: impl std::fmt::Display) {
        self.error = Some(match self.error.take() {
            Some(before) => format!("{before}; {what}"),
            None => what.to_string(),
        });
    }
}

/// What several rotations came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reports {
    /// The version of this form.
    pub schema_version: u32,
    /// One for each secret, in the order asked for.
    pub rotations: Vec<Report>,
    /// How long all of it took, in seconds.
    pub seconds: f64,
}
