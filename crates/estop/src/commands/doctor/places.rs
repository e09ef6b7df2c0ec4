//! This estop's own places: configuration, directories, stores, secrets, latch, clock.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use estop_integrity::store::default_vault;

use super::Check;
use crate::engine::keys::Keys;
use crate::engine::launch::block_on;
use crate::failure::Failure;
use crate::platform::files::{filesystem, filesystem_type};
use crate::platform::places::is_closed;
use crate::site::Site;

/// How long the store of secrets has to answer.
const SECRETS_LIMIT: Duration = Duration::from_secs(10);
/// 2025-01-01 in UTC, in seconds since 1970: no clock that is right shows less.
const EARLIEST: i64 = 1_735_689_600;

/// What there is of this estop.
pub(super) fn checks(site: &Site) -> Vec<Check> {
    let mut checks = vec![
        configuration(site),
        directory("state-directory", &site.state_dir),
        directory("run-directory", &site.run_dir),
    ];
    checks.extend(site.config.stores.keys().map(|name| store(site, name)));
    checks.extend([secrets(site), latch(site), clock(site)]);
    checks
}

fn configuration(site: &Site) -> Check {
    if !site.configured {
        return Check::ok("configuration", "no file; `estop run` needs none");
    }
    match site.check(None) {
        Ok(()) => {
            let (workloads, stores) = (site.config.workloads.len(), site.config.stores.len());
            Check::ok("configuration", format!("{workloads} workloads, {stores} stores"))
        }
        Err(failure) => Check::broken("configuration", failure.message, "`estop config check` shows the places"),
    }
}

/// A directory of estop's own: there, ours alone, writable; or to be made where that is possible.
fn directory(name: &str, path: &Path) -> Check {
    let shown = path.display();
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return absent(name, path),
        Err(error) => return Check::broken(name, format!("{shown}: {error}"), "check the path and its permissions"),
    };
    if !metadata.is_dir() {
        return Check::broken(name, format!("{shown} is no directory"), "remove it, or choose another path");
    }
    let rules = match is_closed(path) {
        Ok(rules) => rules,
        Err((detail, hint)) => return Check::broken(name, format!("{shown} {detail}"), hint),
    };
    // By trying: a full or read-only file system does not show in the mode.
    match tempfile::tempfile_in(path) {
        Ok(_) => Check::ok(name, format!("{shown}, {rules}, writable")),
        Err(error) => {
            Check::broken(name, format!("{shown} cannot be written: {error}"), "check the disk and how it is mounted")
        }
    }
}

fn absent(name: &str, path: &Path) -> Check {
    let above = existing(path);
    match tempfile::tempfile_in(&above) {
        Ok(_) => Check::ok(name, format!("{} will be made when it is needed", path.display())),
        Err(error) => {
            let detail = format!("{} is not there, and {} cannot be written: {error}", path.display(), above.display());
            Check::broken(name, detail, "choose another with --state-dir, or run estop as the user it belongs to")
        }
    }
}

/// The nearest directory above `path`, or itself, that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn store(site: &Site, name: &str) -> Check {
    let title = format!("store {name}");
    let Some(store) = site.config.stores.get(name) else { return Check::ok(title, "") };
    let vault = match store.vault.clone().map_or_else(|| default_vault(&site.state_dir, name, &store.path), Ok) {
        Ok(vault) => vault,
        Err(error) => return Check::broken(title, error.to_string(), "check `path` in the configuration"),
    };
    match (filesystem(&store.path), filesystem(&vault)) {
        (Some(one), Some(other)) if one == other => {
            let kind = filesystem_type(&store.path);
            let clones = if ["btrfs", "xfs", "bcachefs", "zfs"].contains(&kind.as_str()) {
                "clones files"
            } else {
                "copies files"
            };
            Check::ok(title, format!("{} on {kind}, which {clones}; vault {}", store.path.display(), vault.display()))
        }
        (Some(_), Some(_)) => Check::broken(
            title,
            format!("its vault {} is on another filesystem", vault.display()),
            "choose a `vault` on the store's own filesystem",
        ),
        _ => Check::broken(title, "its filesystem cannot be told", "check the paths"),
    }
}

fn secrets(site: &Site) -> Check {
    // Opening makes the embedded store with its key; looking should not.
    if site.config.vault.is_none() && !site.state_dir.join("secrets").exists() {
        return Check::ok("secrets", "the embedded store will be made when it is needed");
    }
    let opened = block_on(async {
        let open = async {
            let keys = Keys::open(site).await?;
            let names = keys.store.list().await?;
            Ok((keys.store.describe(), names.len()))
        };
        match tokio::time::timeout(SECRETS_LIMIT, open).await {
            Ok(opened) => opened,
            Err(_) => {
                Err(Failure::failed(format!("no answer in {} s", SECRETS_LIMIT.as_secs()), "check that Vault is there"))
            }
        }
    });
    match opened {
        Ok((where_, names)) => Check::ok("secrets", format!("{where_}: {names} secrets")),
        Err(failure) => {
            let hint =
                if failure.hint.is_empty() { "see docs/configuration.md, [vault]".to_owned() } else { failure.hint };
            Check::broken("secrets", failure.message, hint)
        }
    }
}

fn latch(site: &Site) -> Check {
    match site.latch().read() {
        Ok(latched) => {
            let all = latched.all.map(|entry| format!("everything, since {}: {}", entry.since, entry.reason));
            let names = latched
                .names
                .into_iter()
                .map(|(name, entry)| format!("{name}, since {}: {}", entry.since, entry.reason));
            let held: Vec<String> = all.into_iter().chain(names).collect();
            if held.is_empty() {
                return Check::ok("latch", "released");
            }
            Check::lacking("latch", format!("holds {}", held.join("; ")), "`estop status`, then `estop reset`")
        }
        Err(error) => Check::broken(
            "latch",
            format!("{error}; nothing starts while it cannot be read"),
            "check the disk; nothing repairs it by guessing",
        ),
    }
}

fn clock(site: &Site) -> Check {
    let now = SystemTime::now();
    if jiff::Timestamp::now().as_second() < EARLIEST {
        return Check::broken(
            "clock",
            format!("it shows {}", jiff::Timestamp::now()),
            "set it: tokens and certificates are judged by it",
        );
    }
    let latest = [site.critical_failures(), site.incidents(), site.state_dir.clone()];
    let ahead = latest
        .iter()
        .filter_map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok())
        .any(|time| time > now + Duration::from_secs(2));
    if ahead {
        return Check::lacking(
            "clock",
            "it shows an earlier time than estop's own files",
            "set it: recovery points by time depend on it",
        );
    }
    Check::ok("clock", jiff::Timestamp::now().to_string())
}
