//! Checking: a snapshot against what is stored, the live store against a snapshot, a database in a restored tree.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::content::{ContentId, HashOnly};
use crate::error::Context as _;
use crate::log::{Batches, Lsn};
use crate::observe::{Observer as _, Scan};
use crate::path::StorePath;
use crate::platform::{Privileges, meta_detail, same_meta};
use crate::progress::{Phase, Progress};
use crate::rollback::RecoveryPoint;
use crate::snapshot::{SCHEMA_VERSION, SnapshotId, SnapshotManager};
use crate::state::{Node, State, Version};
use crate::{Error, Result};

/// Why it is not known whether a file is as it was.
const UNREAD: &str = "it could not be read at that point: what it held is not known, and it is left as it is";

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Its bytes are not those of the snapshot.
    Content,
    /// Its metadata, or the record of it, is not that of the snapshot.
    Metadata,
    /// It is not there.
    Missing,
    /// It should not be there.
    Extra,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyError {
    /// The path; empty where it concerns the whole.
    pub path: String,
    /// What is wrong.
    pub kind: FaultKind,
    /// In words.
    pub detail: String,
}

impl VerifyError {
    fn new(path: &dyn std::fmt::Display, kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { path: path.to_string(), kind, detail: detail.into() }
    }
}

/// What a check found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The version of this object.
    pub schema_version: u32,
    /// The snapshot; `None` where the point was none.
    pub id: Option<SnapshotId>,
    /// The state that was checked.
    pub lsn: Lsn,
    /// Nothing is wrong.
    pub ok: bool,
    /// Files that were read.
    pub files_checked: u64,
    /// Bytes that were read.
    pub bytes_checked: u64,
    /// What is wrong.
    pub errors: Vec<VerifyError>,
}

impl SnapshotManager {
    /// Checks everything that restoring `point` needs: reads the log from its beginning, compares the catalogue with it and the
    /// state with the snapshot's checksum, and reads every content.
    ///
    /// # Errors
    /// [`Error::NoSuchPoint`] and its kin; what is wrong with the snapshot is no error but in the report.
    pub fn verify(&self, point: &RecoveryPoint, progress: &dyn Progress) -> Result<VerifyReport> {
        let inner = self.inner();
        let resolved = self.resolve(&inner, point)?;
        let mut errors = Vec::new();
        let state = match self.state_from_log(resolved.lsn) {
            Ok(state) => state,
            Err(error) => {
                errors.push(VerifyError::new(&"", FaultKind::Metadata, error.to_string()));
                inner.catalogue.state_at(resolved.lsn)?
            }
        };
        match inner.catalogue.state_at(resolved.lsn) {
            Ok(indexed) if indexed == state || errors.len() == 1 => {}
            Ok(indexed) if same_everywhere(&indexed, &state) => {}
            Ok(_) => {
                let detail =
                    format!("the catalogue differs from the log: run `estop snapshot rebuild {}`", self.store.name());
                errors.push(VerifyError::new(&"", FaultKind::Metadata, detail));
            }
            Err(error) => errors.push(VerifyError::new(&"", FaultKind::Metadata, error.to_string())),
        }
        if resolved.snapshot.as_ref().is_some_and(|snapshot| snapshot.checksum != state.checksum()) {
            errors.push(VerifyError::new(&"", FaultKind::Metadata, "the state does not match the snapshot's checksum"));
        }
        drop(inner);
        let (files_checked, bytes_checked) = self.check_contents(&state, &mut errors, progress);
        Ok(VerifyReport {
            schema_version: SCHEMA_VERSION,
            id: resolved.snapshot.map(|snapshot| snapshot.id),
            lsn: resolved.lsn,
            ok: errors.is_empty(),
            files_checked,
            bytes_checked,
            errors,
        })
    }

