//! The brain's socket.

use std::sync::Arc;

use estop_recovery::Event;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::oneshot;

use super::Brain;
use super::api::{Answer, Call};
use super::supervise::Order;
use crate::failure::{Code, Failure, Result};
use crate::platform::channel::{Caller, Listener, authorize};

/// No question is longer, in bytes.
const QUESTION_LIMIT: u64 = 64 * 1024;

/// Answers until the brain ends.
pub(super) async fn serve(brain: Arc<Brain>, mut listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(caller) => {
                let brain = Arc::clone(&brain);
                tokio::spawn(async move {
                    if let Err(error) = converse(&brain, caller).await {
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

async fn converse(brain: &Arc<Brain>, caller: Caller) -> std::io::Result<()> {
    let allowed = authorize(&caller, &brain.site.run_dir)
        .map_err(|why| Failure::new(Code::Refused, "not-allowed", format!("the daemon does not answer: {why}"), ""));
    let (read, mut write) = tokio::io::split(caller);
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

async fn answer(brain: &Arc<Brain>, call: Call) -> Result<Value> {
    match call {
        Call::Status => {
            let known: serde_json::Map<String, Value> =
                brain.orders.keys().map(|name| (name.clone(), json!(brain.known(name)))).collect();
            Ok(
                json!({"pid": std::process::id(), "uptime_seconds": brain.started.elapsed().as_secs_f64(), "workloads": known}),
            )
        }
        Call::Start { name } => brain.start(&name).await.map(|()| Value::Null),
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

impl Brain {
    /// Has a workload started, and waits until it is ready.
    ///
    /// # Errors
    /// If there is none, or it is not started or does not get ready.
    pub(super) async fn start(&self, name: &str) -> Result<()> {
        let unknown = || {
            let names: Vec<&str> = self.orders.keys().map(String::as_str).collect();
            Failure::usage(format!("there is no workload {name}"), format!("the workloads are {}", names.join(", ")))
        };
        let (reply, answered) = oneshot::channel();
        let sender = self.orders.get(name).ok_or_else(unknown)?;
        let gone = || Failure::failed(format!("nobody watches over {name} any more"), "restart the daemon");
        sender.send(Order::Start(reply)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
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
