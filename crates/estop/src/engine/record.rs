//! Recording the incident of an emergency while its stop is under way: in a thread of its own, so that no disk, however slow
//! or full, holds up the stop or its answer.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use estop_recovery::{Claim, Incident};
use estop_watchdog::emergency::concerns;
use estop_watchdog::registry::RunDir;

use super::response::{self, Emergency};
use crate::brain::api::{self, Call};
use crate::failure::{Failure, Result};
use crate::site::Site;

/// How long the record is waited for once the stop is over.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// A record that is being made.
#[derive(Debug)]
pub struct Recording {
    over: Sender<Emergency>,
    recorded: Receiver<Result<bool>>,
}

impl Recording {
    /// Begins to record `emergency`, whose stop is about to be ordered, and returns at once. Until the stop is over nobody
    /// else works on its incident.
    pub fn begin(site: &Site, emergency: Emergency, names: &[String]) -> Self {
        let (over, stop) = channel();
        let (answer, recorded) = channel();
        let (site, names) = (site.clone(), names.to_vec());
        // Without a thread nobody answers, which is what the one who waits is told.
        let _ = std::thread::Builder::new().name("record".to_owned()).spawn(move || {
            let begun = begin(&site, emergency, &names);
            if let Ok(emergency) = stop.recv() {
                // Whoever waited may have given up.
                let _ = answer.send(complete(&site, begun, &emergency));
            }
        });
        Self { over, recorded }
    }

    /// Completes the record with what the stop came to, and hands the incident to the daemon. Whether that has taken it.
    ///
    /// # Errors
    /// What kept the incident from being recorded.
    pub fn complete(self, emergency: Emergency) -> Result<bool> {
        let silent = || Failure::failed("the disk does not answer", "see the system's log");
        self.over.send(emergency).map_err(|_| silent())?;
        self.recorded.recv_timeout(RECORD_WAIT).unwrap_or_else(|_| Err(silent()))
    }
}

/// Records what is about to be stopped, as far as that is known. What cannot be recorded yet is tried again after the stop.
fn begin(site: &Site, mut emergency: Emergency, names: &[String]) -> Option<(Claim, Incident)> {
    let jobs = RunDir::at(&site.run_dir).jobs().ok()?;
    for dir in jobs.iter().filter(|dir| concerns(names, dir.name())) {
        if dir.is_alive().unwrap_or(false) {
            emergency.workloads.push(dir.name().to_owned());
            emergency.protects.extend(dir.entry().ok().flatten().map(|entry| entry.protects).unwrap_or_default());
        }
    }
    emergency.protects.sort_unstable();
    emergency.protects.dedup();
    if emergency.workloads.is_empty() { None } else { response::open(site, &emergency).ok() }
}

fn complete(site: &Site, begun: Option<(Claim, Incident)>, emergency: &Emergency) -> Result<bool> {
    let (claim, incident) = match begun {
        Some((claim, incident)) if emergency.workloads.is_empty() => {
            // They had ended by themselves: there was no emergency.
            return response::withdraw(site, claim, &incident).map(|()| false);
        }
        Some((claim, _)) => {
            let incident = response::save(site, emergency)?;
            (claim, incident)
        }
        None if emergency.workloads.is_empty() => return Ok(false),
        None => response::open(site, emergency)?,
    };
    let left = incident.steps.iter().any(|step| !step.is_settled());
    drop(claim);
    Ok(left && api::request(site, &Call::Resume { id: incident.id.to_string() }).is_ok())
}
