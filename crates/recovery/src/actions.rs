//! What a recovery needs done by others: the trait that drives watchdog, integrity and secrets without knowing them.
//!
//! The trait is synchronous, and a saga runs on a thread of its own. A saga is a strict sequence with a durable write between any two steps;
//! nearly all of its work (orders to guardians, file operations, fsync) blocks anyway; and an async saga would end half-way, without a word,
//! wherever somebody drops its future. Here nothing but the end of the process can cut a step short, and that is what resuming is for.
//! An implementation that needs tokio (the rotation) calls `Handle::block_on`.

use std::fmt;
use std::time::Duration;

use crate::incident::{Detail, Incident};

/// What an action is told about its step.
#[derive(Clone, Debug)]
pub struct Order {
    /// The incident as it stands, this step begun.
    pub incident: Incident,
    /// How long the action may take. It has to give up by itself by then: the saga goes on without it, and what it does later may meet a
    /// job that is being ended.
    pub limit: Option<Duration>,
    /// Which attempt this is, from 1. Above 1 the one before was cut short by a crash at an unknown point.
    pub attempt: u32,
}

/// What an action has to say when it did not fail.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done.
    Done(Detail),
    /// There was nothing to do, and that is no shortcoming: no exposed secret, say.
    NothingToDo {
        /// Why, for a person.
        reason: String,
    },
}

impl Answer {
    /// Done, with nothing to say about it.
    #[must_use]
    pub fn done() -> Self {
        Self::Done(Detail::new())
    }
}

/// How a stop ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopped {
    /// Whether every job concerned was proven empty. Nothing else allows a rollback.
    pub proven_empty: bool,
    /// The jobs, their proofs and survivors.
    pub detail: Detail,
}

/// Why an action failed, for a person, and what it has to say beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What happened and what to do. Never a secret's value.
    pub message: String,
    /// What was done in spite of it: the rotations that did work, the files that don't match.
    pub detail: Detail,
}

impl Failure {
    /// A failure that says only this.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), detail: Detail::new() }
    }

    /// The same with a detail beside it.
    #[must_use]
    pub fn with_detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }
}

impl<E: std::error::Error> From<E> for Failure {
    /// The error's message with those of its sources.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message.push_str(": ");
                message.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self::new(message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

/// What the steps of a recovery do.
///
/// Each action is **idempotent**: after a crash it is called again with the same order, however far it came the first time. Each is bounded in
/// time by itself; those before the stop are told the limit. An action that panics has failed, and the saga goes on.
pub trait Actions: Send + Sync + 'static {
    /// Sets the latch: nothing of the incident's workloads starts again until a reset.
    ///
    /// # Errors
    /// Where the latch holds but is not durable, and where it can't be set.
    fn latch(&self, order: &Order) -> Result<Answer, Failure>;

    /// Makes the workloads stand still, until they are ended.
    ///
    /// # Errors
    /// Where one of them can't be frozen.
    fn freeze(&self, order: &Order) -> Result<Answer, Failure>;

    /// Gathers evidence: the history, the tree, the last output.
    ///
    /// # Errors
    /// Where it is not complete; the detail may hold what there is.
    fn capture(&self, order: &Order) -> Result<Answer, Failure>;

    /// Ends the workloads' jobs and proves them empty.
    ///
    /// # Errors
    /// Where that can't even be tried. An unproven stop is an answer ([`Stopped::proven_empty`] false).
    fn stop(&self, order: &Order) -> Result<Stopped, Failure>;

    /// Puts the store back, with a safety snapshot first.
    ///
    /// # Errors
    /// Where it was refused or went wrong; the store is then in its old state or in its new one.
    fn rollback(&self, order: &Order, store: &str) -> Result<Answer, Failure>;

    /// Replaces these secrets, revokes their old versions and tells the subscribers.
    ///
    /// # Errors
    /// Where one of them is still exposed; the detail says which.
    fn rotate(&self, order: &Order, secrets: &[String]) -> Result<Answer, Failure>;

    /// Checks that the jobs are still empty and that what was put right is right: [`Order::incident`] tells what was.
    ///
    /// # Errors
    /// Where something does not match.
    fn verify(&self, order: &Order) -> Result<Answer, Failure>;

    /// Starts the workloads again. A person approved it; whoever implements this still refuses while the latch holds.
    ///
    /// # Errors
    /// Where one of them did not start.
    fn restart(&self, order: &Order) -> Result<Answer, Failure>;
}
