//! Files that only their owner may read. What that means stands in one file for each platform.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

use estop_durable::replace;
#[cfg(unix)]
use unix as platform;
#[cfg(windows)]
use windows as platform;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::error::from_durable;

/// No guarded file is longer.
const MAX_BYTES: u64 = 4096;

/// Reads a file of this user's that nobody else may read or write; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let file = match platform::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::storage("open", path, error)),
    };
    check(path, &file)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(4096)));
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| StoreError::storage("read", path, error))?;
    platform::unwrap(path, bytes).map(Some)
}

/// Creates a file that nobody else may read or write, durably. One that is there already is an error.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    replace::create_dir(parent, 0o700).map_err(|error| from_durable("create", parent, error))?;
    // The bytes are complete under a name of their own before they get the real one, and linking never replaces: so no
    // crash leaves half a key, and of two creators one fails.
    let temporary = parent.join(format!(".key.{}.new", uuid::Uuid::new_v4()));
    let linked = write_new(&temporary, bytes).and_then(|()| std::fs::hard_link(&temporary, path));
    let removed = std::fs::remove_file(&temporary);
    linked.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => StoreError::storage("create", path, "another process has just made it: try again"),
        _ => StoreError::storage("create", path, error),
    })?;
    removed.map_err(|error| StoreError::storage("remove", &temporary, error))?;
    replace::sync_dir(parent).map_err(|error| from_durable("synchronise", parent, error))
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let bytes = platform::wrap(bytes)?;
    let mut file = platform::make(path)?;
    file.write_all(&bytes)?;
    file.sync_all()
}

fn check(path: &Path, file: &File) -> Result<(), StoreError> {
    let failed = |error| StoreError::storage("look at", path, error);
    let metadata = file.metadata().map_err(failed)?;
    let fault = if !metadata.is_file() {
        Some("it is no ordinary file".to_owned())
    } else if metadata.len() > MAX_BYTES {
        Some(format!("it is longer than {MAX_BYTES} bytes"))
    } else {
        platform::exposure(file, &metadata).map_err(failed)?
    };
    fault.map_or(Ok(()), |fault| Err(StoreError::invalid(format!("the key file {}", path.display()), fault)))
}
