//! The durable record of one emergency, and of each step taken in it.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::SCHEMA_VERSION;
use crate::plan::{Plan, PlannedStep};

/// What a step has to say beyond its state: free JSON, never with a secret's value in it.
pub type Detail = Map<String, Value>;

/// An incident's name: a UUID of version 7 (RFC 9562).
///
/// It sorts by the time it was made, and needs no counter: an emergency must be able to name its incident while the state directory
/// can't be read, and incidents of many hosts may lie in one place without a clash. A unique beginning is enough to name one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(Uuid);

impl IncidentId {
    /// A new id, later in order than those made before it by this process.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for IncidentId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(out)
    }
}

impl FromStr for IncidentId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// What set an emergency off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// A limit was reached.
    Limit,
    /// A person said `estop now`.
    Operator,
    /// A store did not verify.
    Integrity,
    /// A secret was found exposed.
    Secret,
    /// A program asked for it.
    Api,
    /// Another host of the fleet asked for it.
    Fleet,
}

impl Trigger {
    /// The word used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Operator => "operator",
            Self::Integrity => "integrity",
            Self::Secret => "secret",
            Self::Api => "api",
            Self::Fleet => "fleet",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

/// How an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Stopped, and everything that was planned to be put right was put right.
    Recovered,
    /// Stopped and proven so; no recovery was planned.
    Stopped,
    /// Something that was planned failed, was skipped for cause, or was given up: the steps say what.
    Partial,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Recovered => "recovered",
            Self::Stopped => "stopped",
            Self::Partial => "partial",
        })
    }
}

/// The steps there are, in the only order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Nothing starts again until a reset.
    Latch,
    /// The workloads stand still.
    Freeze,
    /// Evidence is gathered, within a time limit.
    Capture,
    /// The workloads are ended, and that is proven.
    Stop,
    /// One store is put back.
    Rollback,
    /// The exposed secrets are replaced.
    Rotate,
    /// What was put right is checked.
    Verify,
    /// The workloads are started again, if a person says so.
    Restart,
}

impl StepKind {
    /// The word used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latch => "latch",
            Self::Freeze => "freeze",
            Self::Capture => "capture",
            Self::Stop => "stop",
            Self::Rollback => "rollback",
            Self::Rotate => "rotate",
            Self::Verify => "verify",
            Self::Restart => "restart",
        }
    }

    /// Whether the step belongs to the stop itself. Such a step never waits for a person, for a full disk or for one before it.
    pub fn is_containment(self) -> bool {
        self <= Self::Stop
    }

    /// Whether the step only helps the stop along. If it fails, the record says so, but the outcome isn't worse for it: what counts is whether
    /// the stop was proven.
    pub fn is_aid(self) -> bool {
        matches!(self, Self::Freeze | Self::Capture)
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Not over: not begun, waiting for a person, or (with a start time) under way.
    Pending,
    /// Done, and proven where proof is promised.
    Done,
    /// Tried, and not done; the detail says why.
    Failed,
    /// Not tried, or found to have nothing to do; the detail says why.
    Skipped,
}

impl fmt::Display for StepState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        })
    }
}

/// One step of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which one.
    #[serde(rename = "step")]
    pub kind: StepKind,
    /// How far it has come.
    pub state: StepState,
    /// How long it took, in seconds; of its last attempt, if a crash made it begin again. 0 while pending.
    pub seconds: f64,
    /// What it has to say.
    pub detail: Detail,
    /// What it is about: the store of a rollback, the names of the secrets to rotate.
    pub targets: Vec<String>,
    /// When its last attempt began.
    pub started: Option<Timestamp>,
    /// How often it was begun.
    pub attempts: u32,
    /// The longest time it may take, in seconds; only steps before the stop have one.
    pub limit_seconds: Option<f64>,
    /// Whether it waits until a person approves it.
    pub needs_approval: bool,
    /// When a person approved it.
    pub approved: Option<Timestamp>,
}

impl Step {
    /// Whether nothing more will happen in this step.
    pub fn is_settled(&self) -> bool {
        self.state != StepState::Pending
    }

    /// Whether the step was begun and not ended: it is under way, or a crash cut it short.
    pub fn is_running(&self) -> bool {
        !self.is_settled() && self.started.is_some()
    }

    /// Whether the step is over without what it was there for. An aid to the stop never falls short, and to find nothing to do is no
    /// shortcoming; not to be allowed to do it is one.
    pub fn falls_short(&self) -> bool {
        match self.state {
            StepState::Done | StepState::Pending => false,
            _ if self.kind.is_aid() => false,
            StepState::Failed => true,
            StepState::Skipped => self.detail.get("nothing_to_do") != Some(&Value::Bool(true)),
        }
    }

