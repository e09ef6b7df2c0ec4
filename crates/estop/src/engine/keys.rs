//! The secrets: which store holds them, how they are rotated, who gets them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use estop_secrets::cache::CachePolicy;
use estop_secrets::local::Options as LocalOptions;
use estop_secrets::notify::{Delivery, Limits, Notifier, SigningKey, Subscriber};
use estop_secrets::rotate::{Generate, Plan};
use estop_secrets::vault::{Login, Options as VaultOptions};
use estop_secrets::{
    EmbeddedStore, ExposureLedger, Rotator, SecretCache, SecretName, SecretStore, SecretValue, VaultClient,
};
use estop_watchdog::guardian::Client;
use estop_watchdog::registry::{JobDir, RunDir};

use crate::config::{self, Auth};
use crate::failure::{Failure, Result};
use crate::platform::files::give_like;
use crate::platform::words::signal_number;
use crate::site::Site;

/// Another process may rotate a secret at any moment, so that what is read is read afresh; the cache is for when it cannot be.
const MAX_AGE: std::time::Duration = std::time::Duration::from_millis(100);

/// The secrets of one estop.
#[derive(Clone)]
pub struct Keys {
    /// Where they are.
    pub store: Arc<dyn SecretStore>,
    /// What was read last, for the time while the store is away.
    pub cache: Arc<SecretCache>,
    /// Who received which version.
    pub ledger: Arc<ExposureLedger>,
    site: Site,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("store", &self.store.describe()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Opens the store that the configuration names: Vault, or the embedded one.
    ///
    /// # Errors
    /// If it cannot be opened or reached.
    pub async fn open(site: &Site) -> Result<Self> {
        site.open_state_dir()?;
        let store: Arc<dyn SecretStore> = if let Some(vault) = &site.config.vault {
            let client = VaultClient::connect(vault_options(vault)?).await?;
            let kept = client.clone();
            // Ends with the runtime that this process does its work on.
            tokio::spawn(async move { kept.keep_alive().await });
            Arc::new(client)
        } else {
            let options = LocalOptions::new(site.state_dir.join("secrets"), site.state_dir.join("secrets.key"))?;
            Arc::new(EmbeddedStore::open(options)?)
        };
        let ledger = Arc::new(ledger(site));
        let cache =
            Arc::new(SecretCache::new(Arc::clone(&store), CachePolicy { max_age: MAX_AGE, ..CachePolicy::default() }));
        Ok(Self { store, cache, ledger, site: site.clone() })
    }

    /// A rotator that tells the subscribers.
    pub fn rotator(&self) -> Rotator {
        let delivery: Arc<dyn Delivery> = Arc::new(ToGuardians { site: self.site.clone() });
        let notifier = Notifier::new(delivery, Some(Arc::clone(&self.ledger)), Limits::default());
        Rotator::new(Arc::clone(&self.store), Arc::new(notifier)).with_cache(Arc::clone(&self.cache))
    }

    /// How the secret `name` is rotated, as the configuration says.
    ///
    /// # Errors
    /// If no section of the configuration says how: a value of somebody else's making cannot be made up.
    pub async fn plan(&self, name: &SecretName) -> Result<Plan> {
        let Some(secret) = self.site.config.secrets.get(name.as_str()) else {
            return Err(Failure::failed(
                format!("nothing says how a new value of the secret {name} is made"),
                format!("add a section [secret.\"{name}\"] to the configuration"),
            ));
        };
        let kind = Generate {
            policy: secret.generate.policy(),
            test: secret.test.as_ref().map(|command| command.argv().to_vec()),
        };
        let mut subscribers = self.files_of(name);
        for subscriber in &secret.notify {
            subscribers.push(self.subscriber(subscriber).await);
        }
        // Who does not run has nothing to be told: it gets the new value when it is started.
        subscribers.retain(|subscriber| match subscriber {
            Subscriber::File { workload, .. } | Subscriber::Signal { workload, .. } => {
                RunDir::at(&self.site.run_dir).job(workload).is_alive().unwrap_or(false)
            }
            _ => true,
        });
        Ok(Plan { name: name.clone(), kind: Arc::new(kind), subscribers, overlap: secret.overlap.duration() })
    }

    /// The jobs that have `name` in a file: those files are replaced before anyone is told.
    fn files_of(&self, name: &SecretName) -> Vec<Subscriber> {
        let mut files = Vec::new();
        for dir in RunDir::at(&self.site.run_dir).jobs().unwrap_or_default() {
            let Ok(Some(entry)) = dir.entry() else { continue };
            let of_name = entry.secret_files.into_iter().filter(|(_, secret)| *secret == name.as_str());
            files.extend(of_name.map(|(file, _)| Subscriber::File { workload: entry.name.clone(), file }));
        }
        files
    }

    async fn subscriber(&self, subscriber: &config::Subscriber) -> Subscriber {
        match subscriber {
            config::Subscriber::Signal { signal, workload } => {
                Subscriber::Signal { signal: signal.clone(), workload: workload.clone() }
            }
            config::Subscriber::Exec(command) => Subscriber::Exec { command: command.argv().to_vec() },
            config::Subscriber::Webhook { url, key } => {
                let key = match key {
                    Some(key) => self.signing_key(key).await,
                    None => SigningKey::None,
                };
                Subscriber::Webhook { url: url.clone(), key }
            }
        }
    }

    /// A key that cannot be had keeps one from being told, but no leaked secret from being replaced.
    async fn signing_key(&self, name: &str) -> SigningKey {
        let read = async { Ok::<_, Failure>(self.store.read(&SecretName::new(name.to_owned())?, None).await?) };
        match read.await {
            Ok(secret) => SigningKey::Key(secret.value),
            Err(error) => SigningKey::Missing(format!("its signing key {name} cannot be had: {error}")),
        }
    }
}

/// The ledger of `site`.
pub fn ledger(site: &Site) -> ExposureLedger {
    ledger_in(&site.state_dir)
}

/// The ledger in `state_dir`.
pub fn ledger_in(state_dir: &std::path::Path) -> ExposureLedger {
    ExposureLedger::new(state_dir.join("exposure"))
}

/// The names of all secrets that `workloads` were ever given.
///
/// # Errors
/// If the ledger cannot be read.
pub fn exposed_to(ledger: &ExposureLedger, workloads: &[String]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for workload in workloads {
        names.extend(ledger.exposed_to(workload)?.into_keys().map(String::from));
    }
    Ok(names)
}

fn vault_options(vault: &config::Vault) -> Result<VaultOptions> {
    let login = match &vault.auth {
        Auth::Token { token_file } => Login::TokenFile(token_file.clone()),
        Auth::AppRole { role_id, secret_id_file } => {
            let text = std::fs::read_to_string(secret_id_file)
                .map_err(|error| Failure::io("read the secret id in", secret_id_file, &error))?;
            Login::AppRole {
                mount: "approle".to_owned(),
                role_id: role_id.clone(),
                secret_id: SecretValue::from(text.trim()),
            }
        }
    };
    let mut options = VaultOptions::new(vault.address.clone(), login);
    options.loopback_http = vault.allow_http_loopback;
    options.ca_file.clone_from(&vault.ca_file);
    options.namespace.clone_from(&vault.namespace);
    options.mount.clone_from(&vault.mount);
    if !vault.prefix.is_empty() {
        options.prefix = Some(SecretName::new(vault.prefix.clone())?);
    }
    Ok(options)
}

/// Reaches workloads through their guardians and their directories of secrets.
struct ToGuardians {
    site: Site,
}

impl ToGuardians {
    fn job(&self, workload: &str) -> std::result::Result<JobDir, String> {
        let dir = RunDir::at(&self.site.run_dir).job(workload);
        match dir.is_alive() {
            Ok(true) => Ok(dir),
            _ => Err(format!("{workload} does not run")),
        }
    }
}

#[async_trait]
impl Delivery for ToGuardians {
    async fn run_id(&self, workload: &str) -> std::result::Result<String, String> {
        let dir = self.job(workload)?;
        // A workload in an open emergency is given nothing until the reset.
        if let Ok(Some(_)) | Err(_) = self.site.latch().holds(workload) {
            return Err(format!("{workload} is latched"));
        }
        match dir.entry() {
            Ok(Some(entry)) => Ok(entry.id),
            Ok(None) => Err(format!("{workload} does not run")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn signal(&self, workload: &str, signal: &str) -> std::result::Result<(), String> {
        let dir = self.job(workload)?;
        let number = signal_number(signal).ok_or_else(|| format!("there is no signal {signal}"))?;
        let sent = tokio::task::spawn_blocking(move || Client::new(&dir)?.signal(number));
        sent.await.map_err(|error| error.to_string())?.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn replace_file(&self, workload: &str, file: &str, value: &SecretValue) -> std::result::Result<(), String> {
        let dir = self.job(workload)?;
        let (path, value) = (dir.secrets().join(file), value.clone());
        let replaced = tokio::task::spawn_blocking(move || replace_secret_file(&path, &value));
        replaced.await.map_err(|error| error.to_string())?
    }
}

/// Puts the value beside the old file and then in its place, owned as the old one was.
fn replace_secret_file(path: &std::path::Path, value: &SecretValue) -> std::result::Result<(), String> {
    let shown = |error: &dyn std::fmt::Display| format!("cannot replace {}: {error}", path.display());
    let parent = path.parent().ok_or_else(|| shown(&"it has no directory"))?;
    let mut fresh = tempfile::NamedTempFile::new_in(parent).map_err(|error| shown(&error))?;
    fresh.write_all(value.expose()).map_err(|error| shown(&error))?;
    give_like(fresh.as_file(), parent).map_err(|error| shown(&error))?;
    // Closed, so that it can be moved everywhere. What removes it when it is dropped finds nothing after that.
    let fresh = fresh.into_temp_path();
    estop_durable::file::rename(&fresh, path).map_err(|error| shown(&error))
}
