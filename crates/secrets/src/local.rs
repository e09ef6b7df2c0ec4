//! The embedded store: secrets in encrypted files on this host.
//!
//! **One file for each secret.** A write then touches that secret alone, a damaged file costs that secret alone, and two
//! secrets can be written without rewriting the rest. File names are a keyed hash of the secret's name, so that a
//! directory listing tells nothing, and no name needs escaping on any filesystem.
//!
//! **What is not promised:** who can write the directory can put an older file back in place of a newer one, and who can
//! read the key file can read the secrets. Against both, keep them where only estop reaches.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use estop_durable::lock::Lock;
use estop_durable::replace;
use uuid::Uuid;

use crate::document::{DEFAULT_FIELD, Document, Written, decode, encode};
use crate::error::from_durable;
use crate::store::{DEFAULT_KEPT_VERSIONS, SecretStore, not_found};
use crate::{SecretName, StoreError};

mod file;
mod guarded;
mod key;

use file::Keys;
pub use key::{KEY_VARIABLE, KeySource};

/// How long a writer waits for another process's write.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Writers of one secret wait for each other; those of different ones rarely, as the secrets share so many locks.
const STRIPES: usize = 64;

/// The ending of a secret's file.
const EXTENSION: &str = "secret";

/// Where the store is, and how it is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of the encrypted files. Created with mode 0700 if absent.
    pub dir: PathBuf,
    /// Where the key comes from.
    pub key: KeySource,
    /// How many versions of a secret are kept.
    pub kept_versions: usize,
}

impl Options {
    /// The store in `dir` with its key from the environment variable [`KEY_VARIABLE`], or else from the file `key`,
    /// which is made on first use.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the variable is set and holds no key.
    pub fn new(dir: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Ok(Self { dir: dir.into(), key: KeySource::from_environment_or(key)?, kept_versions: DEFAULT_KEPT_VERSIONS })
    }
}

/// The embedded store. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    keys: Keys,
    kept_versions: usize,
    /// One for each lock file: within the process nobody needs to wait by trying.
    turns: [Mutex<()>; STRIPES],
}

impl EmbeddedStore {
    /// Opens the store, and makes it on first use.
    ///
    /// Blocks for a few file operations.
    ///
    /// # Errors
    /// [`StoreError::WrongKey`] if the key doesn't open what is there. [`StoreError::Invalid`] if the key file's mode or
    /// owner is wrong, or if secrets are there and the key file is not. Nothing is changed then.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let Options { dir, key, kept_versions } = options;
        replace::create_dir(&dir, 0o700).map_err(|error| from_durable("create", &dir, error))?;
        let _lock = lock(&dir.join("lock"))?;
        let files = secret_files(&dir)?;
        let keys = Keys::derive(&key.obtain(files.is_empty())?);
        for path in &files {
            keys.check(path)?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                keys,
                kept_versions: kept_versions.max(2),
                turns: [const { Mutex::new(()) }; STRIPES],
            }),
        })
    }

    /// Runs `work`, which waits for files, where waiting is allowed.
    async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let dir = self.inner.dir.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(StoreError::storage("use", &dir, error)))
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Inner {
    fn path(&self, name: &SecretName) -> PathBuf {
        self.dir.join(self.keys.file_name(name)).with_extension(EXTENSION)
    }

    /// Keeps other writers of the file at `path` out, in this process and in others.
    fn turn(&self, path: &Path) -> Result<(MutexGuard<'_, ()>, Lock), StoreError> {
        // File names are hexadecimal digits of a hash, so that two of them spread the secrets evenly.
        let digits = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.get(..2));
        let stripe = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or_default() % STRIPES;
        let turn = self.turns[stripe].lock().unwrap_or_else(PoisonError::into_inner);
        Ok((turn, lock(&self.dir.join(format!("lock-{stripe:02}")))?))
    }

    fn load(&self, name: &SecretName) -> Result<Option<Document>, StoreError> {
        let path = self.path(name);
        let Some(opened) = self.keys.read(&path)? else { return Ok(None) };
        if opened.name != *name {
            let detail = "it belongs to another secret".to_owned();
            return Err(StoreError::Damaged { what: path.display().to_string(), detail });
        }
        let written = Written { revision: opened.revision, at: jiff::Timestamp::UNIX_EPOCH };
        decode(name, written, DEFAULT_FIELD, &opened.document).map(Some)
    }

    fn store(&self, document: &Document) -> Result<u64, StoreError> {
        let name = document.name();
        let path = self.path(name);
        let _turn = self.turn(&path)?;
        // A file that can't be opened is an error here too, so that nothing damaged is ever overwritten.
        let found = self.keys.read(&path)?.map_or(0, |opened| opened.revision);
        if found != document.revision() {
            return Err(StoreError::Moved { name: name.clone() });
        }
        let revision = found + 1;
        let bytes = encode(document, DEFAULT_FIELD, Uuid::new_v4())?;
        self.keys.write(&path, name, revision, &bytes)?;
        Ok(revision)
    }

    fn list(&self) -> Result<Vec<SecretName>, StoreError> {
        let mut names = Vec::new();
        for path in secret_files(&self.dir)? {
            // One that was deleted since the listing is no error.
            if let Some(opened) = self.keys.read(&path)? {
                names.push(opened.name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn delete(&self, name: &SecretName) -> Result<(), StoreError> {
        let path = self.path(name);
        let _turn = self.turn(&path)?;
        match fs::remove_file(&path) {
            Ok(()) => replace::sync_dir(&self.dir).map_err(|error| from_durable("synchronise", &self.dir, error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found(name, None)),
            Err(error) => Err(StoreError::storage("remove", &path, error)),
        }
    }
}

#[async_trait]
impl SecretStore for EmbeddedStore {
    fn describe(&self) -> String {
        format!("the embedded store {}", self.inner.dir.display())
    }

    async fn load(&self, name: &SecretName) -> Result<Option<Document>, StoreError> {
        let name = name.clone();
        self.blocking(move |inner| inner.load(&name)).await
    }

    async fn store(&self, document: &Document) -> Result<u64, StoreError> {
        let document = document.clone();
        self.blocking(move |inner| inner.store(&document)).await
    }

    /// Nothing is kept of older revisions: the file is replaced as a whole.
    async fn forget(&self, _name: &SecretName, _revisions: RangeInclusive<u64>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SecretName>, StoreError> {
        self.blocking(Inner::list).await
    }

    async fn delete(&self, name: &SecretName) -> Result<(), StoreError> {
        let name = name.clone();
        self.blocking(move |inner| inner.delete(&name)).await
    }

    fn kept_versions(&self) -> usize {
        self.inner.kept_versions
    }
}

fn lock(path: &Path) -> Result<Lock, StoreError> {
    Lock::acquire(path, LOCK_TIMEOUT).map_err(|error| from_durable("lock", path, error))
}

fn secret_files(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(|error| StoreError::storage("list", dir, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| StoreError::storage("list", dir, error))?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
