//! Telling subscribers of a new version.
//!
//! A message names the secret, the version and the rotation; never the value. Each subscriber has a time limit and either
//! acknowledges or does not: files replaced, signals delivered, commands that exit with 0, webhooks that answer 2xx.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::exposure::{Channel, Exposure, ExposureLedger, record_async};
use crate::{Secret, SecretName, SecretValue, Version};

pub mod exec;
pub mod webhook;

/// How many subscribers of one secret are told at a time.
const PARALLEL: usize = 16;

/// How many are told at a time of all secrets together.
const MAX_TOLD_AT_ONCE: usize = 64;

/// What subscribers are told. Serializes to the JSON that commands get on stdin and webhooks as their body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The version of this form.
    pub schema_version: u32,
    /// The secret.
    pub name: SecretName,
    /// The new version. Who reads it should demand at least this one.
    pub version: Version,
    /// The revision of the store's document that has it (in Vault: the KV version).
    pub index: u64,
    /// The rotation. Told again after a crash or a failure, the id is the same.
    pub rotation_id: Uuid,
    /// Why it was rotated.
    pub reason: String,
    /// When it was promoted.
    pub time: Timestamp,
}

/// Who is told of a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscriber {
    /// A workload has the value in a file of its secrets directory, which is replaced. Done before the others are told.
    File {
        /// The workload.
        workload: String,
        /// The file's name in that directory.
        file: String,
    },
    /// A workload gets a signal.
    Signal {
        /// The signal's name without `SIG`: `HUP`.
        signal: String,
        /// The workload.
        workload: String,
    },
    /// A command is run with the message on stdin.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The message is posted to a URL.
    Webhook {
        /// Where to: https, or http on loopback.
        url: String,
        /// What signs it.
        key: SigningKey,
    },
}

/// What signs a message, so that its receiver can tell it from a forged one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// It is not signed.
    None,
    /// This.
    Key(SecretValue),
    /// It is to be signed, and the key cannot be had: it is not sent. Says why, for the report.
    Missing(String),
}

impl std::fmt::Display for Subscriber {
    /// The form shown in reports, without anything in a URL that may be a credential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { workload, file } => write!(f, "file {file} {workload}"),
            Self::Signal { signal, workload } => write!(f, "signal {signal} {workload}"),
            Self::Exec { command } => write!(f, "exec {}", command.first().map_or("", String::as_str)),
            Self::Webhook { url, .. } => write!(f, "webhook {}", webhook::shown(url)),
        }
    }
}

/// How workloads are reached. The program that runs them supplies it.
#[async_trait]
pub trait Delivery: Send + Sync {
    /// The present run of a workload, for the exposure ledger.
    ///
    /// # Errors
    /// A text for the report if the workload does not run, or must be given nothing.
    async fn run_id(&self, workload: &str) -> Result<String, String>;

    /// Sends a signal to the main process of a workload. Done when it is delivered.
    ///
    /// # Errors
    /// A text for the report.
    async fn signal(&self, workload: &str, signal: &str) -> Result<(), String>;

    /// Replaces a file in a workload's secrets directory, atomically. Called after the exposure has been recorded.
    ///
    /// # Errors
    /// A text for the report, without the value.
    async fn replace_file(&self, workload: &str, file: &str, value: &SecretValue) -> Result<(), String>;
}

/// A delivery for programs without workloads: there is nobody to reach.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoWorkloads;

#[async_trait]
impl Delivery for NoWorkloads {
    async fn run_id(&self, workload: &str) -> Result<String, String> {
        Err(format!("there is no workload {workload}"))
    }

    async fn signal(&self, workload: &str, _signal: &str) -> Result<(), String> {
        Err(format!("there is no workload {workload}"))
    }

    async fn replace_file(&self, workload: &str, _file: &str, _value: &SecretValue) -> Result<(), String> {
        Err(format!("there is no workload {workload}"))
    }
}

/// How one subscriber took it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notified {
    /// The subscriber, as [`Subscriber`] displays it.
    pub subscriber: String,
    /// Whether it acknowledged.
    pub acknowledged: bool,
    /// How long that took, in seconds.
    pub seconds: f64,
    /// Why it did not acknowledge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Limits of a notification.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For everything that one subscriber does, retries included.
    pub subscriber: Duration,
    /// For one try at a webhook.
    pub webhook_try: Duration,
    /// How often a webhook is tried.
    pub webhook_tries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { subscriber: Duration::from_secs(20), webhook_try: Duration::from_secs(5), webhook_tries: 4 }
    }
}

