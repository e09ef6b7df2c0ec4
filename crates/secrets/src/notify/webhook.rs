//! Webhooks: the message as the body of a POST, signed as Standard Webhooks 1.0 lays down (standardwebhooks.com).
//!
//! `webhook-id` is the rotation and stays the same at every retry, so that a receiver can tell a repetition.
//! `webhook-timestamp` is the time of the try in seconds; a receiver refuses old ones. `webhook-signature` is `v1,` and
//! the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`.

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::SecretValue;

/// The signature of a message. A receiver computes the same and compares in constant time.
pub fn signature(key: &SecretValue, id: &str, timestamp: i64, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose()) else { return String::new() };
    mac.update(id.as_bytes());
    mac.update(format!(".{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()))
}

/// A URL without user, password, query and fragment, any of which may be a credential.
pub(crate) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let host_at = rest[..authority_end].rfind('@').map_or(0, |at| at + 1);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{}", &rest[host_at..])
}

#[cfg(feature = "webhook")]
mod send {
    use std::time::Duration;

    use backon::{ExponentialBuilder, Retryable as _};
    use jiff::Timestamp;
    use reqwest::StatusCode;
    use reqwest::redirect::Policy;

    use super::signature;
    use crate::SecretValue;
    use crate::notify::{Limits, Message};

    /// Posts webhooks over connections that it keeps.
    pub(in crate::notify) struct Sender {
        client: Result<reqwest::Client, String>,
        limits: Limits,
    }

    /// A try that failed.
    struct Failure {
        detail: String,
        /// Whether another try may fare better.
        passing: bool,
    }

    impl Sender {
        pub(in crate::notify) fn new(limits: Limits) -> Self {
            crate::tls::install_provider();
            let client = reqwest::Client::builder()
                .tls_backend_rustls()
                .redirect(Policy::none())
                .timeout(limits.webhook_try)
                .connect_timeout(limits.webhook_try)
                .user_agent(concat!("estop/", env!("CARGO_PKG_VERSION")))
                .build();
            Self { client: client.map_err(|error| error.to_string()), limits }
        }

        pub(in crate::notify) async fn post(
            &self,
            url: &str,
            key: Option<&SecretValue>,
            message: &Message,
        ) -> Result<(), String> {
            let client = self.client.as_ref().map_err(Clone::clone)?;
            let url = crate::tls::checked_url(url, true)?;
            let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
            let id = format!("{}.{}", message.rotation_id, message.version);
            let once = || try_once(client, &url, key, &id, &body);
            let waits = ExponentialBuilder::default()
                .with_jitter()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(5))
                .with_max_times(self.limits.webhook_tries.saturating_sub(1));
            let sent = once.retry(waits).when(|failure: &Failure| failure.passing).await;
            sent.map_err(|failure| failure.detail)
        }
    }

    async fn try_once(
        client: &reqwest::Client,
        url: &reqwest::Url,
        key: Option<&SecretValue>,
        id: &str,
        body: &[u8],
    ) -> Result<(), Failure> {
        let timestamp = Timestamp::now().as_second();
        let mut request = client
            .post(url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp);
        if let Some(key) = key {
            request = request.header("webhook-signature", signature(key, id, timestamp, body));
        }
        // The URL may carry a credential, and an error would show it.
        let answer = request.body(body.to_vec()).send().await.map_err(|error| {
            let error = error.without_url();
            Failure { detail: crate::tls::chain(&error), passing: crate::tls::tls_fault(&error).is_none() }
        })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(Failure {
                detail: format!("it answered {status}"),
                passing: status.is_server_error()
                    || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT),
            }),
        }
    }
}

#[cfg(feature = "webhook")]
pub(super) use send::Sender;

#[cfg(not(feature = "webhook"))]
pub(super) struct Sender;

#[cfg(not(feature = "webhook"))]
impl Sender {
    pub(super) fn new(_limits: super::Limits) -> Self {
        Self
    }

    #[expect(clippy::unused_async, reason = "the same signature as with the feature")]
    pub(super) async fn post(&self, _: &str, _: Option<&SecretValue>, _: &super::Message) -> Result<(), String> {
        Err("this program was built without the feature `webhook`".to_owned())
    }
}
