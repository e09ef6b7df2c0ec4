//! Where the daemon's log goes: to standard error, and of a service to the system's own log too.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::cli::Output;
use crate::config::{Daemon, LogFormat};
use crate::platform::events;

/// Begins to log, as `settings` and the command line say. `service` is the service's name, if the daemon runs as one.
pub(crate) fn start(settings: &Daemon, output: &Output, service: Option<&str>) {
    let level = match output.verbose {
        0 => settings.log_level.as_str(),
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("ESTOP_LOG").unwrap_or_else(|_| EnvFilter::new(format!("warn,estop={level}")));
    let colour = output.colour && std::io::stderr().is_terminal() && service.is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let all = tracing_subscriber::registry().with(filter).with(lines).with(service.and_then(events::layer));
    // A second subscriber in one process is refused; the first one goes on.
    let _ = all.try_init();
}
