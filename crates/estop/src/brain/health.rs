//! Looking whether a workload is ready, and whether it still works.

use std::sync::Arc;
use std::time::Instant;

use estop_watchdog::guardian::table::State;
use estop_watchdog::guardian::{Client, http};
use estop_watchdog::registry::JobDir;
use tokio::sync::mpsc;

use super::Brain;
use crate::config::{Check, Probe, Workload};
use crate::engine::launch::check_command;

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It is ready to work.
    Ready,
    /// It is not, or not any more; why.
    Failed(String),
}

/// Looks at the workload `name` for as long as somebody hears what is found out, and until it has failed.
pub(super) fn watch(brain: &Arc<Brain>, name: &str, dir: JobDir) -> mpsc::Receiver<Health> {
    let (found, hears) = mpsc::channel(2);
    let workload = brain.site.config.workloads[name].clone();
    tokio::spawn(async move {
        let work = async {
            if let Some(check) = &workload.ready
                && let Err(reason) = become_ready(&workload, check, &dir).await
            {
                let _ = found.send(Health::Failed(reason)).await;
                return;
            }
            // Of its own word, the guardian is the one who keeps time.
            let alive = workload.alive.as_ref().filter(|check| check.probe != Probe::Notify);
            if found.send(Health::Ready).await.is_ok()
                && let Some(check) = alive
            {
                let reason = fail(&workload, check, &dir).await;
                let _ = found.send(Health::Failed(reason)).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = found.closed() => {}
        }
    });
    hears
}

/// Looks until it is ready.
///
/// # Errors
/// Why it is not by then.
async fn become_ready(workload: &Workload, check: &Check, dir: &JobDir) -> Result<(), String> {
    let begun = Instant::now();
    let within = check.within().duration();
    loop {
        let detail = match look(workload, check, dir).await {
            Ok(()) => return Ok(()),
            Err(detail) => detail,
        };
        if begun.elapsed() >= within {
            return Err(format!("it was not ready within {}: {detail}", check.within()));
        }
        tokio::time::sleep(check.every.duration().min(within)).await;
    }
}

/// Looks until it has failed so often in a row; why.
async fn fail(workload: &Workload, check: &Check, dir: &JobDir) -> String {
    let mut failures = 0;
    loop {
        tokio::time::sleep(check.every.duration()).await;
        match look(workload, check, dir).await {
            Ok(()) => failures = 0,
            // What is made to stand still cannot answer.
            Err(_) if !runs(dir).await => failures = 0,
            Err(detail) => {
                failures += 1;
                if failures >= check.failures() {
                    return format!("it failed {failures} checks in a row: {detail}");
                }
            }
        }
    }
}

/// Looks once.
///
/// # Errors
/// What is not as it should be.
async fn look(workload: &Workload, check: &Check, dir: &JobDir) -> Result<(), String> {
    let (timeout, dir) = (check.timeout.duration(), dir.clone());
    let slow = || format!("no answer within {}", check.timeout);
    match &check.probe {
        Probe::Tcp(address) => {
            let connected = tokio::time::timeout(timeout, tokio::net::TcpStream::connect(address)).await;
            connected.map_err(|_| slow())?.map(drop).map_err(|error| format!("{address}: {error}"))
        }
        Probe::Http(url) => {
            let url = url.clone();
            blocking(move || http::get(&url, timeout)).await
        }
        Probe::Exec(_) => {
            let command = check_command(workload, check);
            blocking(move || {
                let exit = Client::new(&dir).and_then(|mut client| client.run(command, timeout));
                match exit.map_err(|error| error.to_string())?.code {
                    Some(0) => Ok(()),
                    Some(code) => Err(format!("the command ended with {code}")),
                    None => Err("the command was killed".to_owned()),
                }
            })
            .await
        }
        Probe::Notify => {
            let ready = blocking(move || status(&dir).map(|status| status.ready == Some(true))).await?;
            if ready { Ok(()) } else { Err("it has not said so (READY=1)".to_owned()) }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

fn status(dir: &JobDir) -> Result<estop_watchdog::guardian::wire::Status, String> {
    Client::new(dir).and_then(|mut client| client.status()).map_err(|error| error.to_string())
}

/// Whether it runs, and is not made to stand still.
async fn runs(dir: &JobDir) -> bool {
    let dir = dir.clone();
    blocking(move || status(&dir)).await.is_ok_and(|status| status.state == State::Running)
}
