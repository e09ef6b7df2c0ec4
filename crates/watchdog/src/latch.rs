//! The latch: what keeps everything stopped after an emergency until a person says otherwise (ISO 13850).
//!
//! One preallocated slot for all workloads and one for each name, in `STATE_DIR/latch/`, so that setting it needs no new
//! file and no free disk. A reset writes; it never removes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use estop_durable::slot::{self, Slot};
use estop_durable::{Kind, replace};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::job::ProcessId;

const KIND: Kind = Kind(*b"ESTOPLCH");
/// The slot that latches all workloads. No workload can have this name.
const ALL: &str = "ALL";

/// Why something is latched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Since when, RFC 3339 in UTC.
    pub since: String,
    /// Who set it: `operator`, `limit`, `file`.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The incident it belongs to.
    pub incident: String,
    /// Who is to record that, if not whoever has set this: while it lives, the record may still come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orderer: Option<ProcessId>,
}

impl Entry {
    /// One that is set now.
    pub fn now(by: &str, reason: &str, incident: &str) -> Self {
        Self {
            since: jiff::Timestamp::now().to_string(),
            by: by.to_owned(),
            reason: reason.to_owned(),
            incident: incident.to_owned(),
            orderer: None,
        }
    }
}

/// What is latched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latched {
    /// The latch of all workloads.
    pub all: Option<Entry>,
    /// The latches of single names.
    pub names: Vec<(String, Entry)>,
}

/// The latches of one state directory.
#[derive(Clone, Debug)]
pub struct Latch {
    dir: PathBuf,
}

/// A latch opened beforehand, so that setting it needs no path look-up.
#[derive(Debug)]
pub struct Handle {
    slot: Slot,
}

impl Latch {
    /// The latches below `state_dir`. Creates the directory and the slot for all workloads if they are absent.
    ///
    /// # Errors
    /// If they cannot be created.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let latch = Self::at(state_dir);
        replace::create_dir(&latch.dir, 0o700)?;
        Slot::create_or_open(&latch.path(None), KIND)?;
        Ok(latch)
    }

    /// The latches below `state_dir`, which may not exist.
    pub fn at(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("latch") }
    }

    /// Opens the latch of `name`, or of all workloads, creating its slot if it is absent.
    ///
    /// # Errors
    /// If it cannot be opened or created.
    pub fn handle(&self, name: Option<&str>) -> Result<Handle> {
        Ok(Handle { slot: Slot::create_or_open(&self.path(name), KIND)? })
    }

    /// What is latched.
    ///
    /// # Errors
    /// If a slot cannot be read: then it must be taken as latched.
    pub fn read(&self) -> Result<Latched> {
        let mut latched = Latched::default();
        if !self.was_opened() {
            return Ok(latched);
        }
        for name in self.names()? {
            if let Some(entry) = self.handle(Some(&name))?.read()? {
                latched.names.push((name, entry));
            }
        }
        latched.all = self.handle(None)?.read()?;
        Ok(latched)
    }

    /// The entry that keeps `name` from starting, if any.
    ///
    /// # Errors
    /// As for [`Latch::read`].
    pub fn holds(&self, name: &str) -> Result<Option<Entry>> {
        if !self.was_opened() {
            return Ok(None);
        }
        if let Some(entry) = self.handle(None)?.read()? {
            return Ok(Some(entry));
        }
        if self.path(Some(name)).exists() { self.handle(Some(name))?.read() } else { Ok(None) }
    }

    /// Releases the latch of `names`, or every latch if there are none. Returns what was released.
    ///
    /// # Errors
    /// If a slot cannot be read or written; those before it are released.
    pub fn reset(&self, names: &[String]) -> Result<Vec<String>> {
        let mut released = Vec::new();
        if !self.was_opened() {
            return Ok(released);
        }
        let all = if names.is_empty() { self.names()? } else { names.to_vec() };
        for name in all {
            if self.path(Some(&name)).exists() && self.handle(Some(&name))?.release()? {
                released.push(name);
            }
        }
        if names.is_empty() && self.handle(None)?.release()? {
            released.push(ALL.to_owned());
        }
        Ok(released)
    }

    /// Removes the latch of a name that nobody will use again.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget(&self, name: &str) -> Result<()> {
        use crate::error::Context as _;
        let path = self.path(Some(name));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", &path),
            _ => Ok(()),
        }
    }

    /// Whether there is anything in the place of the directory: what is no directory is not taken for no latch.
    fn was_opened(&self) -> bool {
        self.dir.symlink_metadata().map_or_else(|error| error.kind() != ErrorKind::NotFound, |_| true)
    }

    fn names(&self) -> Result<Vec<String>> {
        use crate::error::Context as _;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).on("list", &self.dir)? {
            let name = entry.on("list", &self.dir)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_prefix("name-")) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn path(&self, name: Option<&str>) -> PathBuf {
        self.dir.join(name.map_or_else(|| "all".to_owned(), |name| format!("name-{name}")))
    }
}

