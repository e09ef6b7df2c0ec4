//! Which steps an incident takes, decided when it is opened and kept with it: a change of the configuration in the middle of an emergency
//! changes nothing in it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::incident::{Detail, Step, StepKind, StepState};
use crate::{Error, Result};

/// What a plan is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The stores to put back; one step each.
    pub rollback: Vec<String>,
    /// The secrets to replace, as the workloads were exposed to them; one step for all.
    pub rotate: Vec<String>,
    /// Whether the workloads shall be started again. That always waits for a person: a latch is released by nobody else.
    pub restart: bool,
    /// Steps after the stop that wait for a person.
    pub approval: BTreeSet<StepKind>,
    /// The longest time to set the latch.
    pub latch_limit: Duration,
    /// The longest time to freeze.
    pub freeze_limit: Duration,
    /// The longest time to gather evidence.
    pub capture_limit: Duration,
}

impl Default for Settings {
    /// Stop and verify only; a second for the latch and for the freeze, two for the evidence.
    fn default() -> Self {
        Self {
            rollback: Vec::new(),
            rotate: Vec::new(),
            restart: false,
            approval: BTreeSet::new(),
            latch_limit: Duration::from_secs(1),
            freeze_limit: Duration::from_secs(1),
            capture_limit: Duration::from_secs(2),
        }
    }
}

/// One step to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// Which one.
    pub step: StepKind,
    /// What it is about: the store of a rollback, the names of the secrets to rotate.
    #[serde(default)]
    pub targets: Vec<String>,
    /// The longest time it may take, in seconds. Only for steps before the stop: what follows it runs to its end.
    #[serde(default)]
    pub limit_seconds: Option<f64>,
    /// Whether it waits for a person.
    #[serde(default)]
    pub needs_approval: bool,
}

impl PlannedStep {
    fn new(step: StepKind) -> Self {
        Self { step, targets: Vec::new(), limit_seconds: None, needs_approval: false }
    }

    fn within(mut self, limit: Duration) -> Self {
        self.limit_seconds = Some(limit.as_secs_f64());
        self
    }

    fn about(mut self, targets: &[String]) -> Self {
        self.targets = targets.to_vec();
        self
    }

    pub(crate) fn to_step(&self) -> Step {
        Step {
            kind: self.step,
            state: StepState::Pending,
            seconds: 0.0,
            detail: Detail::new(),
            targets: self.targets.clone(),
            started: None,
            attempts: 0,
            limit_seconds: self.limit_seconds,
            needs_approval: self.needs_approval,
            approved: None,
        }
    }
}

/// The steps of an incident: always latch, freeze, capture and stop; then what there is to put right, and its check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    steps: Vec<PlannedStep>,
}

impl Plan {
    /// The plan that `settings` amount to.
    ///
    /// # Errors
    /// [`Error::InvalidPlan`], as [`Plan::from_steps`].
    pub fn build(settings: &Settings) -> Result<Self> {
        let mut steps = vec![
            PlannedStep::new(StepKind::Latch).within(settings.latch_limit),
            PlannedStep::new(StepKind::Freeze).within(settings.freeze_limit),
            PlannedStep::new(StepKind::Capture).within(settings.capture_limit),
            PlannedStep::new(StepKind::Stop),
        ];
        for store in &settings.rollback {
            steps.push(PlannedStep::new(StepKind::Rollback).about(std::slice::from_ref(store)));
        }
        if !settings.rotate.is_empty() {
            steps.push(PlannedStep::new(StepKind::Rotate).about(&settings.rotate));
        }
        steps.push(PlannedStep::new(StepKind::Verify));
        if settings.restart {
            steps.push(PlannedStep::new(StepKind::Restart));
        }
        for step in &mut steps {
            step.needs_approval = step.step == StepKind::Restart || settings.approval.contains(&step.step);
        }
        Self::from_steps(steps)
    }

    /// A plan of these steps.
    ///
    /// # Errors
    /// [`Error::InvalidPlan`] if the steps are out of order, one of the stop is missing or waits for a person, one after the stop has a time
    /// limit, one before it (but the stop itself) has none, a restart waits for nobody, or a target is missing or named twice.
    pub fn from_steps(steps: Vec<PlannedStep>) -> Result<Self> {
        let invalid = |detail: String| Err(Error::InvalidPlan { detail });
        if !steps.is_sorted_by_key(|step| step.step) {
            return invalid(
                "its steps are not in the order latch, freeze, capture, stop, rollback, rotate, verify, restart".into(),
            );
        }
        for kind in [StepKind::Latch, StepKind::Freeze, StepKind::Capture, StepKind::Stop] {
            if steps.iter().filter(|step| step.step == kind).count() != 1 {
                return invalid(format!("it needs the step '{kind}' exactly once"));
            }
        }
        let mut targets = BTreeSet::new();
        for step in &steps {
            if let Some(detail) = fault(step) {
                return invalid(format!("the step '{}' {detail}", step.step));
            }
            for target in &step.targets {
                if !targets.insert((step.step, target)) {
                    return invalid(format!("the step '{}' names '{target}' twice", step.step));
                }
            }
        }
        Ok(Self { steps })
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[PlannedStep] {
        &self.steps
    }
}

/// What is wrong with a step by itself.
fn fault(step: &PlannedStep) -> Option<&'static str> {
    use StepKind::{Restart, Rollback, Rotate, Stop};
    let limited = step.step < Stop;
    match (step.step, step.limit_seconds) {
        (_, Some(limit)) if Duration::try_from_secs_f64(limit).is_err() => {
            return Some("has a time limit that is no time");
        }
        (_, None) if limited => return Some("needs a time limit, since the stop waits for it"),
        (_, Some(_)) if !limited => return Some("can't have a time limit: half done would be worse"),
        _ => {}
    }
    match step.step {
        kind if kind.is_containment() && step.needs_approval => Some("can't wait for a person"),
        Restart if !step.needs_approval => Some("must wait for a person"),
        Rollback if step.targets.len() != 1 => Some("needs exactly one store"),
        Rotate if step.targets.is_empty() => Some("needs the names of the secrets"),
        Rollback | Rotate => None,
        _ if !step.targets.is_empty() => Some("takes no targets"),
        _ => None,
    }
}
