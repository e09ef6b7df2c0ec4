//! `estop config …`.

use std::collections::HashSet;

use estop_secrets::local::Options;
use estop_secrets::{EmbeddedStore, SecretStore as _};
use serde_json::json;

use crate::cli::Output;
use crate::cli::args::ConfigCommand;
use crate::cli::output::counted;
use crate::config::KnownSecrets;
use crate::config::schema::schema;
use crate::engine::launch::block_on;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// Does what `command` says.
///
/// # Errors
/// All that is wrong with the configuration (2).
pub(super) fn config(site: &Site, command: &ConfigCommand, output: &Output) -> Result<Code> {
    match command {
        ConfigCommand::Check => check(site, output),
        ConfigCommand::Schema => {
            let schema = schema();
            output.result(&json!({"schema_version": 1, "schema": schema}), |_| format!("{schema:#}"));
            Ok(Code::Done)
        }
    }
}

/// The secrets that there are, without a section of the configuration.
pub(super) enum Present {
    /// Those of the embedded store.
    Listed(HashSet<String>),
    /// Those of a Vault, which is not asked: each is taken to be there, and is missed when it is needed.
    Unasked,
}

impl Present {
    /// Looks what is there. Makes nothing, and speaks to no server.
    ///
    /// # Errors
    /// If the embedded store is there and can't be opened.
    pub(super) fn find(site: &Site) -> Result<Self> {
        if site.config.vault.is_some() {
            return Ok(Self::Unasked);
        }
        let dir = site.state_dir.join("secrets");
        // Opening an empty store would make its key.
        let empty = std::fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .all(|entry| entry.path().extension().is_none_or(|extension| extension != "secret"));
        if empty {
            return Ok(Self::Listed(HashSet::new()));
        }
        let store = EmbeddedStore::open(Options::new(&dir, site.state_dir.join("secrets.key"))?)?;
        let names = block_on(async { Ok(store.list().await?) })?;
        Ok(Self::Listed(names.into_iter().map(String::from).collect()))
    }
}

impl KnownSecrets for Present {
    fn is_known(&self, name: &str) -> bool {
        match self {
            Self::Listed(names) => names.contains(name),
            Self::Unasked => true,
        }
    }
}

fn check(site: &Site, output: &Output) -> Result<Code> {
    if !site.configured {
        let hint = "name one with --config FILE; without one, estop works with its defaults";
        return Err(Failure::usage("there is no configuration file to check", hint));
    }
    let present = Present::find(site)?;
    site.check(Some(&present))?;
    let config = &site.config;
    let (workloads, stores, secrets) = (config.workloads.len(), config.stores.len(), config.secrets.len());
    let answer = json!({"schema_version": 1, "ok": true, "path": config.origin(),
        "workloads": workloads, "stores": stores, "secrets": secrets});
    output.result(&answer, |_| {
        format!(
            "{}: ok; {}, {}, {}",
            config.origin().display(),
            counted(workloads as u64, "workload", "workloads"),
            counted(stores as u64, "store", "stores"),
            counted(secrets as u64, "secret", "secrets"),
        )
    });
    if matches!(present, Present::Unasked) {
        output.note("the Vault was not asked whether the secrets are there");
    }
    Ok(Code::Done)
}
