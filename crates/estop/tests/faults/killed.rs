//! `kill -9` and SIGSTOP of guardian and brain, in each state that a job can be in.

use super::trace::{Traced, guardian, works};
use crate::scene::{Held, Running, Scene, Signal, until};

/// The states of the table in which a job lives.
const STATES: [&str; 5] = ["running", "frozen", "held", "stopping", "survivors"];

/// A daemon with a workload in one of these states.
struct Stage {
    scene: Scene,
    brain: Option<Running>,
    guardian: u32,
    /// Whoever waits for a stop.
    waits: Option<Running>,
    /// What keeps the guardian from killing.
    tracer: Option<Traced>,
}

impl Stage {
    fn set(what: &str, keys: &str) -> Self {
        let scene = Scene::new();
        let villain = scene.villain();
        // One that is held has reached a limit for that, late enough to be there as a whole.
        let limit = if what == "held" { "limits.time.freeze = \"4s\"\n" } else { "" };
        let grace = if what == "survivors" { "100ms" } else { "60s" };
        scene.house().config(&format!(
            "[workload.a]\ncommand = [{villain:?}, \"everything\"]\ngrace = \"{grace}\"\n{keys}{limit}"
        ));
        let brain = Some(scene.up());
        until("it runs", || scene.canary().join("ready").exists());
        let guardian = guardian(&scene, "a");
        let mut stage = Self { scene, brain, guardian, waits: None, tracer: None };
        match what {
            "frozen" => {
                stage.scene.json(0, &["freeze", "a"]);
            }
            "stopping" => stage.waits = Some(stage.scene.spawn(&["--json", "stop", "a"])),
            "survivors" => {
                let inject = "inject=pwrite64,pidfd_send_signal:error=EPERM";
                stage.tracer =
                    Some(Traced::attach(guardian, &["-e", "trace=pwrite64,pidfd_send_signal", "-e", inject]));
                stage.waits = Some(stage.scene.spawn(&["--json", "stop", "a"]));
            }
            _ => {}
        }
        stage.scene.wait_state("a", if what == "held" { "frozen" } else { what });
        stage
    }

    /// What `status` says, whoever was killed or stopped.
    fn expect_told(&self, state: &str) {
        let told = self.scene.status("a");
        assert_eq!(told["state"], if state == "held" { "frozen" } else { state }, "{told:#}");
    }

    /// Stops it, past a guardian that does not answer if there is one.
    fn now(&mut self, unreachable: bool) {
        let answer = self.scene.json(0, &["now"]);
        let left = self.scene.workload_alive();
        assert!(left.is_empty(), "alive: {left:#?} {answer:#}");
        assert_eq!(answer["unreachable"].as_array().unwrap().len(), usize::from(unreachable), "{answer:#}");
        // From here on it may kill, and go on.
        self.tracer = None;
        Held::new(self.guardian).signal(Signal::CONT);
        drop(self.waits.take());
    }

    /// A daemon over the same state starts nothing that is latched, and starts it again after a reset.
    fn begin_again(mut self) {
        let brain = self.brain.take().unwrap();
        self.scene.wait_state("a", "latched");
        self.scene.json(0, &["reset"]);
        let _ = std::fs::remove_file(self.scene.canary().join("ready"));
        self.scene.json(0, &["start", "a"]);
        self.scene.wait_state("a", "running");
        self.scene.json(0, &["now"]);
        self.scene.json(0, &["down"]);
        brain.wait().expect(0);
        self.scene.expect_nothing_left();
    }
}

/// The state letter of a process, as `/proc` names it.
fn state_of(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

fn states() -> impl Iterator<Item = &'static str> {
    let traces = works();
    STATES.into_iter().filter(move |state| traces || *state != "survivors")
}

#[test]
fn a_guardian_that_is_killed_in_any_state_leaves_nobody() {
    for state in states() {
        // With a PID namespace its tree ends with it; without, the brain ends what was left.
        for keys in ["", "pid_namespace = false\n"] {
            let mut stage = Stage::set(state, keys);
            Held::new(stage.guardian).signal(Signal::KILL);
            stage.tracer = None;
            until(&format!("nothing of it is left ({state}, {keys:?})"), || stage.scene.workload_alive().is_empty());
            drop(stage.waits.take());
            until("status tells it", || {
                let now = &stage.scene.status("a")["state"];
                now == "failed" || now == "stopped"
            });
            // There is no job any more: no success, and latched.
            stage.scene.run(&["now"]).expect(3);
            stage.begin_again();
        }
    }
}

#[test]
fn a_guardian_that_is_stopped_in_any_state_saves_nobody() {
    for state in states() {
        let mut stage = Stage::set(state, "");
        Held::new(stage.guardian).signal(Signal::STOP);
        until("it stands still", || matches!(state_of(stage.guardian), Some('T' | 't')));
        stage.now(true);
        stage.begin_again();
    }
}

#[test]
fn a_brain_that_is_killed_in_any_state_is_not_needed_for_the_stop() {
    for state in states() {
        let mut stage = Stage::set(state, "");
        let brain = stage.brain.take().unwrap();
        brain.signal(Signal::KILL);
        brain.wait().expect(137);
        stage.expect_told(state);
        stage.now(false);
        stage.brain = Some(stage.scene.up());
        stage.begin_again();
    }
}

#[test]
fn a_brain_that_is_stopped_in_any_state_is_not_needed_for_the_stop() {
    for state in states() {
        let mut stage = Stage::set(state, "");
        stage.brain.as_ref().unwrap().signal(Signal::STOP);
        stage.expect_told(state);
        stage.now(false);
        stage.brain.as_ref().unwrap().signal(Signal::CONT);
        stage.begin_again();
    }
}

/// What a killed guardian has left without a PID namespace, and what a killed brain can no longer end, the next brain ends.
#[test]
fn what_both_have_left_the_next_brain_ends() {
    for state in states() {
        let mut stage = Stage::set(state, "pid_namespace = false\n");
        let brain = stage.brain.take().unwrap();
        brain.signal(Signal::KILL);
        brain.wait().expect(137);
        Held::new(stage.guardian).signal(Signal::KILL);
        stage.tracer = None;
        drop(stage.waits.take());
        until("its guardian has gone", || Held::new(stage.guardian).has_ended());
        let brain = stage.scene.up();
        // It may start the workload again: that is another guardian's.
        let first = stage.guardian;
        until(&format!("nothing of the first is left ({state})"), || {
            let again = &stage.scene.status("a")["guardian"]["pid"];
            stage.scene.workload_alive().is_empty() || again.is_u64() && *again != first
        });
        stage.scene.run(&["now"]);
        until("it has come to rest", || stage.scene.workload_alive().is_empty());
        stage.scene.wait_state("a", "latched");
        stage.scene.json(0, &["down"]);
        brain.wait().expect(0);
        stage.scene.expect_nothing_left();
    }
}
