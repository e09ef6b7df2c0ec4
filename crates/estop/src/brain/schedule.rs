//! What is due by itself: snapshots, rotations, the end of old versions.

use std::collections::HashMap;
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
/// After how long a store is looked at in any case: the clock may have been set, or somebody else made a snapshot.
const STORE_LOOK: Duration = Duration::from_mins(1);
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
    let mut next_look = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        for (name, store) in &brain.site.config.stores {
            let Some(every) = store.snapshot_every else { continue };
            let now = tokio::time::Instant::now();
            if next_look.get(name).is_none_or(|next| *next <= now) {
                let left = look_at_store(&brain.site, name, every.duration()).await;
                next_look.insert(name, now + left.clamp(LOOK, STORE_LOOK));
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

/// Makes the snapshot of a store that is due. How long it is until the next one.
async fn look_at_store(site: &Site, store: &str, every: Duration) -> Duration {
    let (site, name) = (site.clone(), store.to_owned());
    match tokio::task::spawn_blocking(move || snapshot_if_due(&site, &name, every)).await {
        Ok(Ok(left)) => return left,
        Ok(Err(error)) => tracing::error!(store, %error, "the scheduled snapshot"),
        Err(error) => tracing::error!(store, %error, "the scheduled snapshot"),
    }
    LOOK
}

fn snapshot_if_due(site: &Site, store: &str, every: Duration) -> Result<Duration> {
    let place = Place::find(site, store)?;
    let manager = place.open()?;
    let last = manager.list()?.into_iter().next_back().map(|snapshot| snapshot.created);
    if let Some(left) = last.and_then(|last| every.checked_sub(age(last))).filter(|left| !left.is_zero()) {
        return Ok(left);
    }
    let wanted = NewSnapshot { origin: Origin::Schedule, ..NewSnapshot::default() };
    manager.create(&wanted, &JobWriters::of(site, &place), &Silent)?;
    prune(site, store, &manager)?;
    Ok(every)
}

/// Rotates the snapshots of a store as configured; never while an incident is open, or a workload of the store is latched:
/// until a person has looked, the newest snapshots may be of the damage, and an old one may be the good one.
fn prune(site: &Site, store: &str, manager: &SnapshotManager) -> Result<()> {
    let incidents = estop_recovery::IncidentStore::open(&site.incidents())?.list()?;
    if !incidents.damaged.is_empty() || incidents.incidents.iter().any(estop_recovery::Incident::is_open) {
        return Ok(());
    }
    let latch = site.latch();
    for (name, workload) in &site.config.workloads {
        let concerned = workload.stores.iter().chain(&workload.protect).any(|written| written == store);
        if concerned && latch.holds(name)?.is_some() {
            return Ok(());
        }
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
            if secret.rotate_every.is_none() && !expire {
                return Ok(());
            }
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