    /// Checks the live store against `point`, byte by byte.
    ///
    /// # Errors
    /// [`Error::NoSuchPoint`] and its kin; [`Error::Io`]. What differs is no error but in the report.
    pub fn verify_live(&self, point: &RecoveryPoint, progress: &dyn Progress) -> Result<VerifyReport> {
        let inner = self.inner();
        let resolved = self.resolve(&inner, point)?;
        let wanted = inner.catalogue.state_at(resolved.lsn)?;
        drop(inner);
        let found = Scan.observe(self.store.tree(), &State::default(), &HashOnly, progress)?;
        let mut live = State::default();
        live.apply(found.changes);
        let errors = compare(&wanted, &live, Privileges::Restore);
        let totals = live.totals();
        Ok(VerifyReport {
            schema_version: SCHEMA_VERSION,
            id: resolved.snapshot.map(|snapshot| snapshot.id),
            lsn: resolved.lsn,
            ok: errors.is_empty(),
            files_checked: totals.files,
            bytes_checked: totals.bytes,
            errors,
        })
    }

    fn state_from_log(&self, lsn: Lsn) -> Result<State> {
        let mut state = State::default();
        let mut batches = Batches::default();
        // The whole log is read, so that damage behind the point is noticed too.
        for record in self.log.read_from(1)? {
            let (at, mut record) = record?;
            if let Some(changes) = batches.take(&mut record).filter(|_| at <= lsn) {
                state.apply(changes);
            }
        }
        Ok(state)
    }

    fn check_contents(&self, state: &State, errors: &mut Vec<VerifyError>, progress: &dyn Progress) -> (u64, u64) {
        let mut checked: HashMap<ContentId, std::result::Result<(), (FaultKind, String)>> = HashMap::new();
        let (mut files, mut bytes) = (0, 0);
        errors.extend(unread(state));
        let total = state.0.len() as u64;
        for (done, (path, version)) in state.0.iter().enumerate() {
            files += u64::from(version.is_file());
            for id in version.contents() {
                let result = checked.entry(id).or_insert_with(|| {
                    let read = self.packs.read_to(&id, &mut std::io::sink());
                    read.map(|read| bytes += read).map_err(|error| match error {
                        Error::ContentMissing { .. } => (FaultKind::Missing, error.to_string()),
                        _ => (FaultKind::Content, error.to_string()),
                    })
                });
                if let Err((kind, detail)) = result {
                    errors.push(VerifyError::new(path, *kind, detail.clone()));
                }
            }
            progress.report(Phase::Checking, done as u64 + 1, total);
        }
        (files, bytes)
    }
}

/// Whether both have the same paths in the same state, however they were recognised.
fn same_everywhere(one: &State, other: &State) -> bool {
    one.0.len() == other.0.len() && one.0.iter().zip(&other.0).all(|((p, v), (q, w))| p == q && v.same_state(w))
}

/// What is wrong with `found`, if it should be `wanted`. What `privileges` withholds may be missing.
pub(crate) fn compare(wanted: &State, found: &State, privileges: Privileges) -> Vec<VerifyError> {
    let mut errors = Vec::new();
    for (path, version) in &wanted.0 {
        match found.0.get(path) {
            None => errors.push(VerifyError::new(path, FaultKind::Missing, "it is not there")),
            Some(there) => errors.extend(
                difference(version, there, privileges).map(|(kind, detail)| VerifyError::new(path, kind, detail)),
            ),
        }
    }
    // Histories from before the root was part of them do not know it.
    let extra = found.0.keys().filter(|path| !wanted.0.contains_key(path) && !path.is_root());
    errors.extend(extra.map(|path| VerifyError::new(path, FaultKind::Extra, "it was not there at that point")));
    errors
}

/// A path for which something failed, and why.
pub(crate) type Failure = (StorePath, Error);

