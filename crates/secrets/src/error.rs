//! What can go wrong with a store of secrets.

use std::path::Path;

use crate::{SecretName, Version};

/// Why a store did not do what it was asked. No variant ever holds a value, a key or a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such secret, or no such version of it.
    #[error("secret {name}{} does not exist: check the name, or put it first", version.map(|v| format!(" version {v}")).unwrap_or_default())]
    NotFound {
        /// The secret.
        name: SecretName,
        /// The version asked for, if one was.
        version: Option<Version>,
    },
    /// The version asked for, or the current one, has been revoked, and none took its place.
    #[error("secret {name} version {version} was revoked and its value wiped: rotate the secret, or put a new value")]
    Revoked {
        /// The secret.
        name: SecretName,
        /// The revoked version.
        version: Version,
    },
    /// A compare-and-set write expected another version.
    #[error("secret {name} is at version {found}, not {expected}: read it again and decide anew")]
    Conflict {
        /// The secret.
        name: SecretName,
        /// The version that the writer expected.
        expected: Version,
        /// The version in force.
        found: Version,
    },
    /// Another writer changed the document between reading and writing it. Reading and deciding again is safe.
    #[error("secret {name} was changed by another writer meanwhile: try again")]
    Moved {
        /// The secret.
        name: SecretName,
    },
    /// The rotation that a step belongs to is no longer the one in course.
    #[error(
        "the rotation of {name} was overtaken ({detail}): the version in force stays; rotate again if it must change"
    )]
    Overtaken {
        /// The secret.
        name: SecretName,
        /// By what.
        detail: String,
    },
    /// A reader demanded a newer version than the store gives.
    #[error(
        "secret {name} is still at version {found} where at least {wanted} was demanded: the server that answered lags behind; try again"
    )]
    Stale {
        /// The secret.
        name: SecretName,
        /// The version demanded.
        wanted: Version,
        /// The version that was read.
        found: Version,
    },
    /// The store refuses this caller.
    #[error("{store} denies {action}: {detail}")]
    Denied {
        /// Which store.
        store: String,
        /// What was tried.
        action: String,
        /// What is missing, and what to do.
        detail: String,
    },
    /// The store did not answer.
    #[error("{store} cannot be reached: {detail}; check that it runs and that its address is right")]
    Unreachable {
        /// Which store.
        store: String,
        /// What happened instead of an answer.
        detail: String,
    },
    /// A write was sent and no answer came, even after trying again: it may have been applied.
    #[error(
        "{store} did not answer a write of {name}, which may have been applied: read the secret before writing again ({detail})"
    )]
    Unsettled {
        /// Which store.
        store: String,
        /// The secret.
        name: SecretName,
        /// What happened instead of an answer.
        detail: String,
    },
    /// The server's certificate is not trusted. Never tried again, never worked around.
    #[error(
        "{store} showed a certificate that is not trusted: {detail}; check the CA file, the server's name, and this host's clock"
    )]
    Certificate {
        /// Which store.
        store: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The server is sealed.
    #[error("{store} is sealed: unseal it")]
    Sealed {
        /// Which store.
        store: String,
    },
    /// What is stored is not what was written.
    #[error("{what} is damaged: {detail}; it was left untouched: restore it from a copy")]
    Damaged {
        /// The file or document.
        what: String,
        /// What does not fit.
        detail: String,
    },
    /// The key does not open the store.
    #[error(
        "{what} was encrypted with another key: give the key it was made with (key file or ESTOP_SECRETS_KEY); nothing was changed"
    )]
    WrongKey {
        /// The file concerned.
        what: String,
    },
    /// Something given to the store is unusable.
    #[error("{what} cannot be used: {detail}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it, and what to do.
        detail: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {path}: {detail}")]
    Storage {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On what.
        path: String,
        /// The system's answer.
        detail: String,
    },
}

impl StoreError {
    /// Whether the store is away (unreachable, sealed): a state that passes by itself and says nothing about the secret.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Sealed { .. } | Self::Unsettled { .. })
    }

    pub(crate) fn storage(action: &'static str, path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Storage { action, path: path.display().to_string(), detail: error.to_string() }
    }

    pub(crate) fn invalid(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), detail: detail.into() }
    }
}

/// Brings an error of the ground layer into this crate's words.
pub(crate) fn from_durable(action: &'static str, path: &Path, error: estop_durable::Error) -> StoreError {
    use estop_durable::Error as E;
    let what = || path.display().to_string();
    match error {
        E::Damaged { detail, .. } => StoreError::Damaged { what: what(), detail },
        error @ (E::WrongKind { .. } | E::WrongVersion { .. }) => {
            StoreError::Damaged { what: what(), detail: error.to_string() }
        }
        E::Io { source, .. } => StoreError::storage(action, path, source),
        other => StoreError::storage(action, path, other),
    }
}
