//! A protected directory and its vault.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_durable::lock::Lock;
use estop_durable::{Kind, replace, sealed};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Context as _;
use crate::platform::{Stat, Tree, device_of, exposure, from_path, to_path};
use crate::{Error, Result};

const IDENTITY_KIND: Kind = Kind(*b"ESTOPVLT");
const IDENTITY_VERSION: u32 = 1;
const VAULT_MODE: u32 = 0o700;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// What people call it: the configured name, or the path they gave. Stands in answers and messages.
    pub name: String,
    /// The directory to protect.
    pub path: PathBuf,
    /// The directory for log, packs and trash, on the same filesystem; see [`default_vault`]. It is made if it is absent.
    pub vault: PathBuf,
    /// Directories that may not lie in the store, nor the store in them: estop's state directory, above all.
    pub apart_from: Vec<PathBuf>,
    /// How long to wait for another estop that has the store open.
    pub lock_wait: Duration,
}

impl StoreConfig {
    /// A store with nothing to stay apart from but its vault, waiting up to five seconds for another estop.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, vault: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            vault: vault.into(),
            apart_from: Vec::new(),
            lock_wait: Duration::from_secs(5),
        }
    }
}

/// A protected directory, open: this process alone works with its vault.
#[derive(Debug)]
pub struct Store {
    name: String,
    path: PathBuf,
    vault: PathBuf,
    apart_from: Vec<PathBuf>,
    identity: [u8; 16],
    tree: Tree,
    vault_tree: Tree,
    _lock: Lock,
}

/// What a vault says about itself.
#[derive(Serialize, Deserialize)]
struct Identity {
    vault: [u8; 16],
    /// The path's bytes.
    store: Vec<u8>,
}

impl Identity {
    fn store(&self) -> PathBuf {
        to_path(&self.store)
    }
}

impl Store {
    /// Opens the store, making its vault if there is none.
    ///
    /// # Errors
    /// One for each way in which the places don't fit: [`Error::StoreMissing`], [`Error::StoreNotDirectory`],
    /// [`Error::StoreIsSymlink`], [`Error::Overlap`], [`Error::OtherFilesystem`], [`Error::VaultExposed`],
    /// [`Error::VaultOfAnother`]; [`Error::Locked`] if another estop keeps it open.
    pub fn open(config: StoreConfig) -> Result<Self> {
        let path = check_directory(&config.path)?;
        let places = config.apart_from.iter().map(|other| ("the directory", other.as_path()));
        for (what, other) in places.chain([("the vault", config.vault.as_path())]) {
            refuse_overlap(&path, what, other)?;
        }
        let vault = resolve(&config.vault)?;
        refuse_other_filesystem(&path, &vault)?;
        replace::create_dir(&vault, VAULT_MODE)?;
        if let Some(detail) = exposure(&vault).context("look at", &vault)? {
            return Err(Error::VaultExposed { vault, detail });
        }
        let lock = match Lock::acquire(&vault.join("lock"), config.lock_wait) {
            Err(estop_durable::Error::Locked { .. }) => return Err(Error::Locked { store: path }),
            other => other?,
        };
        let tree = Tree::open(&path).context("open", &path)?;
        let vault_tree = Tree::open(&vault).context("open", &vault)?;
        if tree.device() != vault_tree.device() {
            return Err(Error::OtherFilesystem { store: path, vault });
        }
        let identity = identify(&vault_tree, &path)?;
        for part in ["packs", "staging", "transactions", "trash"] {
            replace::create_dir(&vault.join(part), VAULT_MODE)?;
        }
        let (name, apart_from) = (config.name, config.apart_from);
        Ok(Self { name, path, vault, apart_from, identity, tree, vault_tree, _lock: lock })
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The protected directory, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The vault's directory.
    pub fn vault(&self) -> &Path {
        &self.vault
    }

    /// Refuses a place for something restored that lies in the store, in its vault or in what it is to stay apart from.
    pub(crate) fn refuse_target(&self, target: &Path) -> Result<()> {
        let own = [self.path.as_path(), self.vault.as_path()];
        own.into_iter()
            .chain(self.apart_from.iter().map(PathBuf::as_path))
            .try_for_each(|place| refuse_overlap(place, "the target", target))
    }

    /// The vault's identity, made at random with it.
    pub(crate) fn identity(&self) -> [u8; 16] {
        self.identity
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn vault_tree(&self) -> &Tree {
        &self.vault_tree
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.vault.join("log")
    }

    pub(crate) fn packs_dir(&self) -> PathBuf {
        self.vault.join("packs")
    }

    pub(crate) fn catalogue_path(&self) -> PathBuf {
        self.vault.join("catalogue.sqlite")
    }
}

/// Where the vault of the store at `path` belongs: below the state directory if that is on the same filesystem (DIR/vaults/NAME),
/// else beside the store (`.estop-vault-NAME`). NAME is the store's name where it can be a file's, else a hash of the path.
///
/// # Errors
/// As [`Store::open`] for a `path` that is missing, no directory, or a symbolic link.
pub fn default_vault(state_dir: &Path, name: &str, path: &Path) -> Result<PathBuf> {
    let path = check_directory(path)?;
    let slug = slug(name, &path);
    let below_state = resolve(state_dir)?.join("vaults").join(&slug);
    if same_filesystem(&path, &below_state)? {
        return Ok(below_state);
    }
    let parent = path.parent().unwrap_or(&path);
    Ok(parent.join(format!(".estop-vault-{slug}")))
}

/// The name of the vault of the store at `path`, which is called `name`.
pub(crate) fn slug(name: &str, path: &Path) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(plain);
    if fits {
        return name.to_owned();
    }
    let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    hash[..16].to_owned()
}

/// Whether one of two directories is the other or lies in it, after following symbolic links. They need not exist.
///
/// # Errors
/// [`Error::Io`] if a part of a path can't be looked at.
pub fn overlap(one: &Path, other: &Path) -> Result<bool> {
    let (one, other) = (resolve(one)?, resolve(other)?);
    Ok(one.starts_with(&other) || other.starts_with(&one))
}

/// The canonical path of the directory `path`, refused if it isn't one or is reached through a link as its last part.
fn check_directory(path: &Path) -> Result<PathBuf> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::StoreMissing { path: path.to_owned() });
        }
        other => other.context("look at", path)?,
    };
    if found.is_symlink() {
        let target = fs::read_link(path).context("look at", path)?;
        return Err(Error::StoreIsSymlink { path: path.to_owned(), target });
    }
    if !found.is_dir() {
        return Err(Error::StoreNotDirectory { path: path.to_owned() });
    }
    dunce::canonicalize(path).context("resolve", path)
}

