//! `estop up` and `estop down`: the daemon.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

use super::config::Present;
use crate::brain::{self, api};
use crate::cli::Output;
use crate::config::LogFormat;
use crate::engine::launch::block_on;
use crate::failure::{Code, Failure, Result};
use crate::platform::ending::told_to_end;
use crate::site::Site;

/// How long a daemon may take to end.
const DOWN_WAIT: Duration = Duration::from_mins(10);

/// Runs the daemon in the foreground.
///
/// # Errors
/// If the configuration is wrong, or another daemon runs.
pub(super) fn up(site: &Site, output: &Output) -> Result<Code> {
    if !site.configured {
        return Err(Failure::usage(
            "the daemon needs a configuration",
            "name it with --config or ESTOP_CONFIG; `estop config schema` describes it",
        ));
    }
    site.check(Some(&Present::find(site)?))?;
    start_logging(site, output);
    let site = site.clone();
    let told = *output;
    block_on(async move { brain::run(site, told_to_end(), || told.note("estop: up")).await })?;
    Ok(Code::Done)
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

fn start_logging(site: &Site, output: &Output) {
    let level = match output.verbose {
        0 => site.config.estop.log_level.as_str(),
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("ESTOP_LOG").unwrap_or_else(|_| EnvFilter::new(format!("warn,estop={level}")));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output.colour && std::io::stderr().is_terminal());
    // A second subscriber in one process is refused; the first one goes on.
    let _ = match site.config.estop.log_format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
