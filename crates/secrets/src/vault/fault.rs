//! What can go wrong with a request to a Vault, and what it means. The one place that reads the server's texts.

use rustify::errors::ClientError as Transport;
use vaultrs::error::ClientError;

use crate::StoreError;
use crate::tls;

/// A request that was not answered with success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server's own answer.
    Api {
        /// The HTTP status.
        code: u16,
        /// The server's words; for a deleted KV version there are none, but a body.
        errors: Vec<String>,
        /// The body, where it holds no error: metadata of a deleted version.
        body: Option<String>,
    },
    /// The connection was not made, so nothing was sent.
    NotSent(String),
    /// The server is not who it should be.
    Certificate(String),
    /// No answer, or half of one: the request may have been carried out.
    Unanswered(String),
    /// An answer that is none of a Vault.
    NotUnderstood(String),
}

/// What to do about a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same request again, after a pause.
    Again,
    /// Nothing here helps.
    Final,
    /// The token may be dead: look, and log in.
    CheckToken,
}

impl Fault {
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Api { code: 403, .. } => Remedy::CheckToken,
            // A 500 that will stay one, and a 503 that lasts until somebody acts.
            Self::Api { .. } if self.says("past the max TTL") || self.is_sealed() => Remedy::Final,
            // A mount that is being made answers so for a moment.
            Self::Api { code: 400, .. } if self.says("Upgrading from non-versioned") => Remedy::Again,
            Self::NotSent(_) | Self::Unanswered(_) | Self::Api { code: 429 | 500..=599, .. } => Remedy::Again,
            Self::Certificate(_) | Self::NotUnderstood(_) | Self::Api { .. } => Remedy::Final,
        }
    }

    /// Whether a compare-and-set write expected another version.
    pub(super) fn is_mismatch(&self) -> bool {
        matches!(self, Self::Api { code: 400, .. }) && self.says("check-and-set parameter did not match")
    }

    /// Whether there is nothing at this path.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Api { code: 404, errors, .. } if errors.is_empty())
    }

    /// The body of an answer that says that the latest version was deleted.
    pub(super) fn deleted(&self) -> Option<&str> {
        match self {
            Self::Api { code: 404, errors, body } if errors.is_empty() => body.as_deref(),
            _ => None,
        }
    }

    fn is_sealed(&self) -> bool {
        matches!(self, Self::Api { code: 503, .. }) && self.says("sealed")
    }

    fn says(&self, text: &str) -> bool {
        matches!(self, Self::Api { errors, .. } if errors.iter().any(|error| error.contains(text)))
    }

    /// In the words of a store, for a request that was to do `action`.
    pub(super) fn into_store_error(self, store: &str, action: &str) -> StoreError {
        let store = store.to_owned();
        match self {
            fault @ Self::Api { .. } if fault.is_sealed() => StoreError::Sealed { store },
            Self::Certificate(detail) => StoreError::Certificate { store, detail },
            Self::NotSent(detail) | Self::Unanswered(detail) => StoreError::Unreachable { store, detail },
            Self::NotUnderstood(detail) => StoreError::invalid(store, detail),
            Self::Api { code: 401 | 403, errors, .. } => {
                let detail = format!("{}: the token's policies do not allow it", said(&errors));
                StoreError::Denied { store, action: action.to_owned(), detail }
            }
            Self::Api { code: code @ (429 | 500..=599), errors, .. } => {
                StoreError::Unreachable { store, detail: format!("it answered {code}, {}", said(&errors)) }
            }
            Self::Api { code: 404, errors, .. }
                if errors.iter().any(|error| error.contains("no handler for route")) =>
            {
                StoreError::invalid(store, "it has no such mount: check the mount's name in the configuration")
            }
            Self::Api { code, errors, .. } => {
                StoreError::invalid(store, format!("it refused to {action} with {code}, {}", said(&errors)))
            }
        }
    }
}

