//! What is due by itself: snapshots, rotations, the end of old versions.

use std::sync::Arc;
use std::time::Duration;

use estop_integrity::progress::Silent;
use estop_integrity::{KBSnapshot, NewSnapshot, Origin, SnapshotManager};
use estop_secrets::SecretName;
use estop_secrets::rotate::Request;
use jiff::Timestamp;

use super::Brain;
use crate::engine::keys::Keys;
use crate::engine::stores::{JobWriters, Place, retention};
use crate::failure::{Failure, Result};
use crate::site::Site;

/// How often is looked what is due.
const LOOK: Duration = Duration::from_secs(1);
/// The snapshot that undoes a rollback is kept for so long, whatever the rules say.
const SAFETY_KEPT: Duration = Duration::from_hours(7 * 24);
/// After how long a store of secrets that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// How often versions are looked for whose overlap has ended.
const EXPIRY_LOOK: Duration = Duration::from_secs(30);

/// Does what is due, for as long as the brain runs.
pub(super) async fn run(brain: Arc<Brain>) {
    let mut last_expiry = tokio::time::Instant::now();
    let (mut resumed, mut next_try) = (false, tokio::time::Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        for name in brain.site.config.stores.keys() {
            let (site, name) = (brain.site.clone(), name.clone());
            let store = name.clone();
            match tokio::task::spawn_blocking(move || snapshot_if_due(&site, &store)).await {
                Ok(Err(error)) => tracing::error!(store = name, %error, "the scheduled snapshot"),
                Ok(Ok(())) => {}
                Err(error) => tracing::error!(store = name, %error, "the scheduled snapshot"),
            }
        }
        if let Some(keys) = keys(&brain, &mut next_try).await {
            if !resumed {
                resume_unfinished(&brain.site, keys).await;
                resumed = true;
            }
            let expire = last_expiry.elapsed() >= EXPIRY_LOOK;
            if expire {
                last_expiry = tokio::time::Instant::now();
            }
            rotate_due(&brain.site, keys, expire).await;
        }
    }
}

/// The secrets, where any are to be rotated and their store can be opened.
async fn keys<'a>(brain: &'a Brain, next_try: &mut tokio::time::Instant) -> Option<&'a Keys> {
    if brain.site.config.secrets.is_empty() || tokio::time::Instant::now() < *next_try {
        return None;
    }
    match brain.keys().await {
        Ok(keys) => Some(keys),
        Err(error) => {
            tracing::error!(%error, "the secrets cannot be opened");
            *next_try = tokio::time::Instant::now() + RETRY;
            None
        }
    }
}

fn snapshot_if_due(site: &Site, store: &str) -> Result<()> {
    let Some(definition) = site.config.stores.get(store) else { return Ok(()) };
    let Some(every) = definition.snapshot_every else { return Ok(()) };
    let place = Place::find(site, store)?;
    let manager = place.open()?;
    let last = manager.list()?.into_iter().next_back().map(|snapshot| snapshot.created);
    if last.is_some_and(|last| age(last) < every.duration()) {
        return Ok(());
    }
    let wanted = NewSnapshot { origin: Origin::Schedule, ..NewSnapshot::default() };
    manager.create(&wanted, &JobWriters::of(site, &place), &Silent)?;
    prune(site, store, &manager)
}

/// Rotates the snapshots of a store as configured; never while an incident is open.
fn prune(site: &Site, store: &str, manager: &SnapshotManager) -> Result<()> {
    let incidents = estop_recovery::IncidentStore::open(&site.incidents())?.list()?;
    if !incidents.damaged.is_empty() || incidents.incidents.iter().any(estop_recovery::Incident::is_open) {
        return Ok(());
    }
    let outlived = |snapshot: &KBSnapshot| {
        snapshot.pinned && snapshot.origin == Origin::BeforeRollback && age(snapshot.created) > SAFETY_KEPT
    };
    for snapshot in manager.list()?.iter().filter(|snapshot| outlived(snapshot)) {
        manager.pin(snapshot.id.as_str(), false)?;
    }
    if let Some(retention) = retention(site, store) {
        manager.prune(&retention, false)?;
    }
    Ok(())
}

/// Ends the rotations that a crash interrupted.
async fn resume_unfinished(site: &Site, keys: &Keys) {
    for name in site.config.secrets.keys() {
        let result = async {
            let name = SecretName::new(name.clone())?;
            if keys.store.load(&name).await?.is_none() {
                return Ok(());
            }
            let request = Request { reason: "resumed".to_owned(), ..Request::default() };
            if let Some(report) = keys.rotator().resume(&keys.plan(&name).await?, &request).await? {
                tracing::warn!(secret = %name, promoted = report.promoted, error = report.error, "an interrupted rotation was ended");
            }
            Ok::<(), Failure>(())
        };
        if let Err(error) = result.await {
            tracing::error!(secret = name, %error, "an interrupted rotation");
        }
    }
}

async fn rotate_due(site: &Site, keys: &Keys, expire: bool) {
    for (name, secret) in &site.config.secrets {
        let result = async {
            let name = SecretName::new(name.clone())?;
            let Some(document) = keys.store.load(&name).await? else { return Ok(()) };
            let since = document.info(document.current_version()).map(|info| info.created);
            let due =
                secret.rotate_every.is_some_and(|every| since.is_some_and(|since| age(since) >= every.duration()));
            let request = Request { reason: "scheduled".to_owned(), ..Request::default() };
            if due {
                let report = keys.rotator().rotate(&keys.plan(&name).await?, &request).await;
                tracing::info!(secret = %name, promoted = report.promoted, error = report.error, "scheduled rotation");
            } else if expire {
                keys.rotator().expire(&keys.plan(&name).await?, &request).await?;
            }
            Ok::<(), Failure>(())
        };
        if let Err(error) = result.await {
            tracing::error!(secret = name, %error, "scheduled rotation");
        }
    }
}

fn age(since: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default()
}