/// Tells subscribers.
pub struct Notifier {
    delivery: Arc<dyn Delivery>,
    ledger: Option<Arc<ExposureLedger>>,
    limits: Limits,
    webhooks: webhook::Sender,
    turns: Semaphore,
}

impl Notifier {
    /// A notifier that reaches workloads through `delivery` and records what it puts into their files in `ledger`.
    /// Without a ledger it puts nothing into files.
    pub fn new(delivery: Arc<dyn Delivery>, ledger: Option<Arc<ExposureLedger>>, limits: Limits) -> Self {
        let turns = Semaphore::new(MAX_TOLD_AT_ONCE);
        Self { delivery, ledger, limits, webhooks: webhook::Sender::new(limits), turns }
    }

    /// Tells all `subscribers` of `secret`: files first, so that who is told afterwards finds the new value there. The
    /// answers come in the order of the subscribers.
    pub async fn tell(&self, subscribers: &[Subscriber], message: &Message, secret: &Secret) -> Vec<Notified> {
        let mut told: Vec<Option<Notified>> = vec![None; subscribers.len()];
        let is_file = |subscriber: &Subscriber| matches!(subscriber, Subscriber::File { .. });
        for files in [true, false] {
            let wave: Vec<usize> = (0..subscribers.len()).filter(|at| is_file(&subscribers[*at]) == files).collect();
            for some in wave.chunks(PARALLEL) {
                let answers = some.iter().map(|at| self.tell_one(&subscribers[*at], message, secret));
                for (at, answer) in some.iter().zip(join_all(answers).await) {
                    told[*at] = Some(answer);
                }
            }
        }
        told.into_iter().flatten().collect()
    }

    async fn tell_one(&self, subscriber: &Subscriber, message: &Message, secret: &Secret) -> Notified {
        let began = Instant::now();
        // The time limit runs from its turn on. The semaphore is never closed.
        let _turn = self.turns.acquire().await.ok();
        let told = tokio::time::timeout(self.limits.subscriber, self.reach(subscriber, message, secret)).await;
        let error = match told {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("no acknowledgement within {:?}", self.limits.subscriber)),
        };
        if let Some(error) = &error {
            tracing::warn!(%subscriber, name = %message.name, version = %message.version, error, "not acknowledged");
        }
        Notified {
            subscriber: subscriber.to_string(),
            acknowledged: error.is_none(),
            seconds: began.elapsed().as_secs_f64(),
            error,
        }
    }

    async fn reach(&self, subscriber: &Subscriber, message: &Message, secret: &Secret) -> Result<(), String> {
        match subscriber {
            Subscriber::File { workload, file } => {
                self.record(workload, secret).await?;
                self.delivery.replace_file(workload, file, &secret.value).await
            }
            Subscriber::Signal { signal, workload } => self.delivery.signal(workload, signal).await,
            Subscriber::Exec { command } => {
                let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
                exec::run(command, &body).await.map_err(|error| error.to_string())
            }
            Subscriber::Webhook { url, key: SigningKey::None } => self.webhooks.post(url, None, message).await,
            Subscriber::Webhook { url, key: SigningKey::Key(key) } => self.webhooks.post(url, Some(key), message).await,
            Subscriber::Webhook { key: SigningKey::Missing(reason), .. } => Err(reason.clone()),
        }
    }

    /// Makes the exposure durable before the value leaves.
    async fn record(&self, workload: &str, secret: &Secret) -> Result<(), String> {
        let ledger = self.ledger.as_ref().ok_or("there is no exposure ledger to record the delivery in")?;
        let run_id = self.delivery.run_id(workload).await?;
        let name = secret.name.clone();
        let exposure = Exposure::now(workload, run_id, name, secret.info.version, Channel::File);
        record_async(ledger, vec![exposure]).await.map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Runs futures together on this task and gives their outcomes in order.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |context| {
        let mut pending = false;
        for (future, outcome) in waiting.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(done) => *outcome = Some(done),
                std::task::Poll::Pending => pending = true,
            }
        }
        if pending {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(waiting.drain(..).filter_map(|(_, outcome)| outcome).collect())
    })
    .await
}

#[cfg(test)]
mod tests;
