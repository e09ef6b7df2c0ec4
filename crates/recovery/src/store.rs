//! The folder of incidents: one sealed file each, and a lock beside it for whoever works on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use estop_durable::lock::Lock;
use estop_durable::{Kind, replace, sealed};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::incident::{Incident, IncidentId, StepKind};
use crate::{Error, Result, SCHEMA_VERSION};

const KIND: Kind = Kind(*b"INCIDENT");
const FORMAT: u32 = 1;
const EXTENSION: &str = "incident";
const LOCK_EXTENSION: &str = "lock";

/// Where a saga makes its incident durable.
pub trait Journal: Send + Sync + 'static {
    /// Makes the incident, as it stands, durable. All or nothing: a crash leaves this state or the one before.
    ///
    /// # Errors
    /// Where it is not durable on return.
    fn save(&self, incident: &Incident) -> Result<()>;
}

/// The right to work on one incident. Dropping it, or the end of the process, gives it back.
#[derive(Debug)]
#[must_use = "the incident is free for others as soon as this is dropped"]
pub struct Claim {
    _lock: Lock,
}

/// The incidents of a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those that can be read, newest first.
    pub incidents: Vec<Incident>,
    /// Why the others can't. They were left as they are.
    pub damaged: Vec<Error>,
}

/// The incidents of one state directory.
#[derive(Clone, Debug)]
pub struct IncidentStore {
    dir: PathBuf,
}