impl Handle {
    /// Sets the latch durably. A latch that is set already stays as it is, so that the first reason is kept.
    ///
    /// # Errors
    /// If the slot cannot be written.
    pub fn set(&self, entry: &Entry) -> Result<()> {
        if matches!(self.read(), Ok(Some(_))) {
            return Ok(());
        }
        Ok(self.slot.write(&encode(entry))?)
    }

    /// The entry, if it is set.
    ///
    /// # Errors
    /// If the slot is damaged or not understood.
    pub fn read(&self) -> Result<Option<Entry>> {
        let Some(payload) = self.slot.read()? else { return Ok(None) };
        if payload.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&payload).unwrap_or_else(|_| unreadable())))
    }

    /// Releases it; false if it was not set.
    fn release(&self) -> Result<bool> {
        // A slot that cannot be read counts as set.
        let was_set = !matches!(self.read(), Ok(None));
        if was_set {
            self.slot.write(b"")?;
        }
        Ok(was_set)
    }
}

/// A slot whose checksum holds and whose content is not understood comes from another version: it is set.
fn unreadable() -> Entry {
    Entry {
        since: String::new(),
        by: "unknown".to_owned(),
        reason: "set by another version of estop".to_owned(),
        incident: String::new(),
        orderer: None,
    }
}

/// The entry as it fits into the slot: the reason is what gets shortened.
fn encode(entry: &Entry) -> Vec<u8> {
    let mut entry = entry.clone();
    loop {
        let bytes = serde_json::to_vec(&entry).unwrap_or_default();
        if bytes.len() <= slot::LIMIT || entry.reason.is_empty() {
            return bytes;
        }
        let keep = entry.reason.chars().count() / 2;
        entry.reason = entry.reason.chars().take(keep).collect();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(reason: &str) -> Entry {
        let text = |text: &str| text.to_owned();
        let orderer = crate::guardian::process_id(std::process::id());
        let since = text("2026-01-01T00:00:00Z");
        Entry { since, by: text("operator"), reason: text(reason), incident: text("i"), orderer }
    }

    #[test]
    fn holds_until_reset_also_for_a_new_process() {
        let dir = tempfile::tempdir().unwrap();
        let latch = Latch::open(dir.path()).unwrap();
        assert!(latch.holds("a").unwrap().is_none());
        latch.handle(Some("a")).unwrap().set(&entry("first")).unwrap();
        latch.handle(Some("a")).unwrap().set(&entry("second")).unwrap();
        assert_eq!(Latch::open(dir.path()).unwrap().holds("a").unwrap().unwrap().reason, "first");
        assert!(latch.holds("b").unwrap().is_none());
        latch.handle(None).unwrap().set(&entry("all")).unwrap();
        assert_eq!(latch.holds("b").unwrap().unwrap().reason, "all");
        assert_eq!(latch.read().unwrap().names.len(), 1);
        assert_eq!(latch.reset(&["a".to_owned()]).unwrap(), ["a"]);
        assert!(latch.holds("a").unwrap().is_some(), "the latch of all still holds");
        assert_eq!(latch.reset(&[]).unwrap(), [ALL]);
        assert!(latch.holds("a").unwrap().is_none());
        assert!(latch.reset(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_long_reason_is_shortened_and_a_damaged_slot_holds() {
        let dir = tempfile::tempdir().unwrap();
        let latch = Latch::open(dir.path()).unwrap();
        latch.handle(None).unwrap().set(&entry(&"é".repeat(5000))).unwrap();
        assert!(latch.holds("x").unwrap().unwrap().reason.starts_with('é'));
        std::fs::write(dir.path().join("latch/all"), [7; 1024]).unwrap();
        assert!(latch.holds("x").is_err());
        assert_eq!(latch.reset(&[]).unwrap(), [ALL]);
        assert!(latch.holds("x").unwrap().is_none());
    }
}