/// The canonical form of a path whose last parts may not exist yet.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).context("resolve", path)?;
    match dunce::canonicalize(&absolute) {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
            _ => Err(error).context("resolve", path),
        },
        Err(error) => Err(error).context("resolve", path),
    }
}

fn refuse_overlap(store: &Path, what: &'static str, other: &Path) -> Result<()> {
    if overlap(store, other)? {
        return Err(Error::Overlap { what, store: store.to_owned(), other: other.to_owned() });
    }
    Ok(())
}

fn refuse_other_filesystem(store: &Path, vault: &Path) -> Result<()> {
    if same_filesystem(store, vault)? {
        return Ok(());
    }
    Err(Error::OtherFilesystem { store: store.to_owned(), vault: vault.to_owned() })
}

/// Whether `place`, or the nearest directory above it that exists, is on the filesystem of `store`.
fn same_filesystem(store: &Path, place: &Path) -> Result<bool> {
    let existing = place.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(place);
    let there = device_of(existing).context("look at", existing)?;
    Ok(device_of(store).context("look at", store)? == there)
}

/// The store that a vault says it serves; `None` if there is no vault.
pub(crate) fn known_path(vault: &Path) -> Result<Option<PathBuf>> {
    Ok(known(vault)?.map(|identity| identity.store()))
}

fn known(vault: &Path) -> Result<Option<Identity>> {
    load(&vault.join("identity"), IDENTITY_KIND, IDENTITY_VERSION)
}

/// Reads what [`save`] has written; `None` if there is no such file.
pub(crate) fn load<T: DeserializeOwned>(file: &Path, kind: Kind, version: u32) -> Result<Option<T>> {
    let Some(bytes) = sealed::read(file, kind, version)? else { return Ok(None) };
    let damaged =
        |error: postcard::Error| estop_durable::Error::Damaged { path: file.to_owned(), detail: error.to_string() };
    Ok(Some(postcard::from_bytes(&bytes).map_err(damaged)?))
}

/// Writes a small value to a sealed file of its own in a vault.
pub(crate) fn save<T: Serialize>(file: &Path, kind: Kind, version: u32, value: &T) -> Result<()> {
    let bytes = postcard::to_stdvec(value).map_err(std::io::Error::other).context("record the store in", file)?;
    Ok(sealed::write(file, kind, version, &bytes)?)
}

/// Reads the vault's identity, or gives it one. A vault follows a store that was moved, but serves no second one.
fn identify(tree: &Tree, store: &Path) -> Result<[u8; 16]> {
    let vault = tree.path();
    let identity = match known(vault)? {
        Some(known) if known.store() == store => return Ok(known.vault),
        Some(known) if known.store().is_dir() => {
            return Err(Error::VaultOfAnother { vault: vault.into(), owner: known.store(), store: store.into() });
        }
        Some(known) => known.vault,
        None => new_identity(tree, store)?,
    };
    let renewed = Identity { vault: identity, store: from_path(store) };
    save(&vault.join("identity"), IDENTITY_KIND, IDENTITY_VERSION, &renewed)?;
    Ok(identity)
}

