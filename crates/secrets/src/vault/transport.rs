//! Our own transport under vaultrs, whose default one has no time limit, follows redirects with token and body, and adds
//! the platform's certificates to a pinned one.

use std::str::FromStr as _;
use std::time::Duration;

use http::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Url};
use rustify::clients::reqwest::Client as Http;
use rustify::endpoint::{Endpoint, MiddleWare};
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError as TransportError;
use vaultrs::api::EndpointMiddleware;
use vaultrs::client::{VaultClient as Rs, VaultClientSettings};
use zeroize::{Zeroize as _, Zeroizing};

use super::fault::Fault;
use crate::{SecretValue, StoreError, tls};

/// The header in which the server gives its log position, and takes that which a reader must see.
const INDEX: &str = "x-vault-index";

/// Time limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For making a connection.
    pub connect: Duration,
    /// Between two parts of an answer.
    pub read: Duration,
    /// For a request with its answer.
    pub total: Duration,
    /// For all tries of one read together. Short, as the cache has something to serve meanwhile.
    pub read_tries: Duration,
    /// For all tries of one write together. Long, as a write that is given up is not known to have failed.
    pub write_tries: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            read: Duration::from_secs(3),
            total: Duration::from_secs(5),
            read_tries: Duration::from_secs(3),
            write_tries: Duration::from_secs(20),
        }
    }
}

/// Connections to one server, shared by all tokens used on them.
#[derive(Clone)]
pub(super) struct Transport {
    address: Url,
    http: reqwest::Client,
    namespace: Option<String>,
}

impl Transport {
    pub(super) fn new(
        address: Url,
        ca_pem: Option<&[u8]>,
        namespace: Option<String>,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        tls::install_provider();
        let https = address.scheme() == "https";
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .https_only(https)
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(limits.connect)
            .read_timeout(limits.read)
            .timeout(limits.total)
            .pool_idle_timeout(Duration::from_secs(30));
        if let Some(pem) = ca_pem {
            let what = "the CA file for Vault";
            let certificates = Certificate::from_pem_bundle(pem);
            let certificates = certificates.map_err(|error| StoreError::invalid(what, tls::chain(&error)))?;
            if certificates.is_empty() {
                return Err(StoreError::invalid(what, "it holds no certificate in PEM form"));
            }
            builder = builder.tls_certs_only(certificates);
        } else if !https {
            builder = builder.tls_certs_only(Vec::new());
        }
        let http = builder.build();
        let http = http.map_err(|error| StoreError::invalid("the configuration of Vault", tls::chain(&error)))?;
        Ok(Self { address, http, namespace })
    }

    /// A client of vaultrs that uses `token`, or none, on these connections.
    pub(super) fn session(&self, token: Option<&SecretValue>) -> Session {
        let token = token.and_then(|token| std::str::from_utf8(token.expose()).ok()).unwrap_or_default();
        let settings = VaultClientSettings {
            address: self.address.clone(),
            ca_certs: Vec::new(),
            identity: None,
            timeout: None,
            // Never the token: the settings' Debug would show it.
            token: String::new(),
            verify: true,
            version: 1,
            wrapping: false,
            namespace: self.namespace.clone(),
            proxy: None,
        };
        let middle = EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        Session(Rs { http: Http::new(self.address.as_str(), self.http.clone()), middle, settings })
    }
}

/// A client of vaultrs with one token, which is wiped when dropped.
pub(super) struct Session(pub(super) Rs);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.middle.token.zeroize();
    }
}

/// An answer as it came.
pub(super) struct Answer {
    pub(super) body: Zeroizing<Vec<u8>>,
    /// The server's log position after a write.
    pub(super) index: Option<String>,
}

impl Session {
    /// Sends a request once. With an index, the answer is of a state not older than that.
    pub(super) async fn send(&self, call: &Call, index: Option<&str>) -> Result<Answer, Fault> {
        let middle = Consistent { inner: &self.0.middle, index };
        let result = call.clone().with_middleware(&middle).exec(&self.0.http).await?;
        let (parts, body) = result.response.into_parts();
        let index = parts.headers.get(INDEX).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Answer { body: Zeroizing::new(body), index })
    }
}

/// Any request. The endpoints that vaultrs has lose headers, and some fields.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: RequestMethod,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
}

impl Call {
    pub(super) fn get(path: String) -> Self {
        Self { method: RequestMethod::GET, path, query: None, body: None }
    }

    pub(super) fn list(path: String) -> Self {
        Self { method: RequestMethod::LIST, ..Self::get(path) }
    }

    pub(super) fn delete(path: String) -> Self {
        Self { method: RequestMethod::DELETE, ..Self::get(path) }
    }

    pub(super) fn post(path: String, body: Zeroizing<Vec<u8>>) -> Self {
        Self { method: RequestMethod::POST, body: Some(body), ..Self::get(path) }
    }
}

impl Call {
    pub(super) fn is_write(&self) -> bool {
        matches!(self.method, RequestMethod::POST | RequestMethod::DELETE)
    }
}

impl Endpoint for Call {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        self.method.clone()
    }

    fn query(&self) -> Result<Option<String>, TransportError> {
        Ok(self.query.clone())
    }

    fn body(&self) -> Result<Option<Vec<u8>>, TransportError> {
        Ok(self.body.as_ref().map(|body| body.to_vec()))
    }
}

/// Adds to each request what makes a standby pass it on to the active node, if it has not yet seen our last write. The
/// index alone gives 429 there, the other header alone nothing.
struct Consistent<'a> {
    inner: &'a EndpointMiddleware,
    index: Option<&'a str>,
}

impl MiddleWare for Consistent<'_> {
    fn request<E: Endpoint>(&self, endpoint: &E, request: &mut http::Request<Vec<u8>>) -> Result<(), TransportError> {
        self.inner.request(endpoint, request)?;
        if let Some(index) = self.index.and_then(|index| HeaderValue::from_str(index).ok()) {
            let headers = request.headers_mut();
            headers.insert(INDEX, index);
            headers.insert("x-vault-inconsistent", HeaderValue::from_static("forward-active-node"));
        }
        Ok(())
    }

    fn response<E: Endpoint>(&self, _: &E, _: &mut http::Response<Vec<u8>>) -> Result<(), TransportError> {
        Ok(())
    }
}

/// Trims a token and checks that it can stand in a header; anything else makes vaultrs panic.
pub(super) fn checked_token(what: &str, token: &SecretValue) -> Result<SecretValue, StoreError> {
    let trimmed = token.expose().trim_ascii();
    let valid = !trimmed.is_empty() && trimmed.iter().all(u8::is_ascii_graphic);
    if !valid {
        return Err(StoreError::invalid(what, "a token is one word of printable characters"));
    }
    Ok(SecretValue::new(trimmed.to_vec()))
}

/// Checks a path given in the configuration, such as a mount's.
pub(super) fn checked_path(what: &str, path: &str) -> Result<String, StoreError> {
    let path = path.trim_matches('/');
    crate::SecretName::from_str(path).map(String::from).map_err(|error| StoreError::invalid(what, error.to_string()))
}
