//! How a job ended, in so few words that they fit where room was made before it began.

use std::path::Path;

use estop_durable::Kind;
use estop_durable::slot::Slot;
use serde::{Deserialize, Serialize};

use super::{Entry, Outcome, SCHEMA_VERSION};
use crate::job::Exit;
use crate::ladder::Breach;
use crate::monitor::Peak;
use crate::stop::StoppedBy;
use crate::{Error, Result};

const KIND: Kind = Kind(*b"ESTOPEND");

/// The room for a [`Brief`], on the device before the job begins.
#[derive(Debug)]
pub(crate) struct Reserve {
    slot: Slot,
}

/// What whoever started a job must know of its end. No more than a slot can hold.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Brief {
    id: String,
    exit: Option<Exit>,
    by: Option<StoppedBy>,
    at: Option<String>,
    incident: Option<String>,
    opened: bool,
    breach: Option<Breach>,
}

impl Reserve {
    pub(super) fn create(path: &Path) -> Result<Self> {
        Ok(Self { slot: Slot::create_or_open(path, KIND)? })
    }

    pub(super) fn read(path: &Path) -> Result<Option<Brief>> {
        let slot = match Slot::open(path, KIND) {
            Err(estop_durable::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let refuse = |error: serde_json::Error| Error::Record { path: path.to_owned(), detail: error.to_string() };
        slot.read()?.map(|bytes| serde_json::from_slice(&bytes).map_err(refuse)).transpose()
    }

    /// Says in short how the job ended.
    pub(super) fn write(&self, outcome: &Outcome) -> Result<()> {
        let bytes = serde_json::to_vec(&Brief::of(outcome))
            .map_err(|error| Error::Containment(format!("its end cannot be told: {error}")))?;
        Ok(self.slot.write(&bytes)?)
    }
}

impl Brief {
    fn of(outcome: &Outcome) -> Self {
        Self {
            id: outcome.id.clone(),
            exit: outcome.exit,
            by: outcome.stopped_by,
            at: outcome.stopped_at.clone(),
            incident: outcome.incident.clone(),
            opened: outcome.opened_incident,
            breach: outcome.breach,
        }
    }

    pub(super) fn is_of(&self, entry: &Entry) -> bool {
        self.id == entry.id
    }

    /// The outcome as far as it is known.
    pub(super) fn outcome(self, entry: &Entry) -> Outcome {
        let reason = self.breach.map_or_else(|| "the disk was full; the log says more".to_owned(), |it| it.to_string());
        Outcome {
            schema_version: SCHEMA_VERSION,
            name: entry.name.clone(),
            id: self.id,
            tier: entry.tier,
            isolation: entry.isolation,
            exit: self.exit,
            stopped_by: self.by,
            stopped_at: self.at,
            incident: self.incident,
            opened_incident: self.opened,
            breach: self.breach,
            reason: if self.by.is_some() { reason } else { String::new() },
            report: None,
            peak: Peak::default(),
            seconds: 0.0,
            failure: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ladder::{Metric, Rung};

    #[test]
    fn the_longest_end_fits_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outcome");
        assert!(Reserve::read(&path).unwrap().is_none());
        let reserve = Reserve::create(&path).unwrap();
        assert!(Reserve::read(&path).unwrap().is_none());
        let id = "01a20a94-f6f5-71c2-aabc-03bfe087a097".to_owned();
        let outcome = Outcome {
            schema_version: SCHEMA_VERSION,
            name: "w".to_owned(),
            id: id.clone(),
            tier: crate::job::Tier::Kernel,
            isolation: crate::job::Isolation::Root,
            exit: Some(Exit { code: Some(i32::MIN), signal: Some(i32::MIN) }),
            stopped_by: Some(StoppedBy::CriticalStop),
            stopped_at: Some("2026-11-23T22:46:01.123456789Z".to_owned()),
            incident: Some(id),
            opened_incident: false,
            breach: Some(Breach {
                metric: Metric::Memory,
                rung: Rung::Throttle,
                value: -f64::MIN_POSITIVE,
                limit: -f64::MIN_POSITIVE,
                for_seconds: -f64::MIN_POSITIVE,
                by: crate::ladder::Cause::Together,
            }),
            reason: "long".repeat(1000),
            report: None,
            peak: Peak::default(),
            seconds: 1.0,
            failure: None,
        };
        reserve.write(&outcome).unwrap();
        assert_eq!(Reserve::read(&path).unwrap(), Some(Brief::of(&outcome)));
    }
}
