//! One module for each command, or for a few that belong together.

mod config;
pub(crate) mod doctor;
mod helper;
mod incident;
mod inspect;
mod log;
pub(crate) mod logging;
mod logs;
mod now;
mod record;
mod rotate;
mod run;
mod secret;
mod snapshot;
mod status;
mod tx;
pub(crate) mod up;
mod workload;

pub mod bench;
pub mod drill;

use std::process::ExitCode;

use clap::CommandFactory as _;
use serde_json::json;

use crate::cli::{Arguments, Command, Output};
use crate::failure::{Code, Failure, Result};
use crate::platform::service::service;
use crate::site::{Choice, Site};

/// Does what the command line says.
pub fn dispatch(arguments: Arguments, output: &Output) -> ExitCode {
    match arguments.command {
        Command::Run(ref options) => run::run(&arguments, options, output),
        Command::Service(ref command) => {
            let choice =
                Choice { config: arguments.config, state_dir: arguments.state_dir, run_dir: arguments.run_dir };
            output.end(service(&choice, command, output))
        }
        Command::Helper(ref command) => helper::main(command),
        Command::DrillAgent { knowledge, signs } => drill::agent::main(&knowledge, &signs),
        Command::Completions { shell } => output.end(completions(shell, output)),
        Command::Man => output.end(manual(output)),
        Command::Drill { scenario } => output.end(drill::drill(scenario, output)),
        Command::Bench { parts, rounds, processes } => {
            output.end(bench::bench(&bench::Wanted { parts, rounds, processes }, output))
        }
        command => {
            let Arguments { config, state_dir, run_dir, .. } = arguments;
            let choice = Choice { config, state_dir, run_dir };
            output.end(find(&choice, &command, output).and_then(|site| at(&site, command, output)))
        }
    }
}

/// The place for `command`. An emergency is not held up by a configuration that is broken.
fn find(choice: &Choice, command: &Command, output: &Output) -> Result<Site> {
    if !matches!(command, Command::Now { .. } | Command::Reset { .. }) {
        return Site::find(choice);
    }
    let (site, broken) = Site::find_anyway(choice)?;
    if let Some(broken) = broken {
        eprintln!("{}", broken.render(output.colour));
        let place = site.state_dir.display();
        eprintln!("estop: going on without the configuration, at {place}; another place is named by --state-dir");
    }
    Ok(site)
}

/// The commands that concern one estop.
fn at(site: &Site, command: Command, output: &Output) -> Result<Code> {
    match command {
        Command::Up => up::up(site, output),
        Command::Down => up::down(site, output),
        Command::Start { names } => workload::start(site, &names, output),
        Command::Stop { names, reason } => workload::stop(site, &names, &reason, output),
        Command::Restart { names } => workload::restart(site, &names, output),
        Command::Freeze { names } => workload::freeze(site, &names, output),
        Command::Thaw { names } => workload::thaw(site, &names, output),
        Command::Now { names, reason, category } => now::now(site, &names, &reason, category, output),
        Command::Reset { names, reason } => now::reset(site, &names, &reason, output),
        Command::Limit(command) => workload::limit(site, command, output),
        Command::Status => status::status(site, output),
        Command::Logs { name, follow } => logs::logs(site, &name, follow, output),
        Command::Inspect { name, job } => inspect::inspect(site, &name, job.as_deref(), output),
        Command::Snapshot(command) => snapshot::snapshot(site, command, output),
        Command::Rollback { store, to, paths, dry_run, force, privileges } => {
            snapshot::rollback(site, &store, &to, &paths, snapshot::How { dry_run, force, privileges }, output)
        }
        Command::Tx(command) => tx::tx(site, command, output),
        Command::Log { store, follow } => log::log(site, &store, follow, output),
        Command::Secret(command) => secret::secret(site, command, output),
        Command::Rotate { names, exposed_to, all, emergency, dry_run, revoke_anyway } => {
            let which = rotate::Which { names, exposed_to, all };
            rotate::rotate(site, &which, rotate::How { emergency, dry_run, revoke_anyway }, output)
        }
        Command::Incident(command) => incident::incident(site, command, output),
        Command::Record(command) => record::record(site, &command, output),
        Command::Doctor => doctor::doctor(site, output),
        Command::Config(command) => config::config(site, &command, output),
        Command::Run(_)
        | Command::Service(_)
        | Command::Helper(_)
        | Command::DrillAgent { .. }
        | Command::Completions { .. }
        | Command::Man
        | Command::Drill { .. }
        | Command::Bench { .. } => Err(Failure::usage("this command needs no place", "")),
    }
}

fn completions(shell: clap_complete::Shell, output: &Output) -> Result<Code> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "estop", &mut script);
    let script = String::from_utf8_lossy(&script);
    let answer = json!({"schema_version": 1, "shell": shell.to_string(), "script": script});
    output.result(&answer, |_| script.to_string());
    Ok(Code::Done)
}

fn manual(output: &Output) -> Result<Code> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command())
        .render(&mut page)
        .map_err(|error| Failure::failed(format!("cannot write the manual: {error}"), ""))?;
    let page = String::from_utf8_lossy(&page);
    output.result(&json!({"schema_version": 1, "roff": page}), |_| page.to_string());
    Ok(Code::Done)
}
