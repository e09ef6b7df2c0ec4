//! The power fails at every durable transition; what comes after takes up where the record ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use estop_recovery::{
    Actions, Answer, Detail, Failure, Incident, IncidentStore, Journal, Order, Outcome, Saga, StepState, Stopped,
    Trigger,
};
use support::{Fragile, Power, Scripted, assert_order, open, plan, saga};

const TRANSITIONS: usize = 17; // eight steps, each begun and ended; and the close

#[test]
fn a_power_cut_at_every_transition() {
    for durable in [false, true] {
        for cut in 0..TRANSITIONS {
            let dir = tempfile::tempdir().unwrap();
            let store = IncidentStore::open(dir.path()).unwrap();
            let power = Power::default();
            let fragile = |cut| {
                Arc::new(Fragile { store: store.clone(), power: power.clone(), writes: AtomicUsize::new(0), cut })
            };
            let actions = Arc::new(Scripted { power: power.clone(), ..Scripted::default() });
            let journal = fragile(Some((cut, durable)));
            let _ = open(&saga(&journal, &actions), &plan());
            assert!(power.is_off(), "the power failed at {cut}");

            power.on();
            let before: Vec<Incident> = store.list().unwrap().incidents;
            let done_before: Vec<String> = done(&before);
            let calls_before = actions.names().len();
            let last = match before.into_iter().next() {
                // The machine died before anything was recorded: there is no incident, and nothing was done.
                None => {
                    assert_eq!((cut, durable, calls_before), (0, false, 0));
                    continue;
                }
                Some(incident) if !incident.is_open() => {
                    assert_eq!((cut, durable), (TRANSITIONS - 1, true));
                    incident
                }
                Some(incident) => {
                    let id = incident.id.to_string();
                    let (_claim, incident) = store.take_up(&id).unwrap();
                    let run = saga(&fragile(None), &actions).resume(incident).unwrap();
                    assert!(run.unrecorded.is_empty());
                    run.incident
                }
            };
            assert_eq!(last.outcome, Some(Outcome::Recovered), "cut at {cut}, durable {durable}");
            let calls = actions.calls.lock().unwrap();
            for (number, call) in calls.iter().enumerate() {
                let earlier = calls[..number].iter().filter(|other| other.name == call.name).count();
                assert!(earlier <= 1, "{} was repeated more than once", call.name);
                if earlier == 1 {
                    assert!(number >= calls_before, "{} repeated without a crash", call.name);
                    assert_eq!(call.attempt, 2);
                    assert!(!done_before.contains(&call.name), "{} was done", call.name);
                }
            }
        }
    }
}

fn done(incidents: &[Incident]) -> Vec<String> {
    let steps = incidents.iter().flat_map(|incident| &incident.steps);
    steps
        .filter(|step| step.state == StepState::Done)
        .map(|step| {
            if step.kind.as_str() == "rollback" {
                format!("rollback {}", step.targets[0])
            } else {
                step.kind.to_string()
            }
        })
        .collect()
}

const CHILD_DIR: &str = "ESTOP_RECOVERY_TEST_DIR";
const CHILD_CUT: &str = "ESTOP_RECOVERY_TEST_CUT";

/// Kills its own process at the n-th write.
struct Doomed {
    store: IncidentStore,
    writes: AtomicUsize,
    cut: usize,
    durable: bool,
}

impl Journal for Doomed {
    fn save(&self, incident: &Incident) -> estop_recovery::Result<()> {
        let last = self.writes.fetch_add(1, Ordering::SeqCst) == self.cut;
        if last && !self.durable {
            die();
        }
        self.store.save(incident)?;
        if last {
            die();
        }
        Ok(())
    }
}

fn die() -> ! {
    // Not `abort`: that would leave a core file behind.
    #[cfg(unix)]
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    // No destructor runs, and nothing is written that is not written yet.
    std::process::exit(137)
}

/// Notes each action in a file, so that the next process can read it.
struct Noting(std::path::PathBuf);

impl Noting {
    fn note(&self, name: &str) -> Result<Answer, Failure> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0)?;
        // In one write: two actions may note at a time, and death may come between two writes.
        file.write_all(format!("{name}\n").as_bytes())?;
        Ok(Answer::done())
    }
}

