//! How the daemon is told to end.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Result};

/// The signals by which a command is told to end.
pub(crate) const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Waits until this process is told to end. Whether the workloads are to end too: by a person's Ctrl-C they are; a service
/// manager's SIGTERM is for the brain alone, and the next one adopts them.
///
/// # Errors
/// If signals cannot be watched for.
pub(crate) async fn told_to_end() -> Result<bool> {
    let watch = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot watch for signals: {error}"), ""));
    let (mut interrupt, mut terminate) = (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => true,
        _ = terminate.recv() => false,
    })
}
