//! The steps of a recovery, one file each: when a step may go on, and which action it calls.

mod capture;
mod freeze;
mod latch;
mod restart;
mod rollback;
mod rotate;
mod stop;
mod verify;

use crate::actions::{Actions, Answer, Failure, Order, Stopped};
use crate::incident::{Detail, Incident, StepKind, StepState};

/// Whether a step may be taken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It may.
    Open,
    /// Not yet: a step that it depends on, or itself, waits for a person.
    Waiting,
    /// Never in this incident, for this reason.
    Closed(String),
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conclusion {
    pub(crate) state: StepState,
    pub(crate) detail: Detail,
}

/// One kind of step.
pub(crate) trait Stage: Sync {
    /// Whether the step at `index` may be taken, its own approval aside.
    fn gate(&self, incident: &Incident, index: usize) -> Gate {
        let _ = (incident, index);
        Gate::Open
    }

    /// Calls the action.
    fn act(&self, actions: &dyn Actions, order: &Order, targets: &[String]) -> Conclusion;
}

/// The stage of this kind.
pub(crate) fn stage(kind: StepKind) -> &'static dyn Stage {
    match kind {
        StepKind::Latch => &latch::Latch,
        StepKind::Freeze => &freeze::Freeze,
        StepKind::Capture => &capture::Capture,
        StepKind::Stop => &stop::Stop,
        StepKind::Rollback => &rollback::Rollback,
        StepKind::Rotate => &rotate::Rotate,
        StepKind::Verify => &verify::Verify,
        StepKind::Restart => &restart::Restart,
    }
}

/// Whether the step at `index` may be taken. Being impossible comes before waiting: nobody is asked to approve what won't happen.
pub(crate) fn gate(incident: &Incident, index: usize) -> Gate {
    let step = &incident.steps[index];
    match stage(step.kind).gate(incident, index) {
        Gate::Open if step.awaits_approval() => Gate::Waiting,
        gate => gate,
    }
}

impl Conclusion {
    pub(crate) fn failed(failure: Failure) -> Self {
        let mut detail = failure.detail;
        detail.insert("error".into(), failure.message.into());
        Self { state: StepState::Failed, detail }
    }
}

impl From<Result<Answer, Failure>> for Conclusion {
    fn from(result: Result<Answer, Failure>) -> Self {
        match result {
            Ok(Answer::Done(detail)) => Self { state: StepState::Done, detail },
            Ok(Answer::NothingToDo { reason }) => {
                let mut detail = Detail::new();
                detail.insert("reason".into(), reason.into());
                detail.insert("nothing_to_do".into(), true.into());
                Self { state: StepState::Skipped, detail }
            }
            Err(failure) => Self::failed(failure),
        }
    }
}

impl From<Result<Stopped, Failure>> for Conclusion {
    fn from(result: Result<Stopped, Failure>) -> Self {
        match result {
            Ok(Stopped { proven_empty, mut detail }) => {
                detail.insert("proven_empty".into(), proven_empty.into());
                let state = if proven_empty { StepState::Done } else { StepState::Failed };
                Self { state, detail }
            }
            Err(mut failure) => {
                failure.detail.insert("proven_empty".into(), false.into());
                Self::failed(failure)
            }
        }
    }
}
