//! The order of the steps, what each failure leads to, and what holds nothing up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use estop_recovery::{
    Actions, Answer, Error, Event, Failure, Incident, IncidentStore, Journal, Order, Outcome, Plan, Saga, Settings,
    StepKind, StepState, Stopped, Trigger,
};
use support::{Scripted, Way, assert_order, full_plan, open, plan, saga, states};

struct Rig {
    _dir: tempfile::TempDir,
    store: Arc<IncidentStore>,
    actions: Arc<Scripted>,
}

fn rig(ways: &[(&str, Way)]) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(IncidentStore::open(&dir.path().join("incidents")).unwrap());
    Rig { _dir: dir, store, actions: Arc::new(Scripted::new(ways)) }
}

impl Rig {
    fn run(&self, plan: &Plan) -> Incident {
        let run = open(&saga(&self.store, &self.actions), plan);
        assert!(run.unrecorded.is_empty());
        assert_eq!(
            self.store.show(&run.incident.id.to_string()).unwrap(),
            run.incident,
            "the record is what was answered"
        );
        run.incident
    }
}

#[test]
fn takes_all_steps_in_order() {
    let rig = rig(&[]);
    let incident = rig.run(&plan());
    assert_order(
        &rig.actions.names(),
        &["latch", "freeze", "capture", "stop", "rollback kb", "rollback mail", "rotate", "verify"],
    );
    assert_eq!(incident.outcome, Some(Outcome::Recovered));
    assert!(incident.steps.iter().all(|step| step.state == StepState::Done && step.attempts == 1));
}

#[test]
fn a_stop_without_recovery_is_stopped() {
    let rig = rig(&[]);
    let incident = rig.run(&Plan::build(&Settings::default()).unwrap());
    assert_eq!(incident.outcome, Some(Outcome::Stopped));
}

#[test]
fn nothing_to_do_is_no_shortcoming() {
    let rig = rig(&[("rotate", Way::Nothing)]);
    let incident = rig.run(&plan());
    assert_eq!(incident.outcome, Some(Outcome::Recovered));
    assert!(states(&incident).contains(&"rotate skipped".to_owned()));
}

#[test]
fn each_step_failing_in_each_way() {
    for way in [Way::Badly, Way::Unproven, Way::Panics] {
        for failing in ["latch", "freeze", "capture", "stop", "rollback kb", "rollback mail", "rotate", "verify"] {
            let rig = rig(&[(failing, way)]);
            let incident = rig.run(&plan());
            let aid = matches!(failing, "freeze" | "capture");
            let expected = if aid { Outcome::Recovered } else { Outcome::Partial };
            assert_eq!(incident.outcome, Some(expected), "{failing} {way:?}");
            let called = rig.actions.names();
            for always in ["latch", "freeze", "capture", "stop", "rotate", "verify"] {
                assert!(called.contains(&always.to_owned()), "{always} after {failing} {way:?}");
            }
            let rolled_back = called.iter().filter(|name| name.starts_with("rollback")).count();
            assert_eq!(rolled_back, if failing == "stop" { 0 } else { 2 }, "{failing} {way:?}");
            let failed: Vec<_> = incident.steps.iter().filter(|step| step.state == StepState::Failed).collect();
            assert_eq!(failed.len(), 1, "{failing} {way:?}");
            assert!(failing.starts_with(failed[0].kind.as_str()));
        }
    }
}

#[test]
fn a_rollback_that_is_not_allowed_says_why() {
    let rig = rig(&[("stop", Way::Unproven)]);
    let incident = rig.run(&plan());
    let step = incident.steps.iter().find(|step| step.kind == StepKind::Rollback).unwrap();
    assert_eq!(step.state, StepState::Skipped);
    assert!(step.detail["reason"].as_str().unwrap().contains("not proven"), "{:?}", step.detail);
    assert_eq!(step.attempts, 0);
}

#[test]
fn a_restart_waits_for_a_person_and_then_goes_on() {
    let rig = rig(&[]);
    let incident = rig.run(&full_plan());
    assert_eq!(incident.outcome, None);
    assert!(incident.awaits_approval());
    assert!(!rig.actions.names().contains(&"restart".to_owned()));
    let id = incident.id.to_string();
    assert!(matches!(rig.store.approve(&id, Some(StepKind::Rollback)), Err(Error::NothingToApprove { .. })));
    let approved = rig.store.approve(&id, None).unwrap();
    let run = saga(&rig.store, &rig.actions).resume(approved).unwrap();
    assert_eq!(run.incident.outcome, Some(Outcome::Recovered));
    assert_eq!(rig.actions.names().iter().filter(|name| *name == "restart").count(), 1);
    assert_eq!(rig.actions.names().iter().filter(|name| *name == "stop").count(), 1, "done steps are not repeated");
    let again = saga(&rig.store, &rig.actions).resume(run.incident);
    assert!(matches!(again, Err(Error::Closed { .. })));
}

