//! The daemon as a service of Windows. See "Services" in the Windows documentation.

mod host;
mod manage;

use serde_json::{Value, json};

use crate::cli::Output;
use crate::cli::args::ServiceCommand;
use crate::commands::up::require_configuration;
use crate::failure::{Code, Result};
use crate::site::{Choice, Site};

/// Does what `command` says.
///
/// # Errors
/// What is wrong with the request, or the service control manager's answer.
pub(crate) fn service(choice: &Choice, command: &ServiceCommand, output: &Output) -> Result<Code> {
    match command {
        ServiceCommand::Install { name, manual } => {
            let site = Site::find(choice)?;
            require_configuration(&site)?;
            let not_offered = manage::install(name, *manual, &site)?;
            for setting in &not_offered {
                output.warn(&format!("this system's service control manager does not know the setting: {setting}"));
            }
            answer(
                name,
                output,
                "it is installed; `estop service start` starts it",
                json!({"not_offered": not_offered}),
            )
        }
        ServiceCommand::Start { name } => {
            manage::start(name)?;
            answer(name, output, "it runs", Value::Null)
        }
        ServiceCommand::Stop { name } => {
            manage::stop(name)?;
            answer(name, output, "the daemon has ended; its workloads go on", Value::Null)
        }
        ServiceCommand::Status { name } => answer(name, output, "", Value::Null),
        ServiceCommand::Uninstall { name } => {
            manage::uninstall(name)?;
            let gone = json!({"schema_version": 1, "name": name, "state": "absent"});
            output.result(&gone, |_| format!("there is no service {name} any more"));
            Ok(Code::Done)
        }
        ServiceCommand::Run { name } => host::run(name, choice, *output),
    }
}

/// What the service is now, with `more` beside it.
fn answer(name: &str, output: &Output, said: &str, more: Value) -> Result<Code> {
    let mut status = manage::status(name)?;
    if let (Value::Object(fields), Value::Object(more)) = (&mut status, more) {
        fields.extend(more);
    }
    output.result(&status, |status| {
        let shown = |field: &str| status[field].as_str().map_or_else(|| status[field].to_string(), str::to_owned);
        let line = format!("{name}: {}, started {}, as {}", shown("state"), shown("start"), shown("account"));
        if said.is_empty() { line } else { format!("{line}\n{said}") }
    });
    Ok(Code::Done)
}

/// The service control manager is told by the service's own program.
pub(crate) fn say_ready() {}

/// As above.
pub(crate) fn say_stopping() {}

/// It wants no signs of life.
pub(crate) async fn stay_alive() {}

/// Nothing that is done to the service reaches other processes.
pub(crate) fn set_apart(_guardian: u32, _name: &str, _id: &str) {}
