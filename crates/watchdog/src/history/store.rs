//! Where histories are kept: one sealed file for each job, `DIR/NAME/ID`.
//!
//! Bounded: [`JOBS_LIMIT`] jobs of a name, [`NAMES_LIMIT`] names; beyond that the ones that were written least recently go.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use estop_durable::{Kind, replace, sealed};

use super::History;
use crate::error::Context as _;
use crate::{Error, Result};

const KIND: Kind = Kind(*b"ESTOPHIS");
const VERSION: u32 = 1;
/// How many jobs of one name are kept.
const JOBS_LIMIT: usize = 5;
/// How many names are kept.
const NAMES_LIMIT: usize = 100;

/// The histories of one estop.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The histories below `dir`, which need not exist.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Puts a history in the place of what was written of the same job before. How many bytes it has.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, history: &History) -> Result<usize> {
        let path = self.path(&history.name, &history.job);
        let fresh = !path.exists();
        if fresh {
            replace::create_dir(&self.dir.join(&history.name), 0o700)?;
        }
        let bytes = serde_json::to_vec(history)
            .map_err(|error| Error::Record { path: path.clone(), detail: error.to_string() })?;
        sealed::write(&path, KIND, VERSION, &bytes)?;
        if fresh {
            self.prune(&history.name)?;
        }
        Ok(bytes.len())
    }

    pub(super) fn has(&self, name: &str, job: &str) -> bool {
        self.path(name, job).exists()
    }

    /// The history of the job `job` of the workload `name`; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, name: &str, job: &str) -> Result<Option<History>> {
        let path = self.path(name, job);
        let Some(bytes) = sealed::read(&path, KIND, VERSION)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Record { path, detail: error.to_string() })
    }

    /// The jobs of the workload `name` of which there is a history, the earliest first.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn jobs(&self, name: &str) -> Result<Vec<String>> {
        let mut jobs = list(&self.dir.join(name))?;
        // Identifiers are in the order of time.
        jobs.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        Ok(jobs.into_iter().map(|(_, job)| job).collect())
    }

    fn path(&self, name: &str, job: &str) -> PathBuf {
        self.dir.join(name).join(job)
    }

    fn prune(&self, name: &str) -> Result<()> {
        let jobs = self.jobs(name)?;
        for job in &jobs[..jobs.len().saturating_sub(JOBS_LIMIT)] {
            remove(&self.path(name, job))?;
        }
        let mut names = list(&self.dir)?;
        // A name's directory changes with each writing in it.
        names.sort_unstable();
        let surplus = names.len().saturating_sub(NAMES_LIMIT);
        for (_, old) in names.iter().filter(|(_, old)| old != name).take(surplus) {
            for job in self.jobs(old)? {
                remove(&self.path(old, &job))?;
            }
            // One that is just being written in stays.
            let _ = std::fs::remove_dir(self.dir.join(old));
        }
        Ok(())
    }
}

/// What stands in `dir`, with when it was changed; files that are just being written left out.
fn list(dir: &Path) -> Result<Vec<(SystemTime, String)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).on("list", dir),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.on("list", dir)?;
        let changed = entry.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        found.extend(entry.file_name().into_string().ok().map(|name| (changed, name)));
    }
    found.retain(|(_, name)| !name.starts_with('.'));
    Ok(found)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;

    use super::super::Source;
    use super::*;
    use crate::job::{Isolation, Tier};

    fn history(name: &str, job: &str) -> History {
        History {
            name: name.to_owned(),
            job: job.to_owned(),
            tier: Tier::Kernel,
            isolation: Isolation::Root,
            source: Source::Events,
            as_of: Timestamp::UNIX_EPOCH,
            closed: None,
            gaps: Vec::new(),
            omitted: 0,
            processes: Vec::new(),
        }
    }

    #[test]
    fn only_the_last_jobs_and_names_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        assert_eq!((store.jobs("a").unwrap(), store.read("a", "1").unwrap()), (Vec::new(), None));
        for job in ["1", "2", "3", "4", "5", "6", "7"] {
            store.write(&history("a", job)).unwrap();
        }
        assert_eq!(store.jobs("a").unwrap(), ["3", "4", "5", "6", "7"]);
        assert_eq!(store.read("a", "7").unwrap(), Some(history("a", "7")));
        for name in 0..150 {
            store.write(&history(&format!("run-{name}"), "1")).unwrap();
        }
        assert_eq!(list(dir.path()).unwrap().len(), NAMES_LIMIT);
        assert!(store.jobs("a").unwrap().is_empty() && !store.jobs("run-149").unwrap().is_empty());
    }
}
