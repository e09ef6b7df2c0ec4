//! Following the processes of jobs, for whoever starts or adopts these.

use std::collections::HashMap;

use estop_watchdog::history::{Redact, Store, Tracker};
use estop_watchdog::job::{Exit, ProcessId};
use estop_watchdog::registry::{Entry, JobDir};

use super::keys::ledger;
use super::masks::Masks;
use crate::site::Site;

/// The histories of one estop's jobs, as far as they can be kept here.
#[derive(Debug)]
pub struct Histories(Option<Tracker>);

impl Histories {
    /// Follows what this process starts from now on. That nothing can be kept holds up nobody: `inspect` says so.
    pub fn keep(site: &Site) -> Self {
        let redactor = Redactor { site: site.clone(), known: HashMap::new() };
        let tracker = Tracker::start(Store::at(&site.history()), Box::new(redactor));
        Self(tracker.inspect_err(|error| tracing::warn!(%error, "no process is kept in a history")).ok())
    }

    /// Follows the job `id` in `dir`.
    pub fn follow(&self, dir: &JobDir, id: &str) {
        let entry = dir.entry().ok().flatten().filter(|entry| entry.id == id);
        if let Some((tracker, entry)) = self.0.as_ref().zip(entry) {
            tracker.follow(dir, &entry);
        }
    }

    /// The job `id` called `name`, of which this is the record, has ended; its main process so.
    pub fn end(&self, name: &str, id: &str, entry: Option<&Entry>, exit: Option<Exit>) {
        let main: Option<ProcessId> = entry.and_then(|entry| entry.handle.main);
        if let Some(tracker) = &self.0 {
            tracker.end(name, id, main.map(|main| (main, exit)));
        }
    }

    /// Writes what is not written yet.
    pub fn close(&self) {
        if let Some(tracker) = &self.0 {
            tracker.close();
        }
    }
}

/// Masks what processes are called with.
struct Redactor {
    site: Site,
    known: HashMap<String, Masks>,
}

impl Redact for Redactor {
    fn redact(&mut self, name: &str, texts: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        let masks = self.known.entry(name.to_owned()).or_default();
        masks.read(&ledger(&self.site), name, || Ok(self.site.clone())).ok()?;
        Some(texts.iter().map(|text| masks.apply(text)).collect())
    }
}
