//! The program as a service of the system.

use crate::cli::Output;
use crate::cli::args::ServiceCommand;
use crate::failure::{Code, Failure, Result};
use crate::site::Choice;

/// Refuses: services are a service manager's here.
///
/// # Errors
/// Always.
pub(crate) fn service(_choice: &Choice, _command: &ServiceCommand, _output: &Output) -> Result<Code> {
    Err(Failure::usage("services of Windows are on Windows only", "have your service manager run `estop up`"))
}
