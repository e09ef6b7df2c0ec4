//! Paths and how they lie to each other: no store in another, none in estop's own directories, no vault in a store.

use std::fs;
use std::path::{Component, Path, PathBuf};

use estop_integrity::root::known_vault;

use super::Surroundings;
use crate::config::{Config, KeyPath, Problem};
use crate::platform::files::filesystem;

/// A directory that has a place in the configuration, or is estop's own.
struct Place {
    /// Where to point.
    key: KeyPath,
    /// For messages: "the store kb".
    what: String,
    /// As it was written, made absolute.
    written: PathBuf,
    /// Without links, as far as it exists.
    real: PathBuf,
}

impl Place {
    fn new(key: KeyPath, what: String, path: &Path) -> Self {
        Self { key, what, written: path.to_owned(), real: real(path) }
    }
}

pub(super) fn check(config: &Config, surroundings: &Surroundings<'_>, problems: &mut Vec<Problem>) {
    let mut stores = Vec::new();
    let mut vaults = Vec::new();
    for (name, store) in &config.stores {
        let key = KeyPath::section("store").key(name);
        let place = Place::new(key.clone().key("path"), format!("the store {name}"), &store.path);
        // A program has taken away what the vault knows. That is no fault of the configuration, and must keep nobody from putting
        // it back.
        let is_lost = || {
            let vault = known_vault(&surroundings.state_dir, Some(name), store.vault.as_deref(), &store.path);
            matches!(vault, Ok(Some(_)))
        };
        if !is_directory(&place, is_lost, problems) {
            continue;
        }
        if let Some(vault) = &store.vault {
            let vault = Place::new(key.key("vault"), format!("the vault of the store {name}"), vault);
            if filesystem(&vault.real) != filesystem(&place.real) {
                problems.push(Problem::at(
                    vault.key.clone(),
                    format!("{} is not on the same filesystem as the store", vault.what),
                    "a rollback exchanges files between the two: put it beside the store",
                ));
            }
            vaults.push(vault);
        }
        stores.push(place);
    }
    let section = KeyPath::section("estop");
    let own = [
        Place::new(section.clone().key("state_dir"), "the state directory".into(), &surroundings.state_dir),
        Place::new(section.key("run_dir"), "the run directory".into(), &surroundings.run_dir),
    ];
    pairs(&stores, problems);
    pairs(&vaults, problems);
    for store in &stores {
        for vault in &vaults {
            overlap(vault, store, "put the vault outside of every store", problems);
        }
        for directory in &own {
            overlap(store, directory, "a rollback must never touch estop's own state: move one of them", problems);
        }
    }
}

fn is_directory(place: &Place, is_lost: impl Fn() -> bool, problems: &mut Vec<Problem>) -> bool {
    let found = fs::metadata(&place.written);
    if !found.as_ref().is_ok_and(fs::Metadata::is_dir) && is_lost() {
        return true;
    }
    let (message, hint) = match found {
        Ok(metadata) if metadata.is_dir() && place.real.parent().is_some() => return true,
        Ok(metadata) if metadata.is_dir() => {
            (format!("{} can't be all of the filesystem", place.what), "name a directory below".to_owned())
        }
        Ok(_) => (
            format!("{} is no directory: {}", place.what, place.written.display()),
            "name the directory it is in".to_owned(),
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (
            format!("{} does not exist: {}", place.what, place.written.display()),
            format!("mkdir -p {}", place.written.display()),
        ),
        Err(error) => (
            format!("{} can't be read: {}: {error}", place.what, place.written.display()),
            "give estop access to it".to_owned(),
        ),
    };
    problems.push(Problem::at(place.key.clone(), message, hint));
    false
}

fn pairs(places: &[Place], problems: &mut Vec<Problem>) {
    for (index, later) in places.iter().enumerate() {
        for earlier in &places[..index] {
            overlap(later, earlier, "each must have a directory of its own: move one of them", problems);
        }
    }
}

/// Refuses two directories of which one lies in the other. The problem is shown at `here`.
fn overlap(here: &Place, there: &Place, hint: &str, problems: &mut Vec<Problem>) {
    let relation = if here.real == there.real {
        "is the same directory as"
    } else if here.real.starts_with(&there.real) {
        "lies in"
    } else if there.real.starts_with(&here.real) {
        "contains"
    } else {
        return;
    };
    let message = format!("{} {relation} {} ({})", here.what, there.what, there.real.display());
    problems.push(Problem::at(here.key.clone(), message, hint));
}

/// The path without links and dots: what exists of it as the system sees it, the rest by its words.
fn real(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (dunce::canonicalize(ancestor), path.strip_prefix(ancestor)) {
            return rest.components().fold(real, |mut real, component| {
                match component {
                    Component::ParentDir => drop(real.pop()),
                    Component::CurDir => {}
                    other => real.push(other),
                }
                real
            });
        }
    }
    path.to_owned()
}