fn said(errors: &[String]) -> String {
    if errors.is_empty() { "without a reason".to_owned() } else { errors.join("; ").replace(['\n', '\t'], " ") }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::APIError { code, errors } => Self::Api { code, errors, body: None },
            ClientError::RestClientError { source } => source.into(),
            other => Self::NotUnderstood(other.to_string()),
        }
    }
}

impl From<Transport> for Fault {
    fn from(error: Transport) -> Self {
        match error {
            Transport::ServerResponseError { code, content } => from_answer(code, content),
            Transport::RequestError { source, .. } | Transport::ResponseError { source } => {
                match source.downcast::<reqwest::Error>() {
                    Ok(error) => from_request(error),
                    Err(other) => Self::Unanswered(other.to_string()),
                }
            }
            // Its content may be a secret.
            Transport::ResponseParseError { .. } | Transport::ResponseConversionError { .. } => Self::NotUnderstood(
                "its answer is no JSON of a Vault: check that the address is that of a Vault".to_owned(),
            ),
            other => Self::NotUnderstood(other.to_string()),
        }
    }
}

fn from_answer(code: u16, content: Option<String>) -> Fault {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<String>,
    }
    let Some(content) = content else { return Fault::Api { code, errors: Vec::new(), body: None } };
    if let Ok(answer) = serde_json::from_str::<Answer>(&content) {
        return Fault::Api { code, errors: answer.errors, body: None };
    }
    if content.contains("Client sent an HTTP request to an HTTPS server") {
        return Fault::NotUnderstood("it speaks https, not http: correct the address".to_owned());
    }
    if content.starts_with('{') {
        return Fault::Api { code, errors: Vec::new(), body: Some(content) };
    }
    // A page of a load balancer, say. Its status tells whether it passes.
    Fault::Api { code, errors: vec!["the answer is not from a Vault".to_owned()], body: None }
}

fn from_request(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    if let Some(fault) = tls::tls_fault(&error) {
        return match fault {
            rustls::Error::InvalidCertificate(_) => Fault::Certificate(fault.to_string()),
            other if error.is_connect() => Fault::Certificate(other.to_string()),
            other => Fault::Unanswered(other.to_string()),
        };
    }
    let text = tls::chain(&error);
    if error.is_connect() { Fault::NotSent(text) } else { Fault::Unanswered(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, content: &str) -> Fault {
        from_answer(code, Some(content.to_owned()))
    }

    #[test]
    fn the_servers_answers_mean_what_was_seen_on_the_real_one() {
        let again = [
            answer(500, r#"{"errors":["local node not active but active cluster node not found"]}"#),
            answer(429, r#"{"errors":[]}"#),
            answer(502, "<html>bad gateway</html>"),
            answer(400, r#"{"errors":["Upgrading from non-versioned to versioned data. This backend …"]}"#),
            Fault::NotSent(String::new()),
        ];
        assert!(again.iter().all(|fault| fault.remedy() == Remedy::Again), "{again:?}");
        let last = [
            answer(500, r#"{"errors":["past the max TTL, cannot renew"]}"#),
            answer(503, r#"{"errors":["Vault is sealed"]}"#),
            answer(400, r#"{"errors":["check-and-set parameter did not match the current version"]}"#),
            answer(404, r#"{"errors":[]}"#),
            Fault::Certificate(String::new()),
        ];
        assert!(last.iter().all(|fault| fault.remedy() == Remedy::Final), "{last:?}");
        assert!(last[2].is_mismatch() && last[3].is_missing());
        assert!(matches!(last[1].clone().into_store_error("v", "read"), StoreError::Sealed { .. }));
        let denied = answer(403, r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#);
        assert_eq!(denied.remedy(), Remedy::CheckToken);
        assert!(matches!(denied.into_store_error("v", "read"), StoreError::Denied { .. }));
    }

    #[test]
    fn a_deleted_version_is_told_from_a_missing_secret() {
        let deleted = answer(404, r#"{"data":{"data":null,"metadata":{"version":3}}}"#);
        assert!(deleted.deleted().is_some());
        assert!(answer(404, r#"{"errors":[]}"#).deleted().is_none());
    }
}
