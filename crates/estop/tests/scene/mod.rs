//! A house with programs at work in it, none of which outlives the test, whatever becomes of it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use crate::house::until;
use crate::house::{House, Outcome, PATIENCE, code_of};

#[cfg(unix)]
pub(crate) mod frozen;
#[cfg(unix)]
pub(crate) mod group;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(unix)]
#[allow(unused_imports, reason = "each test file uses a part of it")]
pub(crate) use unix::{
    Held, Identity, Signal, TIERS, bystander, give, identity, is_root, process_state, runs, signal, spent_by, taken_by,
};
#[cfg(windows)]
use windows as system;
#[cfg(windows)]
#[allow(unused_imports, reason = "each test file uses a part of it")]
pub(crate) use windows::{Held, Identity, Signal, TIERS, bystander, identity, runs, signal, spent_by, taken_by};

/// A house, the user whose it is, and what runs in it.
pub(crate) struct Scene {
    house: House,
    guise: system::Guise,
    started: AtomicU32,
}

/// A started program.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Scene {
    /// With estop as the user that runs the tests.
    pub(crate) fn new() -> Self {
        let house = House::new();
        let scene = Self { guise: system::Guise::own(&house), house, started: AtomicU32::new(0) };
        std::fs::create_dir(scene.canary()).unwrap();
        scene
    }

    pub(crate) fn house(&self) -> &House {
        &self.house
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.house.path()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.house.state_dir().join("run")
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.path().join("canary")
    }

    /// A program of many habits, `VILLAIN HABIT`: everything it starts writes to `$CANARY` for as long as it lives.
    pub(crate) fn villain(&self) -> String {
        system::villain(&self.path()).display().to_string()
    }

    /// The program with these arguments, as the scene's user, to be found again.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.guise.command(self.house.command(arguments), &self.path());
        command.env("CANARY", self.canary());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.spawn(arguments).wait()
    }

    /// Runs the program with `--json`, expects this exit code, and gives its one object.
    #[track_caller]
    pub(crate) fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        self.run(&all).expect(code).json()
    }

    /// Starts the program; its output goes to files.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        self.start(&mut self.command(arguments))
    }

    /// Starts `command`; its output goes to files.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path().join(format!("out-{number}")), self.path().join(format!("err-{number}")));
        command.stdin(Stdio::null());
        let child = command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).spawn().unwrap();
        Running { child, out, err }
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn up(&self) -> Running {
        let mut brain = self.spawn(&["up"]);
        until("the daemon is up", || {
            assert!(brain.child.try_wait().unwrap().is_none(), "{}", brain.errors());
            brain.errors().contains("estop: up")
        });
        brain
    }

    /// What `status` says of `name`; null if it says nothing.
    pub(crate) fn status(&self, name: &str) -> Value {
        let status = self.json(0, &["status"]);
        let found = status["workloads"].as_array().unwrap().iter().find(|workload| workload["name"] == name).cloned();
        found.unwrap_or(Value::Null)
    }

    /// Waits until `name` is in `state`, and gives its status.
    #[track_caller]
    pub(crate) fn wait_state(&self, name: &str, state: &str) -> Value {
        let mut last = Value::Null;
        until(&format!("{name} is {state}"), || {
            last = self.status(name);
            last["state"] == state
        });
        last
    }

    /// Starts `estop run` with these options as job `name` and waits until `sign` is there, a file that its command makes.
    pub(crate) fn guard(&self, name: &str, options: &[&str], command: &[&str], sign: &str) -> Running {
        let mut arguments = vec!["run", "--name", name];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(command);
        let mut running = self.spawn(&arguments);
        let sign = self.path().join(sign);
        until("the command has begun", || {
            assert!(running.child.try_wait().unwrap().is_none(), "it ended: {}", running.errors());
            sign.exists()
        });
        running
    }

    /// Expects that nothing of the workload is alive now, nothing writes any more, and that what is left of estop ends.
    #[track_caller]
    pub(crate) fn expect_nothing_left(&self) {
        let left = self.workload_alive();
        assert!(left.is_empty(), "alive: {left:#?}");
        let before = self.written();
        until("estop itself has ended", || self.alive().is_empty());
        assert_eq!(before, self.written(), "something still writes");
        let left = system::left_in_the_system(self);
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// What each writer has written so far.
    pub(crate) fn written(&self) -> BTreeMap<PathBuf, u64> {
        let entries = std::fs::read_dir(self.canary()).unwrap().flatten();
        entries.map(|entry| (entry.path(), entry.metadata().map_or(0, |metadata| metadata.len()))).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let alive = self.alive();
            if alive.is_empty() {
                break;
            }
            system::end_all(self, &alive);
            std::thread::sleep(Duration::from_millis(5));
        }
        system::tidy(self, begun + PATIENCE);
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, which: Signal) {
        Held::new(self.pid()).signal(which);
    }

    /// Ends a daemon alone, as a service manager does.
    #[track_caller]
    pub(crate) fn leave(self) {
        system::leave(self);
    }

    /// What it has said on standard error so far.
    pub(crate) fn errors(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// What it has said on standard output so far.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome {
        until("the program has ended", || self.child.try_wait().unwrap().is_some());
        let code = code_of(self.child.wait().unwrap());
        Outcome { code, stdout: self.output(), stderr: self.errors() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