impl Actions for Noting {
    fn latch(&self, _: &Order) -> Result<Answer, Failure> {
        self.note("latch")
    }
    fn freeze(&self, _: &Order) -> Result<Answer, Failure> {
        self.note("freeze")
    }
    fn capture(&self, _: &Order) -> Result<Answer, Failure> {
        self.note("capture")
    }
    fn stop(&self, _: &Order) -> Result<Stopped, Failure> {
        self.note("stop")?;
        Ok(Stopped { proven_empty: true, detail: Detail::new() })
    }
    fn rollback(&self, _: &Order, store: &str) -> Result<Answer, Failure> {
        self.note(&format!("rollback {store}"))
    }
    fn rotate(&self, _: &Order, _: &[String]) -> Result<Answer, Failure> {
        self.note("rotate")
    }
    fn verify(&self, _: &Order) -> Result<Answer, Failure> {
        self.note("verify")
    }
    fn restart(&self, _: &Order) -> Result<Answer, Failure> {
        self.note("restart")
    }
}

fn process(dir: &Path, cut: usize, durable: bool) {
    let store = IncidentStore::open(&dir.join("incidents")).unwrap();
    let journal = Arc::new(Doomed { store: store.clone(), writes: AtomicUsize::new(0), cut, durable });
    let saga = Saga::new(journal, Arc::new(Noting(dir.join("notes"))), Box::new(|_| {}));
    match store.list().unwrap().incidents.into_iter().next() {
        None => {
            let incident = Incident::new(Trigger::Operator, None, vec!["agent".into()], &plan());
            let _claim = store.claim(incident.id).unwrap();
            let _ = saga.run(incident);
        }
        Some(incident) => {
            let (_claim, incident) = store.take_up(&incident.id.to_string()).unwrap();
            if incident.is_open() {
                let _ = saga.resume(incident).unwrap();
            }
        }
    }
}

/// Not a test by itself: the process that the next one kills.
#[test]
fn child() {
    let (Some(dir), Ok(cut)) = (env::var_os(CHILD_DIR), env::var(CHILD_CUT)) else { return };
    let (cut, durable) = cut.split_once(' ').unwrap();
    process(Path::new(&dir), cut.parse().unwrap(), durable == "true");
}

fn spawn(dir: &Path, cut: usize, durable: bool) -> bool {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env(CHILD_DIR, dir)
        .env(CHILD_CUT, format!("{cut} {durable}"))
        .output()
        .unwrap()
        .status
        .success()
}

/// What the record and the notes say between two processes.
struct Checkpoint {
    done: Vec<String>,
    notes: Vec<String>,
    outcome: Option<Outcome>,
}

impl Checkpoint {
    fn read(dir: &Path) -> Self {
        let listing = IncidentStore::open(&dir.join("incidents")).unwrap().list().unwrap();
        assert!(listing.damaged.is_empty());
        assert!(listing.incidents.len() <= 1);
        let notes = std::fs::read_to_string(dir.join("notes")).unwrap_or_default();
        Self {
            done: done(&listing.incidents),
            notes: notes.lines().map(str::to_owned).collect(),
            outcome: listing.incidents.first().and_then(|incident| incident.outcome),
        }
    }

    fn calls(&self, step: &str) -> usize {
        self.notes.iter().filter(|note| *note == step).count()
    }
}

#[test]
fn a_process_killed_at_every_transition_and_again_while_resuming() {
    for durable in [false, true] {
        for cut in 0..TRANSITIONS {
            let dir = tempfile::tempdir().unwrap();
            assert!(!spawn(dir.path(), cut, durable), "killed at {cut}");
            let first = Checkpoint::read(dir.path());
            // The second process dies as well, a little further on, if it gets so far.
            spawn(dir.path(), 2, !durable);
            let second = Checkpoint::read(dir.path());
            assert!(spawn(dir.path(), usize::MAX, true));
            let last = Checkpoint::read(dir.path());
            assert_eq!(last.outcome, Some(Outcome::Recovered));
            for (before, after) in [(&first, &second), (&first, &last), (&second, &last)] {
                for step in &before.done {
                    assert_eq!(before.calls(step), after.calls(step), "cut at {cut}: {step} was done and was repeated");
                }
            }
            let mut order: Vec<&str> = last.notes.iter().map(String::as_str).collect();
            let mut seen = std::collections::BTreeSet::new();
            order.retain(|name| seen.insert(*name));
            let expected = ["latch", "freeze", "capture", "stop", "rollback kb", "rollback mail", "rotate", "verify"];
            assert_order(&order, &expected);
        }
    }
}
