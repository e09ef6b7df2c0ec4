//! The saga: takes an incident's steps in order, each durable before and after, and takes up after a crash where the record ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::actions::{Actions, Failure, Order};
use crate::incident::{Incident, Step, StepKind};
use crate::plan::Plan;
use crate::recorder::Recorder;
use crate::steps::{Conclusion, Gate, gate, stage};
use crate::store::Journal;
use crate::{Error, Result, Trigger};

/// How much longer than its limit an action is waited for, so that one that keeps its limit can still say what it got.
const MARGIN: Duration = Duration::from_millis(100);

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

    fn requested(&self) -> Option<String> {
        let requested = self.requested.load(Ordering::Acquire);
        requested.then(|| self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Takes incidents through their steps.
pub struct Saga {
    journal: Arc<dyn Journal>,
    actions: Arc<dyn Actions>,
    observer: Box<Observer>,
    control: Control,
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

    /// Takes the steps of a new incident, until it is closed or waits for a person. Blocks; see [`Actions`] for why.
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

/// One passage of one incident through its steps.
struct Passage<'a> {
    saga: &'a Saga,
    incident: Incident,
    recorder: Recorder,
    unrecorded: Vec<Error>,
}

impl<'a> Passage<'a> {
    fn new(saga: &'a Saga, incident: Incident) -> Self {
        let recorder = Recorder::start(Arc::clone(&saga.journal), incident.id);
        Self { saga, incident, recorder, unrecorded: Vec::new() }
    }

    fn go(mut self, resumed: bool) -> Run {
        self.tell(|incident| Event::Opened { incident, resumed });
        for index in 0..self.incident.steps.len() {
            if self.incident.steps[index].is_settled() {
                continue;
            }
            if self.give_up_if_asked() {
                return self.end();
            }
            match gate(&self.incident, index) {
                Gate::Open => self.take(index),
                Gate::Waiting => {
                    if self.incident.steps[index].awaits_approval() {
                        self.tell(|incident| Event::Waiting { incident, step: &incident.steps[index] });
                    }
                }
                Gate::Closed(reason) => {
                    self.incident.skip(index, &reason);
                    self.record();
                    self.tell(|incident| Event::Ended { incident, step: &incident.steps[index] });
                }
            }
        }
        if self.incident.steps.iter().all(Step::is_settled) {
            self.incident.close();
            self.record();
            self.tell(|incident| Event::Closed { incident });
        } else {
            self.give_up_if_asked();
        }
        self.end()
    }

    fn end(self) -> Run {
        Run { incident: self.incident, unrecorded: self.unrecorded }
    }

    /// Takes one step.
    fn take(&mut self, index: usize) {
        self.incident.begin(index);
        let recorded = self.record();
        self.tell(|incident| Event::Started { incident, step: &incident.steps[index] });
        let begun = Instant::now();
        let kind = self.incident.steps[index].kind;
        let conclusion = if recorded || !needs_record(kind) {
            self.act(index)
        } else {
            Conclusion::failed(Failure::new(
                "the incident could not be recorded, and this is not done without a record; free the disk and do it by hand",
            ))
        };
        self.incident.settle(index, conclusion.state, begun.elapsed().as_secs_f64(), conclusion.detail);
        self.record();
        self.tell(|incident| Event::Ended { incident, step: &incident.steps[index] });
    }

    /// Calls the step's action; within its limit, if it has one.
    fn act(&self, index: usize) -> Conclusion {
        let step = &self.incident.steps[index];
        // A limit that is no time can't come from a plan; from a damaged mind it means: don't wait.
        let limit = step.limit_seconds.map(|limit| Duration::try_from_secs_f64(limit).unwrap_or_default());
        let order = Order { incident: self.incident.clone(), limit, attempt: step.attempts };
        match limit {
            None => call(&*self.saga.actions, step.kind, &order, &step.targets),
            Some(limit) => call_within(&self.saga.actions, step.kind, &order, &step.targets, limit),
        }
    }

    /// Gives up what is left, if that was asked for and the stop is settled.
    fn give_up_if_asked(&mut self) -> bool {
        if !self.incident.is_stop_settled() {
            return false;
        }
        let Some(reason) = self.saga.control.requested() else {
            return false;
        };
        self.incident.abort(&reason);
        self.record();
        self.tell(|incident| Event::Closed { incident });
        true
    }

    /// Makes the incident as it stands durable; false if that failed.
    fn record(&mut self) -> bool {
        let hurry = !self.incident.is_stop_settled();
        match self.recorder.record(&self.incident, hurry) {
            Ok(()) => true,
            Err(error) => {
                self.tell(|incident| Event::Unrecorded { incident, error: &error });
                self.unrecorded.push(error);
                false
            }
        }
    }

    fn tell<'b>(&'b self, event: impl FnOnce(&'b Incident) -> Event<'b>) {
        let event = event(&self.incident);
        let told = catch_unwind(AssertUnwindSafe(|| (self.saga.observer)(event)));
        // The observer's own trouble: the emergency goes on without it.
        drop(told);
    }
}

/// Whether a step is not taken where its beginning can't be recorded. A rollback or a restart that nobody knows of is worse than none; a
/// stop, or the replacement of a key that is in strange hands, is not.
fn needs_record(kind: StepKind) -> bool {
    matches!(kind, StepKind::Rollback | StepKind::Restart)
}

/// Calls the action; a panic in it is a failure.
fn call(actions: &dyn Actions, kind: StepKind, order: &Order, targets: &[String]) -> Conclusion {
    catch_unwind(AssertUnwindSafe(|| stage(kind).act(actions, order, targets))).unwrap_or_else(|_| {
        Conclusion::failed(Failure::new("the action panicked; this is a fault in estop, please report it"))
    })
}

/// Calls the action on a thread of its own and leaves it behind when its time is over.
fn call_within(
    actions: &Arc<dyn Actions>,
    kind: StepKind,
    order: &Order,
    targets: &[String],
    limit: Duration,
) -> Conclusion {
    let (sender, answer) = channel();
    let remote = Arc::clone(actions);
    let (far_order, far_targets) = (order.clone(), targets.to_vec());
    let thread = thread::Builder::new().name(format!("incident-{kind}")).spawn(move || {
        // Nobody listens any more when the time was over.
        let _ = sender.send(call(&*remote, kind, &far_order, &far_targets));
    });
    if thread.is_err() {
        // No thread to be had: evidence isn't worth the risk of waiting for it; the latch and the freeze are.
        return if kind == StepKind::Capture {
            Conclusion::failed(Failure::new("no thread could be started to gather evidence"))
        } else {
            call(&**actions, kind, order, targets)
        };
    }
    match answer.recv_timeout(limit.saturating_add(MARGIN)) {
        Ok(conclusion) => conclusion,
        Err(RecvTimeoutError::Timeout) => Conclusion::failed(Failure::new(format!(
            "not done within its limit of {:.1} s; the stop didn't wait for it any longer",
            limit.as_secs_f64()
        ))),
        Err(RecvTimeoutError::Disconnected) => {
            Conclusion::failed(Failure::new("the action's thread ended without an answer"))
        }
    }
}
