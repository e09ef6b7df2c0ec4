//! What a kind of rotation has to be able to do.

use async_trait::async_trait;
use uuid::Uuid;

use crate::{Secret, SecretName, SecretValue};

/// Why a step of a rotation failed, in words for the report. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KindError(pub String);

/// The rotation that a step belongs to.
#[derive(Debug, Clone)]
pub struct Context {
    /// The secret.
    pub name: SecretName,
    /// The rotation.
    pub rotation_id: Uuid,
    /// Whether it is an emergency.
    pub emergency: bool,
    /// Why, in the operator's words.
    pub reason: String,
}

/// A kind of rotation: create → set → test → finish, as AWS Secrets Manager names the steps, and their undoing.
///
/// After a crash, and where two hosts rotate at once, a step is done again with the same value: every step must be
/// idempotent.
#[async_trait]
pub trait RotationKind: Send + Sync {
    /// Makes a new value. Nothing outside may change yet.
    ///
    /// # Errors
    /// [`KindError`]: nothing has happened.
    async fn create(&self, context: &Context) -> Result<SecretValue, KindError>;

    /// Makes the service that checks the secret accept `new`, beside `old` where the service can have two.
    ///
    /// # Errors
    /// [`KindError`]: the rotation is withdrawn.
    async fn set(&self, _context: &Context, _new: &Secret, _old: Option<&Secret>) -> Result<(), KindError> {
        Ok(())
    }

    /// Proves that `new` works by really using it.
    ///
    /// # Errors
    /// [`KindError`]: the rotation is withdrawn.
    async fn test(&self, context: &Context, new: &Secret) -> Result<(), KindError>;

    /// Tidies up after `new` has been promoted.
    ///
    /// # Errors
    /// [`KindError`]: reported; the new version stays in force.
    async fn finish(&self, _context: &Context, _new: &Secret) -> Result<(), KindError> {
        Ok(())
    }

    /// Makes the service refuse `old`, and ends what was opened with it.
    ///
    /// # Errors
    /// [`KindError`]: `old` stays valid, and its value is kept so that this can be tried again.
    async fn revoke(&self, _context: &Context, _old: &Secret) -> Result<(), KindError> {
        Ok(())
    }

    /// Takes back what [`RotationKind::set`] did for `new`, so that `old` works as before.
    ///
    /// # Errors
    /// [`KindError`]: reported.
    async fn withdraw(&self, _context: &Context, _new: &Secret, _old: Option<&Secret>) -> Result<(), KindError> {
        Ok(())
    }
}
