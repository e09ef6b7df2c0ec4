//! `estop up` and `estop down`: the daemon.

use std::time::{Duration, Instant};

use super::config::Present;
use super::logging;
use crate::brain::{self, api};
use crate::cli::Output;
use crate::engine::launch::block_on;
use crate::failure::{Code, Failure, Result};
use crate::platform::ending::told_to_end;
use crate::platform::processes::forbid_tracing;
use crate::site::Site;

/// How long a daemon may take to end.
const DOWN_WAIT: Duration = Duration::from_mins(10);

/// Runs the daemon in the foreground.
///
/// # Errors
/// If the configuration is wrong, or another daemon runs.
pub(super) fn up(site: &Site, output: &Output) -> Result<Code> {
    require_configuration(site)?;
    logging::start(&site.config.estop, output, None);
    let told = *output;
    serve(site, told_to_end(), || told.note("estop: up"))?;
    Ok(Code::Done)
}

/// Runs the daemon of a configuration that makes sense, until `end` says that it is to end, and whether the workloads are to end
/// too. `ready` is called when it answers.
///
/// # Errors
/// If it cannot start, because another one runs for instance.
pub(crate) fn serve(site: &Site, end: impl Future<Output = Result<bool>>, ready: impl FnOnce()) -> Result<()> {
    forbid_tracing();
    block_on(brain::run(site.clone(), end, ready))
}

/// Refuses to go on without a configuration that makes sense.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn require_configuration(site: &Site) -> Result<()> {
    if !site.configured {
        return Err(Failure::usage(
            "the daemon needs a configuration",
            "name it with --config or ESTOP_CONFIG; `estop config schema` describes it",
        ));
    }
    site.check(Some(&Present::find(site)?))
}

/// Ends the daemon and, asking first, its workloads.
///
/// # Errors
/// If it cannot be reached, or does not end.
pub(super) fn down(site: &Site, output: &Output) -> Result<Code> {
    api::request(site, &api::Call::Down)?;
    let deadline = Instant::now() + DOWN_WAIT;
    while site.brain_socket().exists() {
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Code::NotProven,
                "not-down",
                "the daemon has not ended yet",
                "see `estop status`; `estop now` stops the workloads",
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    output.result(&serde_json::json!({"schema_version": 1, "down": true}), |_| "down".to_owned());
    Ok(Code::Done)
}
