//! The command line.

pub mod args;
pub mod output;
mod run_args;

use std::process::ExitCode;

use clap::Parser as _;

pub use args::{Arguments, BenchPart, Command};
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
    // What stands behind `--` is the command's own.
    let mut own = std::env::args_os().take_while(|argument| argument != "--");
    if !asked && own.any(|argument| argument == "--json") {
        println!("{}", Failure::usage(in_one_line(&error.to_string()), "see `estop --help`").to_json());
        return Code::Usage.into();
    }
    // A closed terminal leaves nobody to tell.
    let _ = error.print();
    if asked { Code::Done.into() } else { Code::Usage.into() }
}

/// The first paragraph of clap's message, which says what is wrong and, in lines of their own, with which arguments.
fn in_one_line(message: &str) -> String {
    let paragraph = message.lines().take_while(|line| !line.is_empty()).map(str::trim);
    paragraph.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
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