/// Unlike that of any other vault: from the moment, the places, and what tells the vault's directory from every other.
fn new_identity(vault: &Tree, store: &Path) -> Result<[u8; 16]> {
    let inode = vault.open_dir(&[]).and_then(|root| Stat::of(&root)).context("look at", vault.path())?.inode;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&jiff::Timestamp::now().as_nanosecond().to_le_bytes());
    hasher.update(&inode.to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(store.as_os_str().as_encoded_bytes());
    let mut identity = [0; 16];
    identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(identity)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn open(path: &Path, vault: &Path) -> Result<Store> {
        let mut config = StoreConfig::new("kb", path, vault);
        config.lock_wait = Duration::from_millis(20);
        Store::open(config)
    }

    #[test]
    fn places_that_do_not_fit_are_refused_each_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("kb/inner")).unwrap();
        fs::write(at("file"), "").unwrap();
        assert!(matches!(open(&at("absent"), &at("v")), Err(Error::StoreMissing { .. })));
        assert!(matches!(open(&at("file"), &at("v")), Err(Error::StoreNotDirectory { .. })));
        assert!(matches!(open(&at("kb"), &at("kb/v")), Err(Error::Overlap { .. })));
        assert!(matches!(open(&at("kb"), &at("kb")), Err(Error::Overlap { .. })));
        assert!(matches!(open(&at("kb/inner"), &at("kb")), Err(Error::Overlap { .. })));
        assert!(!at("v").exists(), "a vault was made for a store that was refused");
        let mut config = StoreConfig::new("kb", at("kb"), at("v"));
        config.apart_from = vec![at("kb/inner/state")];
        assert!(matches!(Store::open(config), Err(Error::Overlap { .. })));
        #[cfg(unix)]
        refused_through_links(dir.path());
        let memory = Path::new("/dev/shm");
        if memory.is_dir() && !same_filesystem(dir.path(), memory).unwrap() {
            let elsewhere = tempfile::tempdir_in(memory).unwrap();
            let refused = open(&at("kb"), &elsewhere.path().join("v"));
            assert!(matches!(refused, Err(Error::OtherFilesystem { .. })), "{refused:?}");
            assert_eq!(default_vault(elsewhere.path(), "kb", &at("kb")).unwrap(), {
                dunce::canonicalize(dir.path()).unwrap().join(".estop-vault-kb")
            });
        }
    }

    #[cfg(unix)]
    fn refused_through_links(dir: &Path) {
        use std::os::unix::fs::symlink;
        symlink(dir.join("kb"), dir.join("link")).unwrap();
        symlink(dir.join("kb/inner"), dir.join("door")).unwrap();
        assert!(matches!(open(&dir.join("link"), &dir.join("v")), Err(Error::StoreIsSymlink { .. })));
        assert!(matches!(open(&dir.join("kb"), &dir.join("door/v")), Err(Error::Overlap { .. })));
    }

    #[test]
    fn a_vault_serves_one_store_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("kb")).unwrap();
        fs::create_dir(at("other")).unwrap();
        let store = open(&at("kb"), &at("v")).unwrap();
        let refused = open(&at("kb"), &at("v")).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }) && refused.is_refusal());
        let identity = store.identity();
        drop(store);
        assert!(matches!(open(&at("other"), &at("v")), Err(Error::VaultOfAnother { .. })));
        fs::rename(at("kb"), at("moved")).unwrap();
        assert_eq!(open(&at("moved"), &at("v")).unwrap().identity(), identity);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(at("v"), fs::Permissions::from_mode(0o750)).unwrap();
        }
        #[cfg(windows)]
        {
            fs::rename(at("v"), at("private")).unwrap();
            fs::create_dir(at("v")).unwrap();
        }
        let refused = open(&at("moved"), &at("v"));
        assert!(matches!(refused, Err(Error::VaultExposed { .. })), "{refused:?}");
    }

    #[test]
    fn a_default_vault_has_the_stores_name_or_a_hash() {
        let dir = tempfile::tempdir().unwrap();
        let kb = dir.path().join("kb");
        fs::create_dir(&kb).unwrap();
        let state = dunce::canonicalize(dir.path()).unwrap().join("state");
        assert_eq!(default_vault(&state, "kb", &kb).unwrap(), state.join("vaults/kb"));
        for name in ["/some/path", "..", "", "a b"] {
            let vault = default_vault(&state, name, &kb).unwrap();
            assert_eq!(vault.parent().unwrap(), state.join("vaults"));
            assert_eq!(vault.file_name().unwrap().len(), 16, "{name:?}");
        }
    }
}
