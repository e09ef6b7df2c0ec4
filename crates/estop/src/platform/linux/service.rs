//! The program as a service of the system.

use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

pub(crate) use super::scope::set_apart;
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

/// What the service manager has handed over to this process, by name. It does so once.
#[expect(unsafe_code, reason = "descriptors are handed over by their numbers")]
pub(super) fn handed_over() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let Ok(handed) = sd_notify::listen_fds_with_names() else { return Vec::new() };
    // SAFETY: the service manager has opened it for this very process, by `LISTEN_PID`, and nobody else here takes it.
    handed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()
}

/// Has the service manager keep `handle` for the next daemon, under `name`. Whether there is one that was told so.
pub(super) fn keep(name: &str, handle: impl AsFd) -> bool {
    let told = [NotifyState::FdStore, NotifyState::FdName(name)];
    std::env::var_os("NOTIFY_SOCKET").is_some() && sd_notify::notify_with_fds(&told, &[handle.as_fd()]).is_ok()
}

/// Has the service manager let go of what it keeps under `name`.
pub(super) fn forget(name: &str) {
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Without a service manager nobody listens, and one that does not hear acts by itself.
fn tell(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}
