//! The stores and secrets of `estop status`.

use std::collections::BTreeSet;
use std::time::Duration;

use estop_integrity::SnapshotManager;
use estop_integrity::progress::Silent;
use estop_secrets::{SecretName, VersionState};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::engine::keys::Keys;
use crate::engine::launch::block_on;
use crate::engine::stores::Place;
use crate::failure::{Failure, Result};
use crate::site::Site;

/// Comparing a larger store with its last snapshot takes longer than a glance may.
const GLANCE_FILES: u64 = 20_000;
/// How long the secrets may take to answer.
const SECRETS_WAIT: Duration = Duration::from_secs(3);

/// The configured stores.
pub(super) fn stores(site: &Site) -> Vec<Value> {
    site.config
        .stores
        .iter()
        .map(|(name, store)| {
            let found = Place::find(site, name).and_then(|place| place.open()).and_then(|manager| describe(&manager));
            match found {
                Ok(Value::Object(mut fields)) => {
                    fields.insert("name".to_owned(), json!(name));
                    fields.insert("path".to_owned(), json!(store.path));
                    Value::Object(fields)
                }
                Ok(_) => Value::Null,
                Err(failure) => json!({"name": name, "path": store.path, "error": failure.message}),
            }
        })
        .collect()
}

fn describe(manager: &SnapshotManager) -> Result<Value> {
    let last = manager.list()?.into_iter().next_back();
    let created = last.as_ref().map(|last| last.created);
    if let Some(last) = last.filter(|last| last.files > GLANCE_FILES) {
        return Ok(
            json!({"lsn": manager.lsn(), "files": last.files, "bytes": last.bytes, "last_snapshot": created, "dirty_files": null}),
        );
    }
    let status = manager.status(&Silent)?;
    Ok(
        json!({"lsn": status.lsn, "files": status.files, "bytes": status.bytes, "last_snapshot": created, "dirty_files": status.dirty_files}),
    )
}

/// The secrets, without their values. Nothing is made if there are none.
pub(super) fn secrets(site: &Site) -> Vec<Value> {
    if site.config.vault.is_none() && !site.state_dir.join("secrets").is_dir() {
        return Vec::new();
    }
    let listed = block_on(async {
        let away = |_| Failure::failed("the secret store does not answer", "see `estop doctor`");
        tokio::time::timeout(SECRETS_WAIT, list(site)).await.map_err(away)?
    });
    listed.unwrap_or_else(|failure| vec![json!({"error": failure.message})])
}

async fn list(site: &Site) -> Result<Vec<Value>> {
    let keys = Keys::open(site).await?;
    let mut secrets = Vec::new();
    for name in keys.store.list().await? {
        secrets.push(secret(site, &keys, &name).await?);
    }
    Ok(secrets)
}

async fn secret(site: &Site, keys: &Keys, name: &SecretName) -> Result<Value> {
    let current = keys.store.versions(name).await?.into_iter().find(|version| version.state == VersionState::Current);
    let every = site.config.secrets.get(name.as_str()).and_then(|secret| secret.rotate_every);
    let exposed: BTreeSet<String> = keys.ledger.exposure(name)?.into_iter().map(|exposure| exposure.workload).collect();
    let age = current.as_ref().map(|current| Timestamp::now().duration_since(current.created).as_secs_f64());
    let next =
        current.as_ref().zip(every).and_then(|(current, every)| current.created.checked_add(every.duration()).ok());
    Ok(
        json!({"name": name, "version": current.map(|current| current.version), "age_seconds": age, "next_rotation": next, "exposed_to": exposed}),
    )
}
