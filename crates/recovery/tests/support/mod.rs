//! Actions that do as they are told and note what was asked of them, and a journal that can die.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use estop_recovery::{
    Actions, Answer, Detail, Error, Failure, Incident, IncidentStore, Journal, Order, Plan, Result as RecoveryResult,
    Run, Saga, Settings, StepKind, Stopped, Trigger,
};

/// What an action does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Well,
    Nothing,
    Badly,
    /// A stop that ends but is not proven; elsewhere as `Badly`.
    Unproven,
    Panics,
}

/// The power of the machine: when it is off, nothing is written and nothing is done any more, though the code runs on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Power(Arc<AtomicBool>);

impl Power {
    pub(crate) fn off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn on(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// One call of an action, with what was known of the incident then.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) stop_proven: bool,
    pub(crate) kind: StepKind,
}

#[derive(Debug, Default)]
pub(crate) struct Scripted {
    pub(crate) ways: BTreeMap<String, Way>,
    pub(crate) power: Power,
    pub(crate) calls: Mutex<Vec<Call>>,
}

impl Scripted {
    pub(crate) fn new(ways: &[(&str, Way)]) -> Self {
        Self { ways: ways.iter().map(|(name, way)| ((*name).to_owned(), *way)).collect(), ..Self::default() }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(|call| call.name.clone()).collect()
    }

    fn way(&self, kind: StepKind, name: &str, order: &Order) -> Way {
        if self.power.is_off() {
            return Way::Badly;
        }
        self.calls.lock().unwrap().push(Call {
            name: name.to_owned(),
            attempt: order.attempt,
            stop_proven: order.incident.is_stop_proven(),
            kind,
        });
        let way = self.ways.get(name).copied().unwrap_or(Way::Well);
        assert!(way != Way::Panics, "as told");
        way
    }

    fn answer(&self, kind: StepKind, name: &str, order: &Order) -> Result<Answer, Failure> {
        match self.way(kind, name, order) {
            Way::Well => Ok(Answer::done()),
            Way::Nothing => Ok(Answer::NothingToDo { reason: "nothing there".into() }),
            Way::Badly | Way::Unproven | Way::Panics => Err(Failure::new("as told")),
        }
    }
}

impl Actions for Scripted {
    fn latch(&self, order: &Order) -> Result<Answer, Failure> {
        self.answer(StepKind::Latch, "latch", order)
    }

    fn freeze(&self, order: &Order) -> Result<Answer, Failure> {
        self.answer(StepKind::Freeze, "freeze", order)
    }

    fn capture(&self, order: &Order) -> Result<Answer, Failure> {
        self.answer(StepKind::Capture, "capture", order)
    }

    fn stop(&self, order: &Order) -> Result<Stopped, Failure> {
        let proven = |proven_empty| Ok(Stopped { proven_empty, detail: Detail::new() });
        match self.way(StepKind::Stop, "stop", order) {
            Way::Well | Way::Nothing => proven(true),
            Way::Unproven => proven(false),
            Way::Badly | Way::Panics => Err(Failure::new("as told")),
        }
    }

    fn rollback(&self, order: &Order, store: &str) -> Result<Answer, Failure> {
        self.answer(StepKind::Rollback, &format!("rollback {store}"), order)
    }

    fn rotate(&self, order: &Order, secrets: &[String]) -> Result<Answer, Failure> {
        assert!(!secrets.is_empty());
        self.answer(StepKind::Rotate, "rotate", order)
    }

    fn verify(&self, order: &Order) -> Result<Answer, Failure> {
        self.answer(StepKind::Verify, "verify", order)
    }

    fn restart(&self, order: &Order) -> Result<Answer, Failure> {
        self.answer(StepKind::Restart, "restart", order)
    }
}

/// A journal on a real store that loses power at the n-th write: before it, or after it is durable.
#[derive(Debug)]
pub(crate) struct Fragile {
    pub(crate) store: IncidentStore,
    pub(crate) power: Power,
    pub(crate) writes: AtomicUsize,
    /// The write (from 0) at which the power fails, and whether that write still becomes durable.
    pub(crate) cut: Option<(usize, bool)>,
}

impl Journal for Fragile {
    fn save(&self, incident: &Incident) -> RecoveryResult<()> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        let cut = self.cut.filter(|(at, _)| *at == number);
        if cut == Some((number, false)) {
            self.power.off();
        }
        if self.power.is_off() {
            return Err(Error::InvalidPlan { detail: "no power".into() });
        }
        self.store.save(incident)?;
        if cut.is_some() {
            self.power.off();
        }
        Ok(())
    }
}

/// Every kind of step: two stores, a secret, a restart.
pub(crate) fn full_plan() -> Plan {
    Plan::build(&Settings {
        rollback: vec!["kb".into(), "mail".into()],
        rotate: vec!["db/password".into()],
        restart: true,
        ..Settings::default()
    })
    .unwrap()
}

/// The same without the restart, so that nothing waits for a person.
pub(crate) fn plan() -> Plan {
    Plan::build(&Settings {
        rollback: vec!["kb".into(), "mail".into()],
        rotate: vec!["db/password".into()],
        ..Settings::default()
    })
    .unwrap()
}

pub(crate) fn saga(journal: &Arc<impl Journal>, actions: &Arc<Scripted>) -> Saga {
    let actions: Arc<dyn Actions> = Arc::clone(actions) as Arc<dyn Actions>;
    Saga::new(Arc::clone(journal) as Arc<dyn Journal>, actions, Box::new(|_| {}))
}

pub(crate) fn open(saga: &Saga, plan: &Plan) -> Run {
    saga.open(Trigger::Operator, Some("a test".into()), vec!["agent".into()], plan)
}

pub(crate) fn states(incident: &Incident) -> Vec<String> {
    incident.steps.iter().map(|step| format!("{} {}", step.kind, step.state)).collect()
}

/// Whether the calls are those expected, in order; but for the rotation, which may come anywhere between the stop and the check.
pub(crate) fn assert_order<T: AsRef<str>>(calls: &[T], expected: &[&str]) {
    let without =
        |names: Vec<&str>| names.into_iter().filter(|name| *name != "rotate").map(str::to_owned).collect::<Vec<_>>();
    let calls: Vec<&str> = calls.iter().map(AsRef::as_ref).collect();
    assert_eq!(without(calls.clone()), without(expected.to_vec()));
    let at = |name: &str| calls.iter().position(|call| *call == name);
    if expected.contains(&"rotate") {
        let rotate = at("rotate").expect("it was rotated");
        assert!(at("stop") < Some(rotate) && at("verify").is_none_or(|verify| rotate < verify), "{calls:?}");
    }
}