#[test]
fn an_approval_that_is_outstanding_holds_up_only_what_depends_on_it() {
    let rig = rig(&[]);
    let settings = Settings {
        rollback: vec!["kb".into()],
        rotate: vec!["db/password".into()],
        approval: BTreeSet::from([StepKind::Rollback]),
        ..Settings::default()
    };
    let incident = rig.run(&Plan::build(&settings).unwrap());
    assert_eq!(states(&incident)[4..], ["rollback pending", "rotate done", "verify pending"]);
    let approved = rig.store.approve(&incident.id.to_string(), Some(StepKind::Rollback)).unwrap();
    let run = saga(&rig.store, &rig.actions).resume(approved).unwrap();
    assert_eq!(run.incident.outcome, Some(Outcome::Recovered));
}

#[test]
fn nobody_is_asked_to_approve_what_will_not_happen() {
    let rig = rig(&[("stop", Way::Unproven)]);
    let settings = Settings {
        rollback: vec!["kb".into()],
        approval: BTreeSet::from([StepKind::Rollback]),
        restart: true,
        ..Settings::default()
    };
    let incident = rig.run(&Plan::build(&settings).unwrap());
    assert_eq!(incident.outcome, Some(Outcome::Partial));
    assert_eq!(states(&incident)[4..], ["rollback skipped", "verify done", "restart skipped"]);
}

#[test]
fn an_incident_that_waits_can_be_aborted() {
    let rig = rig(&[]);
    let incident = rig.run(&full_plan());
    let aborted = rig.store.abort(&incident.id.to_string(), "we rebuild the host").unwrap();
    assert_eq!(aborted.outcome, Some(Outcome::Partial));
    assert_eq!(aborted.abort_reason.as_deref(), Some("we rebuild the host"));
    assert!(aborted.steps.iter().all(estop_recovery::Step::is_settled));
    assert!(matches!(rig.store.abort(&incident.id.to_string(), "again"), Err(Error::Closed { .. })));
}

#[test]
fn an_abort_waits_for_the_stop() {
    let rig = rig(&[]);
    let saga = saga(&rig.store, &rig.actions);
    saga.control().abort("at once");
    let run = open(&saga, &plan());
    assert_eq!(rig.actions.names(), ["latch", "freeze", "capture", "stop"]);
    assert_eq!(run.incident.outcome, Some(Outcome::Partial));
    assert_eq!(run.incident.abort_reason.as_deref(), Some("at once"));

    let mut fresh = Incident::new(Trigger::Operator, None, vec![], &plan());
    rig.store.save(&fresh).unwrap();
    assert!(matches!(rig.store.abort(&fresh.id.to_string(), "no"), Err(Error::StopOutstanding { .. })));
    for kind in [StepKind::Latch, StepKind::Freeze, StepKind::Capture, StepKind::Stop] {
        fresh.already_taken(kind, StepState::Done, 0.1, &estop_recovery::Detail::new());
    }
    assert!(fresh.is_stop_proven());
}

#[test]
fn steps_that_a_guardian_took_are_not_taken_again() {
    let rig = rig(&[]);
    let mut incident = Incident::new(Trigger::Limit, None, vec!["agent".into()], &plan());
    incident.already_taken(StepKind::Freeze, StepState::Done, 0.001, &estop_recovery::Detail::new());
    incident.already_taken(StepKind::Stop, StepState::Done, 0.02, &estop_recovery::Detail::new());
    incident.already_taken(StepKind::Rollback, StepState::Done, 0.02, &estop_recovery::Detail::new());
    let run = saga(&rig.store, &rig.actions).run(incident);
    assert_order(&rig.actions.names(), &["latch", "capture", "rollback kb", "rollback mail", "rotate", "verify"]);
    assert_eq!(run.incident.outcome, Some(Outcome::Recovered));
}

#[test]
fn an_observer_sees_each_step_and_can_not_break_it() {
    let rig = rig(&[("capture", Way::Badly)]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let observer = move |event: Event<'_>| {
        let note = match event {
            Event::Opened { resumed, .. } => format!("opened {resumed}"),
            Event::Started { step, .. } => format!("> {}", step.kind),
            Event::Ended { step, .. } => format!("< {} {}", step.kind, step.state),
            Event::Waiting { step, .. } => format!("? {}", step.kind),
            Event::Unrecorded { .. } => "unrecorded".into(),
            Event::Closed { incident } => format!("closed {}", incident.outcome.unwrap()),
        };
        notes.lock().unwrap().push(note);
        panic!("standard output is closed");
    };
    let saga = Saga::new(rig.store.clone(), rig.actions.clone(), Box::new(observer));
    let run = open(&saga, &Plan::build(&Settings::default()).unwrap());
    assert_eq!(run.incident.outcome, Some(Outcome::Stopped));
    let expected = [
        "opened false",
        "> latch",
        "< latch done",
        "> freeze",
        "< freeze done",
        "> capture",
        "< capture failed",
        "> stop",
        "< stop done",
        "> verify",
        "< verify done",
        "closed stopped",
    ];
    // The lock is poisoned by the panic.
    assert_eq!(*seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner), expected);
}

