//! How the daemon is told to end.

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};

use crate::failure::{Failure, Result};

/// The signals by which a command is told to end, of those that there are: Ctrl-C, and what stands for the console's other keys.
pub(crate) const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// Waits until this process is told to end. Whether the workloads are to end too: by a person's Ctrl-C they are; Ctrl-Break is
/// for the brain alone, and the next one adopts them. Where the console or the session ends, guardians hear it themselves.
///
/// # Errors
/// If these cannot be watched for.
pub(crate) async fn told_to_end() -> Result<bool> {
    let fail = |error| Failure::failed(format!("cannot watch for the console's signals: {error}"), "");
    let (mut interrupt, mut end) = (ctrl_c().map_err(fail)?, ctrl_break().map_err(fail)?);
    let (mut close, mut shutdown) = (ctrl_close().map_err(fail)?, ctrl_shutdown().map_err(fail)?);
    Ok(tokio::select! {
        _ = interrupt.recv() => true,
        _ = end.recv() => false,
        _ = close.recv() => false,
        _ = shutdown.recv() => false,
    })
}
