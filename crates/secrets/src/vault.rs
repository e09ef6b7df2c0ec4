//! HashiCorp Vault and OpenBao: the client, and the store over a KV version 2 mount.
//!
//! Built on vaultrs, with a transport of our own beneath it (see `transport.rs`). Three things that the plain API leaves
//! to its user are done here:
//!
//! * A compare-and-set write of which the answer was lost is sent again *unchanged*; where that meets a mismatch, the id
//!   in the data tells whether it was our own first try that landed. It is never guessed.
//! * A read after our write is never answered from an older state by a standby.
//! * A 403 is either a dead token, after which estop logs in again, or a policy, after which it does not.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::document::{DEFAULT_FIELD, Document, RESERVED, Written, decode, encode, write_id};
use crate::store::{DEFAULT_KEPT_VERSIONS, SecretStore, not_found};
use crate::{SecretName, StoreError, tls};

mod fault;
mod login;
mod transport;

pub use login::Login;
pub use transport::Limits;

use fault::{Fault, Remedy};
use login::LoggedIn;
use transport::{Answer, Call, Transport, checked_path};

/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// How deep below the prefix secrets are listed.
const MAX_DEPTH: usize = 16;

/// Where the Vault is and how it is used.
#[derive(Clone)]
pub struct Options {
    /// Its address, with https.
    pub address: String,
    /// Allow http, on loopback only.
    pub loopback_http: bool,
    /// The certificate authority that signed the server's certificate, in PEM form; no other is trusted then. Without it
    /// those of this host are.
    pub ca_file: Option<PathBuf>,
    /// The namespace.
    pub namespace: Option<String>,
    /// How to log in.
    pub login: Login,
    /// The mount of the KV version 2 engine.
    pub mount: String,
    /// What stands before every secret's name.
    pub prefix: Option<SecretName>,
    /// The field of a document that holds the value.
    pub field: String,
    /// Time limits.
    pub limits: Limits,
    /// How many versions of a secret are kept in its document.
    pub kept_versions: usize,
}

impl Options {
    /// The engine `secret` of the Vault at `address`.
    pub fn new(address: impl Into<String>, login: Login) -> Self {
        Self {
            address: address.into(),
            loopback_http: false,
            ca_file: None,
            namespace: None,
            login,
            mount: "secret".to_owned(),
            prefix: None,
            field: DEFAULT_FIELD.to_owned(),
            limits: Limits::default(),
            kept_versions: DEFAULT_KEPT_VERSIONS,
        }
    }
}

impl std::fmt::Debug for Options {
    /// Without what may be a credential in the address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("address", &crate::notify::webhook::shown(&self.address))
            .field("login", &self.login)
            .field("mount", &self.mount)
            .field("prefix", &self.prefix)
            .field("ca_file", &self.ca_file)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// A client of a Vault, logged in. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct VaultClient {
    inner: Arc<Inner>,
}

struct Inner {
    description: String,
    transport: Transport,
    login: Login,
    mount: String,
    prefix: Option<SecretName>,
    field: String,
    limits: Limits,
    kept_versions: usize,
    current: ArcSwap<LoggedIn>,
    /// Held by the one who logs in again.
    renewing: tokio::sync::Mutex<()>,
    /// The server's log position after our last write.
    index: ArcSwapOption<String>,
}

impl std::fmt::Debug for VaultClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("VaultClient").field(&self.inner.description).finish()
    }
}