/// Says with each path what failed there.
pub(crate) fn explain(errors: &mut Vec<VerifyError>, failures: Vec<Failure>) {
    for (path, failure) in failures {
        let (path, detail) = (path.to_string(), failure.to_string());
        match errors.iter_mut().find(|error| error.path == path) {
            Some(error) => error.detail = format!("{} ({detail})", error.detail),
            None => errors.push(VerifyError { path, kind: FaultKind::Metadata, detail }),
        }
    }
}

/// The files of a state that could not be read when it was observed.
pub(crate) fn unread(state: &State) -> Vec<VerifyError> {
    let lacking = state.0.iter().filter(|(_, version)| matches!(version.node, Node::File { content: None, .. }));
    lacking.map(|(path, _)| VerifyError::new(path, FaultKind::Content, UNREAD)).collect()
}

/// How `found` differs from `wanted`; nothing if it is what a restore may make of it.
pub(crate) fn difference(wanted: &Version, found: &Version, privileges: Privileges) -> Option<(FaultKind, String)> {
    if !wanted.node.same_kind(&found.node) {
        return Some((
            FaultKind::Content,
            "it is something else (a file, a directory or a link instead of another)".to_owned(),
        ));
    }
    if let (Node::File { content, size, link }, Node::File { content: there, size: length, link: linked }) =
        (&wanted.node, &found.node)
    {
        if content.is_none() {
            return Some((FaultKind::Content, UNREAD.to_owned()));
        }
        if content != there {
            return Some((FaultKind::Content, format!("its bytes differ ({length} bytes, {size} expected)")));
        }
        if link != linked {
            return Some((FaultKind::Metadata, "its hard links differ".to_owned()));
        }
    } else if wanted.node != found.node {
        return Some((FaultKind::Content, "it points elsewhere".to_owned()));
    }
    let symlink = matches!(wanted.node, Node::Symlink { .. });
    let same = same_meta(&wanted.meta, &found.meta, symlink)
        || same_meta(&privileges.allowed(&wanted.meta, !wanted.is_file()), &found.meta, symlink);
    (!same).then(|| (FaultKind::Metadata, meta_detail(&wanted.meta, &found.meta)))
}

/// Runs `PRAGMA integrity_check` on the `SQLite` database at `path`, changing nothing in its directory. If a WAL or a rollback journal
/// lies beside it, a temporary copy of them all is checked, as they would be taken into account.
///
/// # Errors
/// [`Error::Database`] with `SQLite`'s words if it is not sound or can't be opened; [`Error::Io`] if it can't be copied.
pub fn sqlite_integrity(path: &Path) -> Result<()> {
    let beside = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let pending = ["-wal", "-journal"].map(|suffix| (suffix, beside(path, suffix)));
    let pending: Vec<_> =
        pending.into_iter().filter(|(_, file)| file.metadata().is_ok_and(|it| it.len() > 0)).collect();
    if pending.is_empty() {
        return check_database(path, path, "immutable=1");
    }
    let scratch = tempfile::tempdir().context("make a temporary directory for", path)?;
    let copy = scratch.path().join("database");
    std::fs::copy(path, &copy).context("copy", path)?;
    for (suffix, file) in pending {
        std::fs::copy(&file, beside(&copy, suffix)).context("copy", &file)?;
    }
    check_database(&copy, path, "mode=rw")
}

/// Checks the database `file`, calling it `path`.
fn check_database(file: &Path, path: &Path, how: &str) -> Result<()> {
    let refused = |detail: String| Error::Database { path: path.to_owned(), detail };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(format!("file:{}?{how}", uri_path(file)), flags);
    let connection = opened.map_err(|error| refused(error.to_string()))?;
    let verdict = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
    match verdict {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(refused(verdict)),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// The path as `SQLite`'s URIs take it: every byte that could mean something, or is not ASCII, as `%HH`.
fn uri_path(path: &Path) -> String {
    let byte = |byte: &u8| match byte {
        b'/' | b'.' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(*byte).to_string(),
        other => format!("%{other:02X}"),
    };
    path.as_os_str().as_encoded_bytes().iter().map(byte).collect()
}
