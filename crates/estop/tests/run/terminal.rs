//! A person at a terminal.

use crate::scene::Scene;

const SCRIPT: &str = include_str!("../scene/terminal.py");

#[track_caller]
fn at_a_terminal(scenario: &str) {
    for options in [&[][..], &["--no-cgroup", "--no-pid-namespace"]] {
        let scene = Scene::new();
        let script = scene.house().file("terminal.py", SCRIPT);
        let mut command = std::process::Command::new("python3");
        for (name, value) in scene.command(&[]).get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.arg(script).args([scenario, crate::house::ESTOP, "run"]).args(options).arg("--");
        scene.start(&mut command).wait().expect(0);
        scene.expect_nothing_left();
    }
}

#[test]
fn a_shell_inside_has_job_control() {
    at_a_terminal("shell_inside");
}

#[test]
fn an_interrupt_ends_the_command() {
    at_a_terminal("interrupted");
}

#[test]
fn it_is_suspended_and_goes_on() {
    at_a_terminal("suspended");
}

#[test]
fn it_does_not_stay_suspended_without_its_shell() {
    at_a_terminal("abandoned");
}

#[test]
fn the_terminal_comes_back_to_the_caller() {
    at_a_terminal("terminal_comes_back");
}

#[test]
fn an_interpreter_inside_echoes() {
    at_a_terminal("python_inside");
}

#[test]
fn an_editor_inside_writes() {
    at_a_terminal("editor_inside");
}
