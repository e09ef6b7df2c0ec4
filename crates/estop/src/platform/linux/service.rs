//! The program as a service of the system.

use sd_notify::NotifyState;

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

/// Tells the service manager that the daemon is ready.
pub(crate) fn say_ready() {
    tell(NotifyState::Ready);
}

/// Tells the service manager that the daemon is about to end.
pub(crate) fn say_stopping() {
    tell(NotifyState::Stopping);
}

/// Gives the service manager a sign of life as often as it wants one, if it does.
pub(crate) async fn stay_alive() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        tell(NotifyState::Watchdog);
        tokio::time::sleep(limit / 3).await;
    }
}

/// Without a service manager nobody listens, and one that does not hear acts by itself.
fn tell(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}
