//! A folder, an estop in it, and a look at what lives that asks nobody but the system.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use estop_watchdog::emergency::{self, Groups, Instance, Request, Stopped};
use estop_watchdog::guardian::{self, Client, Guardian, GuardianSpec, StopStep, Streams};
use estop_watchdog::job::{Containment, JobSpec, Limits, Program};
use estop_watchdog::registry::{JobDir, Outcome, RunDir};
use estop_watchdog::stop::Category;

use crate::system;

/// A test by its name.
pub(crate) type Test = (&'static str, fn());

/// Which habit a villain has.
pub(crate) const HABIT: &str = "SCENE_HABIT";
/// Where villains leave word.
pub(crate) const CANARY: &str = "SCENE_CANARY";
/// How long anything may take on a busy machine. Reached only by a test that fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A folder of a test's own, and a program in it by whose name all villains are found.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(format!(
            "v{}{}",
            &uuid::Uuid::now_v7().simple().to_string()[20..],
            std::env::consts::EXE_SUFFIX
        ));
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        Self { dir, program }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self, name: &str) -> JobDir {
        RunDir::at(&self.path("run")).job(name)
    }

    /// A guardian, not yet started, for a villain with `habit`.
    pub(crate) fn spec(&self, name: &str, habit: &str) -> GuardianSpec {
        let mut environment: Vec<_> = std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect();
        environment.push((HABIT.to_owned().into(), habit.to_owned().into()));
        environment.push((CANARY.to_owned().into(), self.dir.path().into()));
        let job = JobSpec {
            name: name.to_owned(),
            id: uuid::Uuid::now_v7().to_string(),
            instance: format!("test-{}", std::process::id()),
            program: Program {
                argv: vec![self.program.clone().into()],
                environment,
                directory: Some(self.dir.path().to_owned()),
                ..Program::default()
            },
            limits: Limits::default(),
            together: None,
            containment: Containment::default(),
            output_counted: false,
            secrets_dir: None,
        };
        GuardianSpec {
            stop: vec![StopStep::plain(Duration::from_millis(300))],
            sample_interval: Duration::from_millis(50),
            ..GuardianSpec::new(job, self.path("run"), self.path("state"), uuid::Uuid::now_v7().to_string())
        }
    }

    /// As [`start`], once the villain has said that it is ready.
    pub(crate) fn running(&self, spec: &GuardianSpec) -> Guardian {
        let guardian = start(spec);
        until("it is ready", || self.path("ready").exists());
        guardian
    }

    pub(crate) fn client(&self, name: &str) -> Client {
        Client::new(&self.dir(name)).unwrap()
    }

    /// `CRITICAL_STOP` of everything here.
    pub(crate) fn now(&self) -> Stopped {
        let instance = Instance {
            run_dir: self.path("run"),
            state_dir: Some(self.path("state")),
            groups: Groups::Of(format!("test-{}", std::process::id())),
            keeps_incident: true,
        };
        let request = Request { names: &[], category: Category::Kill, reason: "the test says so", incident: "i" };
        emergency::critical_stop(&[instance], request)
    }

    /// All villains that are alive, as the system lists them.
    pub(crate) fn alive(&self) -> Vec<u32> {
        system::called(self.program.file_name().unwrap().to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn expect_nobody(&self) {
        let alive = self.alive();
        assert!(alive.is_empty(), "alive: {alive:?}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let begun = Instant::now();
        while !self.alive().is_empty() && begun.elapsed() < PATIENCE {
            for pid in self.alive() {
                system::kill(pid);
            }
        }
    }
}

/// Nothing to read, and nobody who reads.
pub(crate) fn quiet() -> Streams {
    Streams { input: Stdio::null(), output: Stdio::null(), error: Stdio::null() }
}

/// Starts a guardian with nothing to read and nobody who reads.
#[track_caller]
pub(crate) fn start(spec: &GuardianSpec) -> Guardian {
    guardian::start(spec, quiet()).unwrap()
}

/// Waits for the guardian's end. What it says of its job's.
pub(crate) fn outcome(guardian: &mut Guardian) -> Option<Outcome> {
    guardian.process.wait().unwrap();
    guardian.dir.outcome().unwrap()
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
