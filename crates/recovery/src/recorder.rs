//! The thread that makes an incident's transitions durable.
//!
//! Before the stop the saga waits for it only so long: a disk that hangs, perhaps because of the very workload that is to be stopped, must
//! not keep the stop waiting. After the stop it is patient, but not for ever: an exposed key is replaced even if nobody can write that down.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::incident::{Incident, IncidentId};
use crate::store::Journal;
use crate::{Error, Result};

/// How long all the records before the stop may delay it together.
const CONTAINMENT_BUDGET: Duration = Duration::from_secs(1);
/// How long one record after the stop is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

struct Job {
    incident: Incident,
    done: Sender<Result<()>>,
}

pub(crate) struct Recorder {
    journal: Arc<dyn Journal>,
    /// None where no thread could be had (the workload holds every PID): then the saga writes by itself.
    queue: Option<Sender<Job>>,
    id: IncidentId,
    budget: Duration,
}

impl Recorder {
    pub(crate) fn start(journal: Arc<dyn Journal>, id: IncidentId) -> Self {
        let (queue, jobs) = channel();
        let writer = Arc::clone(&journal);
        let thread = thread::Builder::new().name("incident-record".into()).spawn(move || write(&*writer, &jobs));
        Self { journal, queue: thread.is_ok().then_some(queue), id, budget: CONTAINMENT_BUDGET }
    }

    /// Makes `incident` durable. If `hurry`, waits only for what is left of the budget. A record that was not waited for is still written
    /// when the disk answers.
    pub(crate) fn record(&mut self, incident: &Incident, hurry: bool) -> Result<()> {
        let Some(queue) = &self.queue else {
            return self.journal.save(incident);
        };
        let (done, answer) = channel();
        let gone = || Error::RecorderGone { id: self.id };
        queue.send(Job { incident: incident.clone(), done }).map_err(|_| gone())?;
        let patience = if hurry { self.budget } else { PATIENCE };
        let begun = Instant::now();
        let result = answer.recv_timeout(patience);
        if hurry {
            self.budget = self.budget.saturating_sub(begun.elapsed());
        }
        match result {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::RecordTooSlow { id: self.id, waited_seconds: patience.as_secs_f64() })
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

/// Writes what comes, in order; of several that wait, only the newest, which holds what the others hold.
fn write(journal: &dyn Journal, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let mut waiting = vec![job];
        waiting.extend(jobs.try_iter());
        let Some(newest) = waiting.pop() else { continue };
        // Who waited for an older state has long gone on (its wait had timed out); dropping its sender tells it nothing new.
        drop(waiting);
        let result = journal.save(&newest.incident);
        // The other end may have stopped waiting.
        let _ = newest.done.send(result);
    }
}