/// A disk that refuses every write.
struct Full;

impl Journal for Full {
    fn save(&self, _: &Incident) -> estop_recovery::Result<()> {
        Err(Error::Io { action: "write", path: "full".into(), source: std::io::ErrorKind::StorageFull.into() })
    }
}

#[test]
fn without_a_record_it_stops_and_rotates_but_rolls_nothing_back() {
    let actions = Arc::new(Scripted::new(&[]));
    let run = open(&saga(&Arc::new(Full), &actions), &plan());
    assert_eq!(actions.names(), ["latch", "freeze", "capture", "stop", "rotate", "verify"]);
    assert_eq!(run.incident.outcome, Some(Outcome::Partial));
    assert!(!run.unrecorded.is_empty());
}

/// A disk that hangs until it is let go.
struct Hangs(Mutex<Receiver<()>>);

impl Journal for Hangs {
    fn save(&self, _: &Incident) -> estop_recovery::Result<()> {
        // Ends when the test drops the sender.
        let _ = self.0.lock().unwrap().recv();
        Ok(())
    }
}

#[test]
fn a_disk_that_hangs_does_not_hold_up_the_stop() {
    let (release, hanging) = channel::<()>();
    let release = Mutex::new(Some(release));
    let actions = Arc::new(Scripted::new(&[]));
    // The disk answers again only when the stop is over: if the stop waited for it, the test would never end.
    let observer = move |event: Event<'_>| {
        if let Event::Ended { step, .. } = event
            && step.kind == StepKind::Capture
        {
            assert!(release.lock().unwrap().is_some());
        }
        if let Event::Started { step, .. } = event
            && step.kind == StepKind::Stop
        {
            release.lock().unwrap().take();
        }
    };
    let saga = Saga::new(Arc::new(Hangs(Mutex::new(hanging))), actions.clone(), Box::new(observer));
    let run = open(&saga, &plan());
    assert!(run.unrecorded.iter().any(|error| matches!(error, Error::RecordTooSlow { .. })), "{:?}", run.unrecorded);
    assert_eq!(actions.names().len(), 8);
    assert_eq!(run.incident.outcome, Some(Outcome::Recovered), "after the stop the disk answered again");
}

/// Actions whose latch, freeze and capture hang until the stop has begun.
struct Stuck {
    begun: Mutex<Option<Sender<()>>>,
    hanging: Mutex<Receiver<()>>,
}

impl Stuck {
    fn hang(&self) -> Answer {
        let _ = self.hanging.lock().unwrap().recv();
        Answer::done()
    }
}

