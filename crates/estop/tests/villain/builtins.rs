//! The commands that change or know the shell itself.

use std::process::Command;
use std::time::Duration;

use crate::asked;
use crate::processes::code;
use crate::shell::{Exit, Shell, Variable};
use crate::streams::path;

/// A command of the shell's own. Gives what it comes to.
pub(crate) type Builtin = fn(&mut Shell, &[String]) -> Result<i32, Exit>;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "cd" => cd,
        "exit" => exit,
        "export" => export,
        "kill" => kill,
        "trap" => trap,
        // What is made on Windows has no such mask, and elsewhere these scripts do not depend on it.
        "umask" => |_, _| Ok(0),
        "unset" => unset,
        "wait" => wait,
        _ => return None,
    })
}

fn cd(shell: &mut Shell, arguments: &[String]) -> Result<i32, Exit> {
    let home = || shell.parameter("HOME");
    let to = arguments.first().cloned().unwrap_or_else(home);
    let Err(error) = std::env::set_current_dir(path(&to)) else { return Ok(0) };
    shell.streams.complain(&format!("cd: {to}: {error}"));
    Ok(2)
}

fn exit(shell: &mut Shell, arguments: &[String]) -> Result<i32, Exit> {
    let code = arguments.first().map_or(Ok(shell.status), |code| code.parse());
    Err(code.map_or_else(|_| shell.fail("exit: no number"), Exit))
}

fn export(shell: &mut Shell, arguments: &[String]) -> Result<i32, Exit> {
    for argument in arguments {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (&argument[..], shell.parameter(argument)),
        };
        shell.variables.insert(name.to_owned(), Variable { value, exported: true });
    }
    Ok(0)
}

fn unset(shell: &mut Shell, arguments: &[String]) -> Result<i32, Exit> {
    shell.variables.retain(|name, _| !arguments.contains(name));
    Ok(0)
}

fn trap(shell: &mut Shell, arguments: &[String]) -> Result<i32, Exit> {
    let Some((action, signals)) = arguments.split_first() else { return Err(shell.fail("trap: nothing to do")) };
    for signal in signals {
        let Some(name) = asked::NAMES.into_iter().find(|name| name == signal) else {
            return Err(shell.fail(&format!("trap: {signal} cannot be trapped")));
        };
        if shell.traps.insert(name, action.clone()).is_none() {
            asked::listen(name, shell.heard.0.clone());
        }
    }
    Ok(0)
}

fn wait(shell: &mut Shell, arguments: &[String]) -> Result<i32, Exit> {
    let wanted = |id: u32| arguments.is_empty() || arguments.contains(&id.to_string());
    let mut last = if arguments.is_empty() { 0 } else { 127 };
    let mut running = true;
    while running {
        running = false;
        // Without traps nothing but the ends of the jobs matters.
        if shell.traps.is_empty() {
            shell.jobs.iter_mut().filter(|job| wanted(job.id())).for_each(|job| drop(job.wait()));
        }
        for job in shell.jobs.iter_mut().filter(|job| wanted(job.id())) {
            match job.try_wait() {
                Ok(None) => running = true,
                Ok(Some(status)) if !arguments.is_empty() => last = code(status),
                _ => {}
            }
        }
        if let Ok(name) = shell.heard.1.try_recv() {
            // What it is to do for it is done by whoever looks next.
            let _ = shell.heard.0.send(name);
            return Ok(128);
        }
        if running {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(last)
}

/// On Windows a process can only be terminated, so that every signal but STOP and CONT, which come to nothing, does that. A shell
/// that ends itself does it with the code that a shell shows for it elsewhere.
fn kill(shell: &mut Shell, arguments: &[String]) -> Result<i32, Exit> {
    if !cfg!(windows) {
        return Ok(run(shell, Command::new("kill").args(arguments)));
    }
    let (signal, processes) = match arguments.split_first() {
        Some((signal, processes)) if signal.starts_with('-') => (&signal[1..], processes),
        _ => ("TERM", arguments),
    };
    let numbers = [("HUP", 1), ("INT", 2), ("QUIT", 3), ("KILL", 9), ("SEGV", 11), ("TERM", 15)];
    let number = numbers.iter().find(|(name, _)| *name == signal).map(|(_, number)| *number);
    let Some(number) = number.or_else(|| signal.parse().ok()) else {
        return if ["STOP", "CONT"].contains(&signal) { Ok(0) } else { Err(shell.fail("kill: no such signal")) };
    };
    let mut failed = 0;
    for process in processes {
        if *process == std::process::id().to_string() {
            return Err(Exit(128 + number));
        }
        failed |= match shell.jobs.iter_mut().find(|job| job.id().to_string() == *process) {
            Some(job) => i32::from(job.kill().is_err()),
            None => run(shell, Command::new("taskkill").args(["/F", "/PID", process])),
        };
    }
    Ok(failed)
}

fn run(shell: &Shell, command: &mut Command) -> i32 {
    let [_, output, error] = shell.streams.stdio();
    command.stdout(output).stderr(error).status().map_or(127, code)
}