impl VaultClient {
    /// Checks the options, connects and logs in.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for options that can't be used, [`StoreError::Denied`] for a login that is refused,
    /// [`StoreError::Certificate`], [`StoreError::Sealed`] or [`StoreError::Unreachable`].
    pub async fn connect(options: Options) -> Result<Self, StoreError> {
        let address = tls::checked_url(&options.address, options.loopback_http)
            .map_err(|detail| StoreError::invalid("the address of Vault", detail))?;
        if !address.username().is_empty() || address.password().is_some() {
            return Err(StoreError::invalid("the address of Vault", "it holds a user or password: use a login"));
        }
        if options.field == RESERVED || options.field.is_empty() {
            return Err(StoreError::invalid("the field for values", format!("it is empty or \"{RESERVED}\"")));
        }
        let mount = checked_path("the mount for secrets", &options.mount)?;
        let description = format!("Vault {} mount {mount}", address.as_str().trim_end_matches('/'));
        let ca_pem = match &options.ca_file {
            Some(path) => Some(std::fs::read(path).map_err(|error| StoreError::storage("read", path, error))?),
            None => None,
        };
        let transport = Transport::new(address, ca_pem.as_deref(), options.namespace, options.limits)?;
        let logged_in = options.login.perform(&transport, &description, 0).await?;
        let inner = Inner {
            description,
            transport,
            login: options.login,
            mount,
            prefix: options.prefix,
            field: options.field,
            limits: options.limits,
            kept_versions: options.kept_versions.max(2),
            current: ArcSwap::from_pointee(logged_in),
            renewing: tokio::sync::Mutex::default(),
            index: ArcSwapOption::empty(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How long the present login still lives; `None` if it does not end.
    pub fn login_ends_in(&self) -> Option<Duration> {
        let current = self.inner.current.load();
        current.ttl.map(|ttl| ttl.saturating_sub(current.since.elapsed()))
    }

    /// Extends the present login; where that is not possible, or gives less than half of what it had, logs in again.
    ///
    /// # Errors
    /// [`StoreError::Denied`] if the login can't be repeated, or what the server answers.
    pub async fn renew(&self) -> Result<(), StoreError> {
        let current = self.inner.current.load_full();
        if current.renewable {
            match current.renew().await {
                Ok((since, ttl)) if ttl * 2 >= current.ttl.unwrap_or_default() => {
                    self.inner.keep(&current, since, ttl);
                    return Ok(());
                }
                // It shrinks towards the token's longest life, or is past it.
                Ok(_) | Err(Fault::Api { .. }) => {}
                Err(fault) => return Err(fault.into_store_error(&self.inner.description, "renew the login")),
            }
        }
        self.inner.log_in_again(current.generation).await
    }

    /// Keeps the login alive: renews it when two thirds of its life are over, give or take a tenth. Never ends; spawn it,
    /// and abort it at the end.
    pub async fn keep_alive(&self) {
        loop {
            let Some(left) = self.login_ends_in() else { return std::future::pending().await };
            // Between 0.6 and 0.73, so that many hosts do not come at once.
            let share = 0.6 + f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0 * 0.13;
            tokio::time::sleep(left.mul_f64(share).max(Duration::from_secs(1))).await;
            if let Err(error) = self.renew().await {
                tracing::warn!(store = self.inner.description, %error, "the login could not be renewed");
            }
        }
    }
}

impl Inner {
    fn keep(&self, current: &LoggedIn, since: Instant, ttl: Duration) {
        // The session holds the token and can't be copied out of the shared one: it is made anew on the same connections.
        let token = crate::SecretValue::from(current.session.0.middle.token.as_str());
        self.current.store(Arc::new(LoggedIn {
            session: self.transport.session(Some(&token)),
            since,
            ttl: Some(ttl).filter(|ttl| !ttl.is_zero()),
            renewable: current.renewable,
            generation: current.generation,
        }));
    }

    /// Logs in again, unless another task has done so since the login of `generation`.
    async fn log_in_again(&self, generation: u64) -> Result<(), StoreError> {
        let _renewing = self.renewing.lock().await;
        if self.current.load().generation != generation {
            return Ok(());
        }
        if !self.login.is_repeatable() {
            return Err(StoreError::Denied {
                store: self.description.clone(),
                action: "any request with this token".to_owned(),
                detail: "it has expired or was revoked: give a new one".to_owned(),
            });
        }
        let logged_in = self.login.perform(&self.transport, &self.description, generation + 1).await?;
        self.current.store(Arc::new(logged_in));
        tracing::info!(store = self.description, "logged in again");
        Ok(())
    }

    /// Sends a request as often as its faults can pass, within the time limit. Also gives whether a try before the last
    /// may have been carried out.
    async fn send(&self, call: &Call) -> (Result<Answer, Failed>, bool) {
        let tries = if call.is_write() { self.limits.write_tries } else { self.limits.read_tries };
        let deadline = Instant::now() + tries;
        let mut pause = Duration::from_millis(50);
        let mut unsure = false;
        let mut checked_token = false;
        loop {
            let current = self.current.load_full();
            let index = self.index.load_full();
            let fault = match current.session.send(call, index.as_deref().map(String::as_str)).await {
                Ok(answer) => return (Ok(answer), unsure),
                Err(fault) => fault,
            };
            match fault.remedy() {
                Remedy::CheckToken if !checked_token && current.is_dead().await => {
                    checked_token = true;
                    if let Err(error) = self.log_in_again(current.generation).await {
                        return (Err(Failed::Store(error)), unsure);
                    }
                }
                Remedy::Again if Instant::now() + pause < deadline => {
                    unsure |= !matches!(fault, Fault::NotSent(_));
                    tracing::debug!(store = self.description, ?fault, "the request is sent again");
                    let jitter = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
                    tokio::time::sleep(pause.mul_f64(0.5 + jitter)).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                _ => {
                    unsure |= matches!(fault, Fault::Unanswered(_) | Fault::Api { code: 500..=599, .. });
                    return (Err(Failed::Vault(fault)), unsure);
                }
            }
        }
    }

    /// The path of `name` below one of the engine's roots: `data`, `metadata`, `destroy`.
    fn path(&self, root: &str, name: &SecretName) -> String {
        match &self.prefix {
            Some(prefix) => format!("{}/{root}/{prefix}/{name}", self.mount),
            None => format!("{}/{root}/{name}", self.mount),
        }
    }

    fn error(&self, failed: Failed, action: &str) -> StoreError {
        match failed {
            Failed::Store(error) => error,
            Failed::Vault(fault) => fault.into_store_error(&self.description, action),
        }
    }

    async fn read(&self, name: &SecretName, revision: Option<u64>) -> Result<Option<Answer>, Failed> {
        let query = revision.map(|revision| format!("version={revision}"));
        let call = Call { query, ..Call::get(self.path("data", name)) };
        match self.send(&call).await.0 {
            Ok(answer) => Ok(Some(answer)),
            Err(Failed::Vault(fault)) if fault.is_missing() && fault.deleted().is_none() => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Whether the write that bears `id` is the one that made `revision`.
    async fn is_ours(&self, name: &SecretName, revision: u64, id: Uuid) -> Result<bool, StoreError> {
        let answer = self.read(name, Some(revision)).await;
        let answer = answer.map_err(|failed| self.error(failed, &format!("read {name}")))?;
        let Some(answer) = answer else { return Ok(false) };
        let found =
            parse(&answer.body).and_then(|kv| kv.data).and_then(|data| write_id(&self.field, data.get().as_bytes()));
        Ok(found == Some(id))
    }

    /// Collects the names below a folder, which is empty or ends with a slash.
    async fn names_below(&self, root: &str) -> Result<Vec<SecretName>, StoreError> {
        let mut names = Vec::new();
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let path = format!("{root}/{folder}");
            let answer = match self.send(&Call::list(path.trim_end_matches('/').to_owned())).await.0 {
                Ok(answer) => answer,
                Err(Failed::Vault(fault)) if fault.is_missing() => continue,
                Err(failed) => return Err(self.error(failed, "list secrets")),
            };
            let listed: Listed = serde_json::from_slice(&answer.body).map_err(|_| self.not_understood())?;
            for key in listed.data.keys {
                let full = format!("{folder}{key}");
                if key.ends_with('/') {
                    if depth < MAX_DEPTH {
                        folders.push((full, depth + 1));
                    }
                } else if let Ok(name) = SecretName::new(full) {
                    // A name that is none of ours can't be asked for either.
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn not_understood(&self) -> StoreError {
        let detail = "its answer is not that of a KV version 2 engine: check the mount (`bao secrets list -detailed`)";
        StoreError::invalid(self.description.clone(), detail)
    }
}

/// Why a request failed: by the server's word, or because logging in again did.
enum Failed {
    Vault(Fault),
    Store(StoreError),
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    data: Kv<'a>,
}

#[derive(Deserialize)]
struct Kv<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: KvMetadata,
}

#[derive(Deserialize)]
struct KvMetadata {
    version: u64,
    created_time: Option<Timestamp>,
}

#[derive(Deserialize)]
struct WrittenAnswer {
    data: KvMetadata,
}

#[derive(Deserialize)]
struct Listed {
    data: Keys,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

fn parse(body: &[u8]) -> Option<Kv<'_>> {
    serde_json::from_slice::<Wrapped<'_>>(body).ok().map(|wrapped| wrapped.data)
}

#[async_trait]
impl SecretStore for VaultClient {
    fn describe(&self) -> String {
        self.inner.description.clone()
    }

    async fn load(&self, name: &SecretName) -> Result<Option<Document>, StoreError> {
        let inner = &self.inner;
        let answer = match inner.read(name, None).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(Failed::Vault(fault)) if fault.deleted().is_some() => {
                let body = fault.deleted().unwrap_or_default().as_bytes();
                let kv = parse(body).ok_or_else(|| inner.not_understood())?;
                return Ok(Some(Document::deleted(name.clone(), kv.metadata.version)));
            }
            Err(failed) => return Err(inner.error(failed, &format!("read {name}"))),
        };
        let kv = parse(&answer.body).ok_or_else(|| inner.not_understood())?;
        let written =
            Written { revision: kv.metadata.version, at: kv.metadata.created_time.unwrap_or(Timestamp::UNIX_EPOCH) };
        let data = kv.data.ok_or_else(|| inner.not_understood())?;
        decode(name, written, &inner.field, data.get().as_bytes()).map(Some)
    }

    async fn store(&self, document: &Document) -> Result<u64, StoreError> {
        let inner = &self.inner;
        let (name, expected) = (document.name(), document.revision());
        let id = Uuid::new_v4();
        let data = encode(document, &inner.field, id)?;
        let mut body = Zeroizing::new(Vec::with_capacity(data.len() + 64));
        body.extend_from_slice(format!("{{\"options\":{{\"cas\":{expected}}},\"data\":").as_bytes());
        body.extend_from_slice(&data);
        body.push(b'}');
        let (answer, unsure) = inner.send(&Call::post(inner.path("data", name), body)).await;
        match answer {
            Ok(answer) => {
                let written: WrittenAnswer =
                    serde_json::from_slice(&answer.body).map_err(|_| inner.not_understood())?;
                inner.index.store(answer.index.map(Arc::new));
                Ok(written.data.version)
            }
            Err(Failed::Vault(fault)) if fault.is_mismatch() => {
                if unsure && inner.is_ours(name, expected + 1, id).await? {
                    return Ok(expected + 1);
                }
                Err(StoreError::Moved { name: name.clone() })
            }
            Err(Failed::Vault(Fault::Unanswered(detail))) => {
                Err(StoreError::Unsettled { store: inner.description.clone(), name: name.clone(), detail })
            }
            Err(failed) => match inner.error(failed, &format!("write {name}")) {
                StoreError::Unreachable { store, detail } if unsure => {
                    Err(StoreError::Unsettled { store, name: name.clone(), detail })
                }
                error => Err(error),
            },
        }
    }

    async fn forget(&self, name: &SecretName, revisions: RangeInclusive<u64>) -> Result<(), StoreError> {
        let inner = &self.inner;
        let revisions: Vec<u64> = revisions.collect();
        let body = serde_json::json!({ "versions": revisions }).to_string().into_bytes();
        let call = Call::post(inner.path("destroy", name), Zeroizing::new(body));
        let destroyed = inner.send(&call).await.0;
        destroyed.map(drop).map_err(|failed| inner.error(failed, &format!("destroy old revisions of {name}")))
    }

    async fn list(&self) -> Result<Vec<SecretName>, StoreError> {
        let root = match &self.inner.prefix {
            Some(prefix) => format!("{}/metadata/{prefix}", self.inner.mount),
            None => format!("{}/metadata", self.inner.mount),
        };
        self.inner.names_below(&root).await
    }

    async fn delete(&self, name: &SecretName) -> Result<(), StoreError> {
        let inner = &self.inner;
        if self.load(name).await?.is_none() {
            return Err(not_found(name, None));
        }
        let deleted = inner.send(&Call::delete(inner.path("metadata", name))).await.0;
        deleted.map(drop).map_err(|failed| inner.error(failed, &format!("delete {name}")))
    }

    fn kept_versions(&self) -> usize {
        self.inner.kept_versions
    }
}
