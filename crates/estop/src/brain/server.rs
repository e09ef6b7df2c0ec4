//! The brain's socket.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use estop_recovery::Event;
use estop_watchdog::registry::{RunDir, is_below_a_guardian, is_inside_a_job};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::Brain;
use super::api::{Answer, Call, short};
use super::supervise::Order;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// No question is longer, in bytes.
const QUESTION_LIMIT: u64 = 64 * 1024;

/// Binds the brain's socket.
///
/// # Errors
/// If it cannot be bound.
pub(super) fn listen(site: &Site) -> Result<UnixListener> {
    let path = site.brain_socket();
    // This process holds the brain's lock: a socket that is there is a dead brain's.
    let _ = std::fs::remove_file(&path);
    let fail = |error: std::io::Error| Failure::io("listen at", &path, &error);
    let directory = std::fs::File::open(&site.run_dir).map_err(fail)?;
    let listener = UnixListener::bind(short(&directory, &path)).map_err(fail)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Answers until the brain ends.
pub(super) async fn serve(brain: Arc<Brain>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let brain = Arc::clone(&brain);
                tokio::spawn(async move {
                    if let Err(error) = converse(&brain, stream).await {
                        tracing::debug!(%error, "a caller was not answered");
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "the brain's socket");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(brain: &Arc<Brain>, stream: UnixStream) -> std::io::Result<()> {
    let allowed = authorize(&stream, &brain.site);
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(QUESTION_LIMIT)).read_line(&mut line).await?;
    let result = match (allowed, serde_json::from_str(&line)) {
        (Err(failure), _) => Err(failure),
        (Ok(()), Ok(call)) => answer(brain, call).await,
        (Ok(()), Err(error)) => Err(Failure::usage(format!("the question is not understood: {error}"), "")),
    };
    let answer = match result {
        Ok(value) => Answer::Done(value),
        Err(failure) => Answer::Failed {
            code: failure.code as u8,
            kind: failure.kind.to_owned(),
            message: failure.message,
            hint: failure.hint,
        },
    };
    let mut text = serde_json::to_string(&answer).unwrap_or_default();
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

/// The same user or root, and nobody inside a job.
fn authorize(stream: &UnixStream, site: &Site) -> Result<()> {
    let refuse =
        |why: &str| Err(Failure::new(Code::Refused, "not-allowed", format!("the daemon does not answer: {why}"), ""));
    let Ok(peer) = stream.peer_cred() else { return refuse("the caller is not known") };
    if peer.uid() != rustix::process::geteuid().as_raw() && peer.uid() != 0 {
        return refuse("the caller is another user");
    }
    match peer.pid().map(i32::cast_unsigned) {
        // A caller that this PID namespace cannot name is outside of it, and so outside of every job.
        None | Some(0) => Ok(()),
        Some(pid) if is_inside_a_job(pid, true) || is_below_a_guardian(&RunDir::at(&site.run_dir), pid) => {
            refuse("the caller is inside a job")
        }
        Some(_) => Ok(()),
    }
}

async fn answer(brain: &Arc<Brain>, call: Call) -> Result<Value> {
    match call {
        Call::Status => {
            let known: serde_json::Map<String, Value> =
                brain.orders.keys().map(|name| (name.clone(), json!(brain.known(name)))).collect();
            Ok(
                json!({"pid": std::process::id(), "uptime_seconds": brain.started.elapsed().as_secs_f64(), "workloads": known}),
            )
        }
        Call::Start { name } => {
            let unknown = || {
                let names: Vec<&str> = brain.orders.keys().map(String::as_str).collect();
                Failure::usage(
                    format!("there is no workload {name}"),
                    format!("the workloads are {}", names.join(", ")),
                )
            };
            let (reply, answered) = oneshot::channel();
            let sender = brain.orders.get(&name).ok_or_else(unknown)?;
            let gone = || Failure::failed(format!("nobody watches over {name} any more"), "restart the daemon");
            sender.send(Order::Start(reply)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())??;
            Ok(Value::Null)
        }
        Call::Stay { name } => {
            let (reply, answered) = oneshot::channel();
            let told = match brain.orders.get(&name) {
                Some(sender) => sender.send(Order::Stay(reply)).await.is_ok(),
                None => false,
            };
            // Who is being started is not waiting any more.
            let stays = told && answered.await.unwrap_or(false);
            Ok(json!(stays))
        }
        Call::Resume { id } => {
            let brain = Arc::clone(brain);
            tokio::task::spawn_blocking(move || brain.resume(&id));
            Ok(Value::Null)
        }
        Call::Down => {
            let _ = brain.down.send(()).await;
            Ok(Value::Null)
        }
    }
}

/// An incident's steps, in the log.
pub(super) fn log_event(event: Event<'_>) {
    match event {
        Event::Ended { incident, step } => {
            tracing::warn!(incident = %incident.id, step = %step.kind, state = %step.state, seconds = step.seconds, "incident step");
        }
        Event::Waiting { incident, step } => {
            tracing::warn!(incident = %incident.id, step = %step.kind, "waits for approval");
        }
        Event::Unrecorded { incident, error } => tracing::error!(incident = %incident.id, %error, "not recorded"),
        Event::Opened { .. } | Event::Started { .. } | Event::Closed { .. } => {}
    }
}
