//! Asking over HTTP. Done by a helper: whoever is asked may keep it waiting.

use std::time::Duration;

/// Sends a `POST` without a body to `url`. Whether the answer, within `wait`, is one of success. No redirect is followed, and no proxy
/// asked.
pub(super) fn post(url: &str, wait: Duration) -> bool {
    let config = ureq::Agent::config_builder().timeout_global(Some(wait)).max_redirects(0).proxy(None).build();
    let answer = ureq::Agent::new_with_config(config).post(url).send_empty();
    answer.is_ok_and(|answer| answer.status().is_success())
}
