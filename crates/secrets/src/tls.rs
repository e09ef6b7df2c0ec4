//! What every HTTP client of ours has in common: the crypto provider, which addresses are allowed, and errors in words.

use std::error::Error;
use std::sync::Once;

use reqwest::Url;

/// Installs ring as the process's crypto provider, unless the program has installed one. Without any, building a client
/// panics.
pub(crate) fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that another provider is there already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Takes https addresses, and http ones on loopback if that is allowed.
pub(crate) fn checked_url(text: &str, loopback_http: bool) -> Result<Url, String> {
    // The text may hold a credential: it is never shown.
    let url = Url::parse(text.trim()).map_err(|error| format!("the address is no URL: {error}"))?;
    let host = url.host_str().ok_or("the address has no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback && loopback_http => Ok(url),
        "http" if loopback => Err("http is allowed on loopback only when asked for by name: use https".to_owned()),
        "http" => Err("http would show secrets to the network: use https".to_owned()),
        _ => Err("the address must begin with https://".to_owned()),
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The TLS error among the causes of an error, such as a certificate that isn't trusted: trying again is of no use. A
/// refused connection looks the same from outside.
pub(crate) fn tls_fault(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref::<rustls::Error>() {
            return Some(fault.clone());
        }
        // An io::Error's source() skips what it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(fault) = wrapped.and_then(|inner| tls_fault(inner)) {
            return Some(fault);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_https_and_loopback_http_only() {
        for good in ["https://vault.example:8200", "https://127.0.0.1", " https://x/ "] {
            assert!(checked_url(good, false).is_ok(), "{good}");
        }
        for loopback in ["http://127.0.0.1:8200", "http://localhost", "http://[::1]:1"] {
            assert!(checked_url(loopback, true).is_ok(), "{loopback}");
            assert!(checked_url(loopback, false).is_err(), "{loopback}");
        }
        for bad in
            ["http://10.0.0.1", "http://localhost.example", "vault:8200", "ftp://127.0.0.1", "", "127.0.0.1:8200"]
        {
            assert!(checked_url(bad, true).is_err(), "{bad}");
        }
    }
}