impl Actions for Stuck {
    fn latch(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(self.hang())
    }
    fn freeze(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(self.hang())
    }
    fn capture(&self, order: &Order) -> Result<Answer, Failure> {
        assert_eq!(order.limit, Some(Duration::from_millis(20)));
        Ok(self.hang())
    }
    fn stop(&self, order: &Order) -> Result<Stopped, Failure> {
        assert_eq!(order.limit, None);
        self.begun.lock().unwrap().take();
        Ok(Stopped { proven_empty: true, detail: estop_recovery::Detail::new() })
    }
    fn rollback(&self, _: &Order, _: &str) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
    fn rotate(&self, _: &Order, _: &[String]) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
    fn verify(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
    fn restart(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
}

#[test]
fn what_hangs_before_the_stop_is_left_behind() {
    let (begun, hanging) = channel();
    let actions = Stuck { begun: Mutex::new(Some(begun)), hanging: Mutex::new(hanging) };
    let dir = tempfile::tempdir().unwrap();
    let store = IncidentStore::open(dir.path()).unwrap();
    let limit = Duration::from_millis(20);
    let settings = Settings {
        rollback: vec!["kb".into()],
        latch_limit: limit,
        freeze_limit: limit,
        capture_limit: limit,
        ..Settings::default()
    };
    let saga = Saga::new(Arc::new(store), Arc::new(actions), Box::new(|_| {}));
    let incident = open(&saga, &Plan::build(&settings).unwrap()).incident;
    assert_eq!(
        states(&incident),
        ["latch failed", "freeze failed", "capture failed", "stop done", "rollback done", "verify done"]
    );
    assert!(incident.steps[2].detail["error"].as_str().unwrap().contains("limit"));
    assert_eq!(incident.outcome, Some(Outcome::Partial), "the latch did not hold");
}

/// A rollback that ends only when the rotation has begun, and a rotation that ends only when the rollback has.
struct Entwined {
    rotating: (Mutex<Sender<()>>, Mutex<Receiver<()>>),
    rolled_back: (Mutex<Sender<()>>, Mutex<Receiver<()>>),
}

impl Entwined {
    fn meet(tell: &Mutex<Sender<()>>, hear: &Mutex<Receiver<()>>) -> Result<Answer, Failure> {
        tell.lock().unwrap().send(())?;
        // Long enough for any machine; only a saga that takes one after the other ever waits for it.
        hear.lock().unwrap().recv_timeout(Duration::from_mins(1))?;
        Ok(Answer::done())
    }
}

impl Actions for Entwined {
    fn latch(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
    fn freeze(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
    fn capture(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
    fn stop(&self, _: &Order) -> Result<Stopped, Failure> {
        Ok(Stopped { proven_empty: true, detail: estop_recovery::Detail::new() })
    }
    fn rollback(&self, _: &Order, _: &str) -> Result<Answer, Failure> {
        Self::meet(&self.rolled_back.0, &self.rotating.1)
    }
    fn rotate(&self, _: &Order, _: &[String]) -> Result<Answer, Failure> {
        Self::meet(&self.rotating.0, &self.rolled_back.1)
    }
    fn verify(&self, order: &Order) -> Result<Answer, Failure> {
        let before = &order.incident.steps[..6];
        if before.iter().all(|step| step.state == StepState::Done) {
            Ok(Answer::done())
        } else {
            Err(Failure::new("checked too early"))
        }
    }
    fn restart(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
}

#[test]
fn an_exposed_key_does_not_wait_for_a_rollback() {
    let pair = || {
        let (sender, receiver) = channel();
        (Mutex::new(sender), Mutex::new(receiver))
    };
    let actions = Entwined { rotating: pair(), rolled_back: pair() };
    let dir = tempfile::tempdir().unwrap();
    let store = IncidentStore::open(dir.path()).unwrap();
    let settings = Settings { rollback: vec!["kb".into()], rotate: vec!["key".into()], ..Settings::default() };
    let saga = Saga::new(Arc::new(store), Arc::new(actions), Box::new(|_| {}));
    let incident = open(&saga, &Plan::build(&settings).unwrap()).incident;
    assert_eq!(incident.outcome, Some(Outcome::Recovered), "{:?}", states(&incident));
}

#[test]
fn the_json_is_that_of_the_contract() {
    let rig = rig(&[]);
    let incident = rig.run(&plan());
    let json = serde_json::to_value(&incident).unwrap();
    for field in ["schema_version", "id", "trigger", "reason", "workloads", "opened", "closed", "outcome", "steps"] {
        assert!(json.get(field).is_some(), "{field}");
    }
    assert_eq!(json["trigger"], "operator");
    assert_eq!(json["outcome"], "recovered");
    assert!(json["opened"].as_str().unwrap().ends_with('Z'));
    for step in json["steps"].as_array().unwrap() {
        assert!(step["step"].is_string() && step["seconds"].is_f64() && step["detail"].is_object());
        assert_eq!(step["state"], "done");
    }
    let fresh = Incident::new(Trigger::Fleet, None, vec![], &plan());
    assert_eq!(serde_json::to_value(&fresh).unwrap()["outcome"], serde_json::Value::Null);
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let steps = full_plan().steps().to_vec();
    let refused = |change: &dyn Fn(&mut Vec<estop_recovery::PlannedStep>)| {
        let mut changed = steps.clone();
        change(&mut changed);
        assert!(matches!(Plan::from_steps(changed.clone()), Err(Error::InvalidPlan { .. })), "{changed:?}");
    };
    refused(&|steps| steps.swap(2, 3));
    refused(&|steps| drop(steps.remove(3)));
    refused(&|steps| steps.insert(4, steps[3].clone()));
    refused(&|steps| steps[3].needs_approval = true);
    refused(&|steps| steps[3].limit_seconds = Some(1.0));
    refused(&|steps| steps[2].limit_seconds = None);
    refused(&|steps| steps[2].limit_seconds = Some(f64::NAN));
    refused(&|steps| steps[4].targets.clear());
    refused(&|steps| steps[5].targets = steps[4].targets.clone());
    refused(&|steps| steps[6].targets.clear());
    refused(&|steps| steps[7].targets.push("x".into()));
    refused(&|steps| steps[8].needs_approval = false);
    let twice = Settings { rollback: vec!["kb".into(), "kb".into()], ..Settings::default() };
    assert!(Plan::build(&twice).is_err());
}
