//! The command line.

pub mod args;
pub mod output;
mod run_args;

use std::process::ExitCode;

use clap::Parser as _;

pub use args::{Arguments, Command};
pub use output::Output;
pub use run_args::{Pair, RunArguments};

use crate::commands;
use crate::failure::{Code, Failure};
use crate::site::{Choice, Site};

/// Reads the command line, does what it says and answers how it went.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(arguments.json, arguments.quiet, arguments.verbose);
    commands::dispatch(arguments, &output)
}

/// clap's own messages, with the exit codes of the contract.
fn refuse(error: &clap::Error) -> ExitCode {
    let asked = !error.use_stderr();
    if !asked && std::env::args_os().any(|argument| argument == "--json") {
        let message = error.to_string();
        let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
        println!("{}", Failure::usage(message, "see `estop --help`").to_json());
        return Code::Usage.into();
    }
    // A closed terminal leaves nobody to tell.
    let _ = error.print();
    if asked { Code::Done.into() } else { Code::Usage.into() }
}

impl Arguments {
    /// The place that the options name.
    ///
    /// # Errors
    /// As [`Site::find`].
    pub fn site(&self) -> crate::failure::Result<Site> {
        Site::find(&Choice {
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            run_dir: self.run_dir.clone(),
        })
    }
}
