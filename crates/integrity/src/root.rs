//! A store's own directory: noted with each snapshot, and made anew where a program has taken it away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use estop_durable::{Kind, replace};

use crate::error::Context as _;
use crate::platform::{Ownership, let_owner_in};
use crate::store::{known_path, load, resolve, save, slug};
use crate::{Error, Result};

const KIND: Kind = Kind(*b"ESTOPRUT");
const VERSION: u32 = 1;
/// So many names are tried for what stands in a store's place.
const NAMES: u32 = 10_000;

fn file(vault: &Path) -> PathBuf {
    vault.join("root")
}

fn read(vault: &Path) -> Result<Option<Ownership>> {
    load(&file(vault), KIND, VERSION)
}

/// Notes whose the store at `path` is, in its vault.
pub(crate) fn note(path: &Path, vault: &Path) -> Result<()> {
    let root = Ownership::of(path).context("look at", path)?;
    // What cannot be read is written anew.
    if matches!(read(vault), Ok(Some(known)) if known == root) {
        return Ok(());
    }
    save(&file(vault), KIND, VERSION, &root)
}

/// The vault that knows the store at `path`, which need not be there any more: the `configured` one, or where
/// [`default_vault`](crate::store::default_vault) has put that of a store called `name`. Without a name it is called by its path.
///
/// # Errors
/// [`Error::Io`] or [`Error::Durable`] if it cannot be looked for.
pub fn known_vault(
    state_dir: &Path,
    name: Option<&str>,
    configured: Option<&Path>,
    path: &Path,
) -> Result<Option<PathBuf>> {
    let path = place(path)?;
    let candidates = if let Some(vault) = configured {
        vec![vault.to_owned()]
    } else {
        let slug = slug(name.unwrap_or(&path.display().to_string()), &path);
        let beside = path.parent().unwrap_or(&path).join(format!(".estop-vault-{slug}"));
        vec![resolve(state_dir)?.join("vaults").join(&slug), beside]
    };
    for vault in candidates {
        if known_path(&vault)?.as_deref() == Some(&path) {
            return Ok(Some(vault));
        }
    }
    Ok(None)
}

/// Makes the directory of the store at `path` anew, empty, if it is gone or something else stands in its place: that is put
/// aside, not removed. Answers where it was put. If the directory is there, no more is done than to let its owner use it.
///
/// # Errors
/// [`Error::StoreMissing`] if `vault` does not know a store there; [`Error::Io`] if it cannot be made.
pub fn remake(path: &Path, vault: &Path) -> Result<Option<PathBuf>> {
    let path = place(path)?;
    let found = match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => {
            // A program can close its own directory to everybody, its owner too.
            return let_owner_in(&path).context("open to its owner", &path).map(|()| None);
        }
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("look at", &path),
    };
    if known_path(vault)?.as_deref() != Some(&path) {
        return Err(Error::StoreMissing { path });
    }
    let aside = found.map(|_| put_aside(&path)).transpose()?;
    let root = read(vault)?.unwrap_or_else(|| Ownership::private(&path));
    replace::create_dir(&path, 0o700)?;
    root.give(&path).context("give back", &path)?;
    Ok(aside)
}

fn put_aside(path: &Path) -> Result<PathBuf> {
    for number in 1..NAMES {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".aside-{number}"));
        let aside = path.with_file_name(name);
        if fs::symlink_metadata(&aside).is_err() {
            fs::rename(path, &aside).context("put aside", path)?;
            return Ok(aside);
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists)).context("find a name beside", path)
}

/// The path without links, but for its last part, which is what matters here.
fn place(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).context("resolve", path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
        _ => Ok(absolute),
    }
}
