//! Finding a store by its name or path, and knowing who writes to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_integrity::root::{known_vault, remake};
use estop_integrity::snapshot::Retention;
use estop_integrity::store::{StoreConfig, default_vault};
use estop_integrity::writers::{Frozen, Hold, Writer};
use estop_integrity::{SnapshotManager, Store, Writers};
use estop_watchdog::guardian::Client;
use estop_watchdog::guardian::table::State;
use estop_watchdog::registry::{JobDir, RunDir};

use crate::config::Period;
use crate::failure::{Failure, Result};
use crate::site::Site;

/// The longest time that writers stand still for a snapshot. If whoever froze them dies, they go on after that.
const FREEZE_HOLD: Duration = Duration::from_secs(10);

/// Where a store is.
#[derive(Clone, Debug)]
pub struct Place {
    /// What people call it: the configured name, or the path.
    pub name: String,
    /// The directory, canonical where it exists.
    pub path: PathBuf,
    /// Its vault.
    pub vault: PathBuf,
    state_dir: PathBuf,
}

impl Place {
    /// Finds `store`: a configured name, or a directory's path.
    ///
    /// # Errors
    /// If it is neither.
    pub fn find(site: &Site, store: &str) -> Result<Self> {
        let configured = site.config.stores.get(store);
        let path = path_of(site, store);
        if configured.is_none() && !path.is_dir() && known_vault_of(site, store)?.is_some() {
            return Err(Failure::failed(
                format!("the directory {store} is gone; its snapshots are not"),
                format!(
                    "`estop rollback {store} --to SNAPSHOT` makes it anew; after `mkdir {store}`, `estop snapshot list {store}` shows them"
                ),
            ));
        }
        if configured.is_none() && !path.is_dir() {
            let names: Vec<&str> = site.config.stores.keys().map(String::as_str).collect();
            let hint = if names.is_empty() {
                "give a directory's path".to_owned()
            } else {
                format!("the stores are {}", names.join(", "))
            };
            return Err(Failure::usage(format!("{store} is neither a configured store nor a directory"), hint));
        }
        // A directory that is a configured store is that store, by whatever path it was given.
        if configured.is_none()
            && let Some(name) = name_of(site, &path)
        {
            return Self::find(site, &name);
        }
        site.open_state_dir()?;
        let path = dunce::canonicalize(&path).unwrap_or(path);
        let name = if configured.is_some() { store.to_owned() } else { path.display().to_string() };
        let vault = match configured.and_then(|configured| configured.vault.clone()) {
            Some(vault) => vault,
            None => default_vault(&site.state_dir, &name, &path)?,
        };
        Ok(Self { name, path, vault, state_dir: site.state_dir.clone() })
    }

    /// Makes the directory of `store` anew, empty, to be put back, where a program has taken it away, or put something else in
    /// its place, or closed it to its owner. Answers where what stood there was put aside. Does nothing for what no vault knows.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn remake(site: &Site, store: &str) -> Result<Option<PathBuf>> {
        let path = path_of(site, store);
        match known_vault_of(site, store)? {
            Some(vault) => Ok(remake(&path, &vault)?),
            None => Ok(None),
        }
    }

    /// Opens its snapshots.
    ///
    /// # Errors
    /// As [`Store::open`] and [`SnapshotManager::open`].
    pub fn open(&self) -> Result<SnapshotManager> {
        Ok(SnapshotManager::open(self.open_store()?)?)
    }

    /// Opens the store without reading its catalogue, to make that anew.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_store(&self) -> Result<Store> {
        let mut config = StoreConfig::new(self.name.clone(), self.path.clone(), self.vault.clone());
        config.apart_from = vec![self.state_dir.clone()];
        Ok(Store::open(config)?)
    }
}

/// Where `store` is, by its configured name or by itself.
fn path_of(site: &Site, store: &str) -> PathBuf {
    site.config.stores.get(store).map_or_else(|| PathBuf::from(store), |configured| configured.path.clone())
}

/// The vault that knows `store`, also where nothing is there any more.
fn known_vault_of(site: &Site, store: &str) -> Result<Option<PathBuf>> {
    let configured = site.config.stores.get(store);
    let vault = configured.and_then(|configured| configured.vault.as_deref());
    Ok(known_vault(&site.state_dir, configured.map(|_| store), vault, &path_of(site, store))?)
}