impl IncidentStore {
    /// The store in `dir`, which is created (mode 0700) if it is absent.
    ///
    /// # Errors
    /// [`Error::Durable`] if it can't be created.
    pub fn open(dir: &Path) -> Result<Self> {
        replace::create_dir(dir, 0o700)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Takes the right to work on an incident.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody else has it; [`Error::Durable`] if the lock can't be opened.
    pub fn claim(&self, id: IncidentId) -> Result<Claim> {
        let path = self.dir.join(format!("{id}.{LOCK_EXTENSION}"));
        let lock = Lock::try_acquire(&path)?.ok_or(Error::Busy { id })?;
        Ok(Claim { _lock: lock })
    }

    /// Takes the right to work on the incident that begins with `prefix`, and reads it under that right.
    ///
    /// # Errors
    /// As [`IncidentStore::show`] and [`IncidentStore::claim`].
    pub fn take_up(&self, prefix: &str) -> Result<(Claim, Incident)> {
        let id = self.find(prefix)?;
        let claim = self.claim(id)?;
        Ok((claim, self.read(id)?))
    }

    /// Whether there is a record of the incident, readable or not.
    pub fn exists(&self, id: IncidentId) -> bool {
        self.path(id).exists()
    }

    /// Removes the record of an incident that turned out to be none. Only whoever has just opened it may do that.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be removed.
    pub fn withdraw(&self, claim: Claim, id: IncidentId) -> Result<()> {
        let lock = self.dir.join(format!("{id}.{LOCK_EXTENSION}"));
        for path in [self.path(id), lock] {
            match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io("withdraw an incident from", source));
                }
                _ => {}
            }
        }
        drop(claim);
        Ok(())
    }

    /// All incidents, newest first, and what can't be read.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder can't be read.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for id in self.ids()?.into_iter().rev() {
            match self.read(id) {
                Ok(incident) => listing.incidents.push(incident),
                Err(error) => listing.damaged.push(error),
            }
        }
        Ok(listing)
    }

    /// The incident whose id begins with `prefix`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`]; [`Error::Durable`] or [`Error::Unreadable`] if its file is damaged or of another version.
    pub fn show(&self, prefix: &str) -> Result<Incident> {
        self.read(self.find(prefix)?)
    }

    /// One JSON object with all there is on the incident that begins with `prefix`, to hand to somebody else.
    ///
    /// # Errors
    /// As [`IncidentStore::show`].
    pub fn export(&self, prefix: &str) -> Result<Value> {
        let incident = self.show(prefix)?;
        Ok(json!({
            "schema_version": SCHEMA_VERSION,
            "exported": Timestamp::now(),
            "incident": incident,
        }))
    }

    /// Approves the steps that wait for a person: that of this kind, or all. The incident goes on when it is resumed.
    ///
    /// # Errors
    /// [`Error::NothingToApprove`], [`Error::Closed`], and as [`IncidentStore::take_up`].
    pub fn approve(&self, prefix: &str, kind: Option<StepKind>) -> Result<Incident> {
        let (_claim, mut incident) = self.take_up_open(prefix)?;
        let now = Timestamp::now();
        let mut approved = false;
        for step in incident.steps.iter_mut().filter(|step| step.awaits_approval()) {
            if kind.is_none_or(|kind| kind == step.kind) {
                step.approved = Some(now);
                approved = true;
            }
        }
        if !approved {
            return Err(Error::NothingToApprove { id: incident.id, step: kind });
        }
        self.save(&incident)?;
        Ok(incident)
    }

    /// Closes an incident as partial: what is left of it is not done. One that a saga is working on is given up by its
    /// [`Control`](crate::Control).
    ///
    /// # Errors
    /// [`Error::StopOutstanding`] if its stop was not carried out yet; [`Error::Closed`], and as [`IncidentStore::take_up`].
    pub fn abort(&self, prefix: &str, reason: &str) -> Result<Incident> {
        let (_claim, mut incident) = self.take_up_open(prefix)?;
        if !incident.is_stop_settled() {
            return Err(Error::StopOutstanding { id: incident.id });
        }
        incident.abort(reason);
        self.save(&incident)?;
        Ok(incident)
    }

    fn take_up_open(&self, prefix: &str) -> Result<(Claim, Incident)> {
        let (claim, incident) = self.take_up(prefix)?;
        match incident.outcome {
            Some(outcome) => Err(Error::Closed { id: incident.id, outcome }),
            None => Ok((claim, incident)),
        }
    }

    /// The ids of the files that are there, oldest first. Other files are none of our business.
    fn ids(&self) -> Result<BTreeSet<IncidentId>> {
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(|source| self.io("read", source))? {
            let name = PathBuf::from(entry.map_err(|source| self.io("read", source))?.file_name());
            if name.extension().is_some_and(|extension| extension == EXTENSION)
                && let Some(id) = name.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
            {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    fn find(&self, prefix: &str) -> Result<IncidentId> {
        let wanted = prefix.to_ascii_lowercase();
        let not_found = || Error::NotFound { prefix: prefix.to_owned(), dir: self.dir.clone() };
        if wanted.is_empty() {
            return Err(not_found());
        }
        let mut fitting: Vec<IncidentId> =
            self.ids()?.into_iter().filter(|id| id.to_string().starts_with(&wanted)).collect();
        match (fitting.pop(), fitting.is_empty()) {
            (None, _) => Err(not_found()),
            (Some(id), true) => Ok(id),
            (Some(id), false) => {
                fitting.push(id);
                Err(Error::Ambiguous { prefix: prefix.to_owned(), ids: fitting })
            }
        }
    }

    fn read(&self, id: IncidentId) -> Result<Incident> {
        let path = self.path(id);
        let unreadable = |detail: String| Error::Unreadable { path: path.clone(), detail };
        let bytes = sealed::read(&path, KIND, FORMAT)?
            .ok_or_else(|| Error::NotFound { prefix: id.to_string(), dir: self.dir.clone() })?;
        let incident: Incident = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if incident.id != id {
            return Err(unreadable(format!("it holds incident {}: it was renamed or copied", incident.id)));
        }
        Ok(incident)
    }

    fn path(&self, id: IncidentId) -> PathBuf {
        self.dir.join(format!("{id}.{EXTENSION}"))
    }

    fn io(&self, action: &'static str, source: io::Error) -> Error {
        Error::Io { action, path: self.dir.clone(), source }
    }
}

impl Journal for IncidentStore {
    fn save(&self, incident: &Incident) -> Result<()> {
        let path = self.path(incident.id);
        let bytes = serde_json::to_vec(incident)
            .map_err(|error| Error::Unreadable { path: path.clone(), detail: error.to_string() })?;
        Ok(sealed::write(&path, KIND, FORMAT, &bytes)?)
    }
}
