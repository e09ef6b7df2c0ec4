//! What the tests' programs need from a host, as one portable program, for hosts that have no POSIX tools: a small shell, the
//! few commands that the scripts in these tests use, and the villain. It behaves by the name that it is called by:
//!
//! - `sh`: a subset of POSIX sh. What is in it stands in [`syntax`]; anything else is refused with an error.
//! - `villain HABIT`: what `scene/villain.sh` does. `villain COMMAND …` is that command.
//! - the name of a command, as listed in [`commands`] and [`programs`].
//! - any other name, `X`: the script `X.sh` beside it, which makes a script into something that Windows can execute.
//!
//! Where the host has no fork, whatever a shell forks for is a new process of this program (`--as NAME …`, whatever it is
//! called), so that a script's tree of processes is a real one.

#![allow(clippy::unwrap_used)]

mod asked;
mod builtins;
mod commands;
mod expand;
mod processes;
mod programs;
mod shell;
mod streams;
mod syntax;
mod words;

use std::ffi::OsString;
use std::path::Path;

use processes::Surroundings;
use shell::Shell;

/// The very script that the tests use on hosts with a shell.
const HABITS: &str = include_str!("../scene/villain.sh");

fn main() {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let name = stem(&argv[0].to_string_lossy());
    // The only one for which a text will not do.
    let code = if name == "show" {
        programs::show(&argv[1..])
    } else {
        let arguments: Vec<String> = argv[1..].iter().map(|one| one.to_string_lossy().into_owned()).collect();
        let around = Surroundings::own();
        match arguments.split_first() {
            Some((first, rest)) if first == "--as" && !rest.is_empty() => called(&rest[0], &rest[1..], &around),
            _ => called(&name, &arguments, &around),
        }
    };
    std::process::exit(code);
}

/// The name of a program without its directory and `.exe`.
fn stem(program: &str) -> String {
    let name =
        program.rsplit(['/', if cfg!(windows) { '\\' } else { '/' }]).next().unwrap_or(program).to_ascii_lowercase();
    name.strip_suffix(".exe").unwrap_or(&name).to_owned()
}

/// What this program is under `name`. Gives the exit code.
fn called(name: &str, arguments: &[String], around: &Surroundings) -> i32 {
    match (name, arguments.split_first()) {
        ("sh", _) => sh(arguments, around),
        ("villain", Some((first, rest))) if first == "sh" || is_command(first) => called(first, rest, around),
        ("villain", Some((habit, _))) if habit == "bomb" && nothing_caps_it() => {
            around.streams.complain("villain: Wine enforces no limit of processes: a bomb would take the host down");
            1
        }
        ("villain", _) => {
            let own = std::env::current_exe().unwrap().display().to_string();
            Shell::new(own, arguments.to_vec(), around).run(HABITS)
        }
        _ if is_command(name) => {
            if let Some(command) = commands::find(name) {
                return command(arguments, &around.streams);
            }
            programs::find(name).unwrap()(arguments, around)
        }
        _ => beside(arguments, around),
    }
}

/// Wine takes the limit of a job, and does not keep it.
fn nothing_caps_it() -> bool {
    cfg!(windows) && Path::new(r"Z:\proc\version").exists()
}

fn is_command(name: &str) -> bool {
    commands::find(name).is_some() || programs::find(name).is_some()
}

/// `sh -c SCRIPT [NAME [ARGUMENT…]]` and `sh FILE [ARGUMENT…]`.
fn sh(arguments: &[String], around: &Surroundings) -> i32 {
    match arguments {
        [option, script, rest @ ..] if option == "-c" => {
            let (name, rest) = rest.split_first().map_or(("sh".to_owned(), rest), |(name, rest)| (name.clone(), rest));
            Shell::new(name, rest.to_vec(), around).run(script)
        }
        [file, rest @ ..] if !file.starts_with('-') => run_file(&streams::path(file), file.clone(), rest, around),
        _ => {
            around.streams.complain("sh: usage: sh -c SCRIPT [NAME [ARGUMENT…]], sh FILE [ARGUMENT…]");
            2
        }
    }
}

fn beside(arguments: &[String], around: &Surroundings) -> i32 {
    let own = std::env::current_exe().unwrap();
    run_file(&own.with_extension("sh"), own.display().to_string(), arguments, around)
}

fn run_file(file: &Path, name: String, arguments: &[String], around: &Surroundings) -> i32 {
    match std::fs::read_to_string(file) {
        Ok(script) => Shell::new(name, arguments.to_vec(), around).run(&script),
        Err(error) => {
            around.streams.complain(&format!("{name}: {}: {error}", file.display()));
            127
        }
    }
}