/// The configured store whose directory `path` is.
fn name_of(site: &Site, path: &Path) -> Option<String> {
    let wanted = dunce::canonicalize(path).ok()?;
    site.config
        .stores
        .iter()
        .find(|(_, store)| dunce::canonicalize(&store.path).ok().as_ref() == Some(&wanted))
        .map(|(name, _)| name.clone())
}

/// Which snapshots of `store` the configuration keeps; `None` if it keeps all.
pub fn retention(site: &Site, store: &str) -> Option<Retention> {
    let keep = site.config.stores.get(store)?.keep;
    if keep.is_everything() {
        return None;
    }
    let count = |number: Option<u32>| number.map_or(0, |number| usize::try_from(number).unwrap_or(usize::MAX));
    Some(Retention {
        last: count(keep.last),
        hourly: count(keep.hourly),
        daily: count(keep.daily),
        weekly: count(keep.weekly),
        monthly: count(keep.monthly),
        within: keep.within.map(Period::duration),
    })
}

/// The vaults of all configured stores, as far as they can be told: workloads must not see them.
pub fn vaults(site: &Site) -> Vec<PathBuf> {
    site.config.stores.keys().filter_map(|name| Place::find(site, name).ok()).map(|place| place.vault).collect()
}

/// The jobs that are known to write a store.
#[derive(Clone, Debug)]
pub struct JobWriters {
    run_dir: PathBuf,
    path: PathBuf,
}

impl JobWriters {
    /// The writers of the store at `place`.
    pub fn of(site: &Site, place: &Place) -> Self {
        Self { run_dir: site.run_dir.clone(), path: place.path.clone() }
    }

    fn jobs(&self) -> std::result::Result<Vec<(JobDir, bool)>, String> {
        let mut found = Vec::new();
        for dir in RunDir::at(&self.run_dir).jobs().map_err(|error| error.to_string())? {
            let Some(entry) = dir.entry().map_err(|error| error.to_string())? else { continue };
            if !entry.stores.contains(&self.path) {
                continue;
            }
            let alive = dir.is_alive().map_err(|error| error.to_string())?;
            let over = !alive && dir.outcome().ok().flatten().is_some();
            // Whoever has seen to its end may just be taking its directory away.
            let gone = || dir.entry().is_ok_and(|now| now.is_none_or(|now| now.id != entry.id));
            if !over && !gone() {
                found.push((dir, alive));
            }
        }
        Ok(found)
    }
}

impl Writers for JobWriters {
    fn freeze(&self) -> std::result::Result<Frozen, String> {
        let mut held = Vec::new();
        for (dir, _) in self.jobs()?.into_iter().filter(|(_, alive)| *alive) {
            let mut client = Client::new(&dir).map_err(|error| error.to_string())?;
            let thaws = client.freeze(Some(FREEZE_HOLD)).map_err(|error| error.to_string())?.thaws;
            held.push(Held { name: dir.name().to_owned(), client, thaws });
        }
        let names = self.jobs()?.iter().map(|(dir, _)| dir.name().to_owned()).collect();
        Ok(Frozen::new(names, AllHeld(held)))
    }

    fn alive(&self) -> std::result::Result<Vec<Writer>, String> {
        let mut writers = Vec::new();
        for (dir, alive) in self.jobs()? {
            let unproven = if alive {
                let state = Client::new(&dir).and_then(|mut client| client.status()).map(|status| status.state);
                matches!(state, Ok(State::Survivors))
            } else {
                // A guardian that died may have left its job behind, where the kernel does not end it with it.
                true
            };
            writers.push(Writer { name: dir.name().to_owned(), stop_unproven: unproven });
        }
        Ok(writers)
    }
}

/// The jobs that stand still until this is dropped.
struct AllHeld(Vec<Held>);

impl Hold for AllHeld {
    fn has_held(&mut self) -> std::result::Result<(), String> {
        self.0.iter_mut().try_for_each(Held::has_held)
    }
}

/// A job that stands still until this is dropped.
struct Held {
    name: String,
    client: Client,
    /// How often it had been thawed when it was frozen.
    thaws: u64,
}

impl Held {
    fn has_held(&mut self) -> std::result::Result<(), String> {
        let status = self.client.status().map_err(|error| error.to_string())?;
        let still = matches!(status.state, State::Frozen | State::Held) && status.thaws == self.thaws;
        if still { Ok(()) } else { Err(format!("{} did not stand still to the end of the snapshot", self.name)) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // If it does not hear this, the freeze ends by itself.
        let _ = self.client.end_lease();
    }
}
