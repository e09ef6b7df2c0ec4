//! Asking a workload over HTTP, without TLS: this host only. Whoever is asked may keep its caller waiting.

use std::time::Duration;

/// Sends a `POST` without a body to `url`; no redirect is followed, and no proxy asked.
///
/// # Errors
/// What the answer within `wait` is, if it is none of success.
pub fn post(url: &str, wait: Duration) -> Result<(), String> {
    judge(url, agent(wait).post(url).send_empty())
}

/// Sends a `GET` to `url`, as [`post`].
///
/// # Errors
/// As for [`post`].
pub fn get(url: &str, wait: Duration) -> Result<(), String> {
    judge(url, agent(wait).get(url).call())
}

fn agent(wait: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(wait))
        .max_redirects(0)
        .proxy(None)
        .http_status_as_error(false)
        .build();
    ureq::Agent::new_with_config(config)
}

fn judge(url: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<(), String> {
    let status = answer.map_err(|error| format!("{url}: {error}"))?.status();
    if status.is_success() { Ok(()) } else { Err(format!("{url} answered {status}")) }
}
