//! One passage of one incident through its steps, each durable before and after.
//!
//! The steps of the stop are taken one after the other. After it, whatever may go on does: the rotation beside the rollbacks (an exposed key
//! doesn't wait until a large store is put back), the rollbacks one after the other, the check when all of them are over.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::actions::{Actions, Failure, Order};
use crate::incident::{Incident, Step, StepKind};
use crate::recorder::Recorder;
use crate::saga::{Event, Run, Saga};
use crate::steps::{Conclusion, Gate, gate, stage};

/// How much longer than its limit an action is waited for, so that one that keeps its limit can still say what it got.
const MARGIN: Duration = Duration::from_millis(100);

/// One passage.
pub(crate) struct Passage<'a> {
    saga: &'a Saga,
    incident: Incident,
    recorder: Recorder,
    unrecorded: Vec<Error>,
    /// The steps after the stop that are under way.
    running: BTreeSet<usize>,
    ended: (Sender<Ended>, Receiver<Ended>),
}

/// What a step after the stop came to.
struct Ended {
    index: usize,
    conclusion: Conclusion,
    took: Duration,
}

impl<'a> Passage<'a> {
    pub(crate) fn new(saga: &'a Saga, incident: Incident) -> Self {
        let recorder = Recorder::start(Arc::clone(&saga.journal), incident.id);
        Self { saga, incident, recorder, unrecorded: Vec::new(), running: BTreeSet::new(), ended: channel() }
    }

    pub(crate) fn go(mut self, resumed: bool) -> Run {
        self.tell(|incident| Event::Opened { incident, resumed });
        self.contain();
        self.repair();
        if self.incident.is_open() && self.incident.steps.iter().all(Step::is_settled) {
            self.incident.close();
            self.record();
        }
        if self.incident.is_open() {
            for step in self.incident.steps.iter().filter(|step| step.awaits_approval()) {
                self.tell(|incident| Event::Waiting { incident, step });
            }
        } else {
            self.tell(|incident| Event::Closed { incident });
        }
        Run { incident: self.incident, unrecorded: self.unrecorded }
    }

    /// Takes the steps of the stop, one after the other.
    fn contain(&mut self) {
        for index in 0..self.incident.steps.len() {
            let step = &self.incident.steps[index];
            if step.is_settled() || !step.kind.is_containment() {
                continue;
            }
            self.begin(index);
            let begun = Instant::now();
            let conclusion = self.act(index);
            self.settle(Ended { index, conclusion, took: begun.elapsed() });
        }
    }

    /// Takes the steps after the stop, as far as they may go on, or until that is given up.
    fn repair(&mut self) {
        loop {
            let left = !self.incident.steps.iter().all(Step::is_settled);
            if left && let Some(reason) = self.saga.control.requested() {
                while !self.running.is_empty() {
                    self.await_one();
                }
                self.incident.abort(&reason);
                self.record();
                return;
            }
            self.start_what_may_go_on();
            if self.running.is_empty() {
                return;
            }
            self.await_one();
        }
    }

    /// In the order of the steps, since none depends on a later one.
    fn start_what_may_go_on(&mut self) {
        for index in 0..self.incident.steps.len() {
            let step = &self.incident.steps[index];
            let is_busy = self.running.iter().any(|other| self.incident.steps[*other].kind == step.kind);
            if step.is_settled() || is_busy {
                continue;
            }
            match gate(&self.incident, index) {
                Gate::Open => self.start(index),
                Gate::Waiting => {}
                Gate::Closed(reason) => {
                    self.incident.skip(index, &reason);
                    self.record();
                    self.tell(|incident| Event::Ended { incident, step: &incident.steps[index] });
                }
            }
        }
    }

    /// Starts a step after the stop on a thread of its own; takes it here and now where there is none to be had.
    fn start(&mut self, index: usize) {
        let recorded = self.begin(index);
        let step = &self.incident.steps[index];
        if !recorded && needs_record(step.kind) {
            let conclusion = Conclusion::failed(Failure::new(
                "the incident could not be recorded, and this is not done without a record; free the disk and do it by hand",
            ));
            return self.settle(Ended { index, conclusion, took: Duration::ZERO });
        }
        let kind = step.kind;
        let (order, targets) = (self.order(index, None), step.targets.clone());
        let (actions, ended) = (Arc::clone(&self.saga.actions), self.ended.0.clone());
        let work = move || {
            let begun = Instant::now();
            let conclusion = call(&*actions, kind, &order, &targets);
            // The passage waits for it; if it is gone, so is the process.
            let _ = ended.send(Ended { index, conclusion, took: begun.elapsed() });
        };
        self.running.insert(index);
        if thread::Builder::new().name(format!("incident-{kind}")).spawn(work.clone()).is_err() {
            work();
        }
    }

    /// Waits until one of the running steps is over.
    fn await_one(&mut self) {
        // The passage holds a sender itself, so there is always one.
        if let Ok(ended) = self.ended.1.recv() {
            self.running.remove(&ended.index);
            self.settle(ended);
        }
    }

    /// Writes down that a step begins; false if that is not durable.
    fn begin(&mut self, index: usize) -> bool {
        self.incident.begin(index);
        let recorded = self.record();
        self.tell(|incident| Event::Started { incident, step: &incident.steps[index] });
        recorded
    }

    /// Writes down that a step is over.
    fn settle(&mut self, ended: Ended) {
        let Ended { index, conclusion, took } = ended;
        self.incident.settle(index, conclusion.state, took.as_secs_f64(), conclusion.detail);
        self.record();
        self.tell(|incident| Event::Ended { incident, step: &incident.steps[index] });
    }

    /// Calls the action of a step of the stop; within its limit, if it has one.
    fn act(&self, index: usize) -> Conclusion {
        let step = &self.incident.steps[index];
        // No plan has a limit that is no time; should a record have one, nothing waits for it.
        let limit = step.limit_seconds.map(|limit| Duration::try_from_secs_f64(limit).unwrap_or_default());
        let order = self.order(index, limit);
        match limit {
            None => call(&*self.saga.actions, step.kind, &order, &step.targets),
            Some(limit) => call_within(&self.saga.actions, step.kind, &order, &step.targets, limit),
        }
    }

    fn order(&self, index: usize, limit: Option<Duration>) -> Order {
        Order { incident: self.incident.clone(), limit, attempt: self.incident.steps[index].attempts }
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