    /// Whether the step can't begin before a person approves it.
    pub fn awaits_approval(&self) -> bool {
        !self.is_settled() && self.needs_approval && self.approved.is_none()
    }
}

/// The durable record of one emergency and each step taken in it.
///
/// Its JSON form is the answer of `estop incident show --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// The version of this form.
    pub schema_version: u32,
    /// Its name.
    pub id: IncidentId,
    /// What set it off.
    pub trigger: Trigger,
    /// In a person's words, or the limit that was reached.
    pub reason: Option<String>,
    /// The workloads concerned.
    pub workloads: Vec<String>,
    /// When it began.
    pub opened: Timestamp,
    /// When it was over; none while it is open.
    pub closed: Option<Timestamp>,
    /// How it ended; none while it is open.
    pub outcome: Option<Outcome>,
    /// Why it was given up, if it was.
    pub abort_reason: Option<String>,
    /// The steps, in the order in which they are taken.
    pub steps: Vec<Step>,
}

impl Incident {
    /// A new incident, open, with the steps of `plan` before it. Nothing is written yet.
    #[must_use]
    pub fn new(trigger: Trigger, reason: Option<String>, workloads: Vec<String>, plan: &Plan) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            id: IncidentId::new(),
            trigger,
            reason,
            workloads,
            opened: Timestamp::now(),
            closed: None,
            outcome: None,
            abort_reason: None,
            steps: plan.steps().iter().map(PlannedStep::to_step).collect(),
        }
    }

    /// Takes over the steps of the stop from whoever took them already, as a guardian does that stops its job by itself. `answer` is what
    /// the saga would have got from its [`Actions`](crate::Actions). Steps that are settled, and steps after the stop, stay as they are.
    pub fn already_taken(&mut self, kind: StepKind, state: StepState, seconds: f64, detail: &Detail) {
        if !kind.is_containment() || state == StepState::Pending {
            return;
        }
        let opened = self.opened;
        for step in self.steps.iter_mut().filter(|step| step.kind == kind && !step.is_settled()) {
            step.started = Some(opened);
            step.attempts = 1;
            step.state = state;
            step.seconds = seconds;
            step.detail.clone_from(detail);
        }
    }

    /// Whether the incident is not over.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// Whether all that is left waits for a person.
    pub fn awaits_approval(&self) -> bool {
        self.is_open() && self.steps.iter().any(Step::awaits_approval) && !self.steps.iter().any(Step::is_running)
    }

    /// Whether the workloads were stopped and that was proven.
    pub fn is_stop_proven(&self) -> bool {
        let mut stops = self.steps.iter().filter(|step| step.kind == StepKind::Stop).peekable();
        stops.peek().is_some() && stops.all(|step| step.state == StepState::Done)
    }

    /// Whether every step of the stop was carried out, well or badly.
    pub fn is_stop_settled(&self) -> bool {
        self.steps.iter().filter(|step| step.kind.is_containment()).all(Step::is_settled)
    }

    pub(crate) fn begin(&mut self, index: usize) {
        let step = &mut self.steps[index];
        step.started = Some(Timestamp::now());
        step.attempts = step.attempts.saturating_add(1);
    }

    pub(crate) fn settle(&mut self, index: usize, state: StepState, seconds: f64, detail: Detail) {
        let step = &mut self.steps[index];
        step.state = state;
        step.seconds = seconds;
        step.detail = detail;
    }

    pub(crate) fn skip(&mut self, index: usize, reason: &str) {
        let mut detail = Detail::new();
        detail.insert("reason".into(), reason.into());
        self.settle(index, StepState::Skipped, 0.0, detail);
    }

    /// Closes the incident with the outcome that its steps add up to.
    pub(crate) fn close(&mut self) {
        self.outcome = Some(self.outcome_of_steps());
        self.closed = Some(Timestamp::now());
    }

    /// Gives up what is left.
    pub(crate) fn abort(&mut self, reason: &str) {
        for index in 0..self.steps.len() {
            if !self.steps[index].is_settled() {
                self.skip(index, &format!("aborted: {reason}"));
            }
        }
        self.abort_reason = Some(reason.to_owned());
        self.outcome = Some(Outcome::Partial);
        self.closed = Some(Timestamp::now());
    }

    fn outcome_of_steps(&self) -> Outcome {
        let counted = || self.steps.iter().filter(|step| !step.kind.is_aid());
        if !self.is_stop_proven() || counted().any(|step| !step.is_settled() || step.falls_short()) {
            Outcome::Partial
        } else if counted().any(|step| step.state == StepState::Done && is_repair(step.kind)) {
            Outcome::Recovered
        } else {
            Outcome::Stopped
        }
    }
}

fn is_repair(kind: StepKind) -> bool {
    matches!(kind, StepKind::Rollback | StepKind::Rotate | StepKind::Restart)
}
