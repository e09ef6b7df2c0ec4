//! Logging in, renewing, and logging in again.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::fault::Fault;
use super::transport::{Session, Transport, checked_path, checked_token};
use crate::{SecretValue, StoreError};

/// How estop proves to a Vault who it is.
#[derive(Debug, Clone)]
pub enum Login {
    /// A token.
    Token(SecretValue),
    /// A token in a file, which is read again when the token is dead.
    TokenFile(PathBuf),
    /// An AppRole.
    AppRole {
        /// Where the method is mounted; usually `approle`.
        mount: String,
        /// The role's id.
        role_id: String,
        /// A secret id of the role.
        secret_id: SecretValue,
    },
}

/// A login that the server has accepted.
pub(super) struct LoggedIn {
    pub(super) session: Session,
    /// When the request for it, or for its last renewal, was sent.
    pub(super) since: Instant,
    /// How long it lives from then on; `None` if it does not end.
    pub(super) ttl: Option<Duration>,
    pub(super) renewable: bool,
    /// Tells one login from the next.
    pub(super) generation: u64,
}

impl Login {
    /// Whether a dead login can be replaced by a new one without a person.
    pub(super) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Token(_))
    }

    pub(super) async fn perform(
        &self,
        transport: &Transport,
        store: &str,
        generation: u64,
    ) -> Result<LoggedIn, StoreError> {
        let since = Instant::now();
        match self {
            Self::Token(token) => with_token(transport, store, token, generation).await,
            Self::TokenFile(path) => {
                let bytes = std::fs::read(path).map_err(|error| StoreError::storage("read", path, error))?;
                with_token(transport, store, &SecretValue::new(bytes), generation).await
            }
            Self::AppRole { mount, role_id, secret_id } => {
                let mount = checked_path("the mount of the AppRole method", mount)?;
                let secret = Zeroizing::new(String::from_utf8_lossy(secret_id.expose().trim_ascii()).into_owned());
                let nobody = transport.session(None);
                let answer = vaultrs::auth::approle::login(&nobody.0, &mount, role_id.trim(), &secret).await;
                let auth = answer.map_err(|error| refused(error.into(), store, "a login with this AppRole"))?;
                let token = SecretValue::from(auth.client_token);
                let token = checked_token("the token that Vault gave", &token)?;
                let ttl = Duration::from_secs(auth.lease_duration);
                Ok(LoggedIn {
                    session: transport.session(Some(&token)),
                    since,
                    ttl: Some(ttl).filter(|ttl| !ttl.is_zero()),
                    renewable: auth.renewable,
                    generation,
                })
            }
        }
    }
}

async fn with_token(
    transport: &Transport,
    store: &str,
    token: &SecretValue,
    generation: u64,
) -> Result<LoggedIn, StoreError> {
    let token = checked_token("the token for Vault", token)?;
    let session = transport.session(Some(&token));
    let since = Instant::now();
    let looked_up = vaultrs::token::lookup_self(&session.0).await;
    let looked_up = looked_up.map_err(|error| refused(error.into(), store, "a login with this token"))?;
    Ok(LoggedIn {
        session,
        since,
        ttl: Some(Duration::from_secs(looked_up.ttl)).filter(|ttl| !ttl.is_zero()),
        renewable: looked_up.renewable.unwrap_or(false),
        generation,
    })
}

impl LoggedIn {
    /// Whether the server still knows the token. Where it says neither yes nor no, the token is taken to live.
    pub(super) async fn is_dead(&self) -> bool {
        let looked_up = vaultrs::token::lookup_self(&self.session.0).await;
        matches!(looked_up.map_err(Fault::from), Err(Fault::Api { code: 401 | 403, .. }))
    }

    /// Extends the token's life and gives what it then has.
    pub(super) async fn renew(&self) -> Result<(Instant, Duration), Fault> {
        let sent = Instant::now();
        let auth = vaultrs::token::renew_self(&self.session.0, None).await?;
        Ok((sent, Duration::from_secs(auth.lease_duration)))
    }
}

fn refused(fault: Fault, store: &str, action: &str) -> StoreError {
    match fault {
        Fault::Api { code: 400 | 401 | 403, .. } => StoreError::Denied {
            store: store.to_owned(),
            action: action.to_owned(),
            detail: "the credential is wrong, expired or revoked: give a new one".to_owned(),
        },
        other => other.into_store_error(store, "log in"),
    }
}
