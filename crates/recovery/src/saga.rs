//! The saga: takes incidents through their steps, tells who looks on, and can be told to give up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::actions::Actions;
use crate::incident::{Incident, Step};
use crate::passage::Passage;
use crate::plan::Plan;
use crate::store::Journal;
use crate::{Error, Result, Trigger};

/// What an observer is told, as it happens.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The incident was opened, or taken up again.
    Opened {
        /// The incident.
        incident: &'a Incident,
        /// Whether it was taken up after a crash or an approval.
        resumed: bool,
    },
    /// A step begins.
    Started {
        /// The incident.
        incident: &'a Incident,
        /// The step.
        step: &'a Step,
    },
    /// A step is over, with its state, time and detail.
    Ended {
        /// The incident.
        incident: &'a Incident,
        /// The step.
        step: &'a Step,
    },
    /// A step waits for a person.
    Waiting {
        /// The incident.
        incident: &'a Incident,
        /// The step.
        step: &'a Step,
    },
    /// The record of the incident could not be made durable.
    Unrecorded {
        /// The incident.
        incident: &'a Incident,
        /// Why.
        error: &'a Error,
    },
    /// The incident is closed.
    Closed {
        /// The incident.
        incident: &'a Incident,
    },
}

/// Who looks on. It is called on the saga's thread; a panic in it (a closed standard output is enough) harms nothing.
pub type Observer = dyn Fn(Event<'_>) + Send + Sync;

/// What came of a run.
#[derive(Debug)]
#[must_use = "a recovery that is partial, or was not recorded, has to be told to somebody"]
pub struct Run {
    /// The incident: closed, or open where a step waits for a person.
    pub incident: Incident,
    /// The transitions that could not be made durable. If the last one is among them, the file of the incident lags behind.
    pub unrecorded: Vec<Error>,
}

/// Tells a running saga to give up after the step it is in. The stop can't be given up: until it is settled, the request waits.
#[derive(Clone, Debug, Default)]
pub struct Control {
    requested: Arc<AtomicBool>,
    reason: Arc<Mutex<String>>,
}

impl Control {
    /// Asks for the end, with a reason for the record. The first reason stays.
    pub fn abort(&self, reason: &str) {
        let mut kept = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.requested.load(Ordering::Acquire) {
            reason.clone_into(&mut kept);
            self.requested.store(true, Ordering::Release);
        }
    }

    pub(crate) fn requested(&self) -> Option<String> {
        let requested = self.requested.load(Ordering::Acquire);
        requested.then(|| self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Takes incidents through their steps.
pub struct Saga {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) actions: Arc<dyn Actions>,
    pub(crate) observer: Box<Observer>,
    pub(crate) control: Control,
}

impl std::fmt::Debug for Saga {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Saga").finish_non_exhaustive()
    }
}

impl Saga {
    /// A saga that records in `journal` and has its work done by `actions`.
    pub fn new(journal: Arc<dyn Journal>, actions: Arc<dyn Actions>, observer: Box<Observer>) -> Self {
        Self { journal, actions, observer, control: Control::default() }
    }

    /// The handle by which this saga can be told to give up.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Opens an incident with the steps of `plan` and takes them.
    pub fn open(&self, trigger: Trigger, reason: Option<String>, workloads: Vec<String>, plan: &Plan) -> Run {
        self.run(Incident::new(trigger, reason, workloads, plan))
    }

    /// Takes the steps of a new incident, one after the other but for the rotation, which goes on beside the rollbacks, until it is closed or waits for a person. Blocks; see [`Actions`] for why.
    ///
    /// A record that can't be made durable doesn't hold up the stop or the rotation; no store is rolled back and nothing is restarted
    /// without it.
    pub fn run(&self, incident: Incident) -> Run {
        Passage::new(self, incident).go(false)
    }

    /// Takes up an incident after a crash, or after an approval: a step that was under way is repeated, those that are over are not.
    ///
    /// # Errors
    /// [`Error::Closed`] if there is nothing left to do.
    pub fn resume(&self, incident: Incident) -> Result<Run> {
        if let (Some(_), Some(outcome)) = (incident.closed, incident.outcome) {
            return Err(Error::Closed { id: incident.id, outcome });
        }
        Ok(Passage::new(self, incident).go(true))
    }
}
