//! Rotation: create → set → test → finish, for one secret or many at once.
//!
//! The state of a rotation stands in the secret's own document and moves by compare-and-set. A crash, a lost answer or a
//! second host therefore finds one of few states, and the next call goes on from it: with the same pending version
//! where there is one, so that two rotators that race end with one winner, and both report it.
//!
//! The new version is tested before it is promoted, and until then the old one is in force, whatever fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cache::SecretCache;
use crate::notify::{Notifier, Subscriber};
use crate::store::not_found;
use crate::{SecretName, SecretStore, StoreError, Version};

pub mod generate;
pub mod kind;
mod report;
mod run;

pub use generate::{Generate, Policy};
pub use kind::{Context, KindError, RotationKind};
pub use report::{Report, Reports};

use run::Run;

/// How a secret is rotated, and who is told.
#[derive(Clone)]
pub struct Plan {
    /// The secret.
    pub name: SecretName,
    /// How.
    pub kind: Arc<dyn RotationKind>,
    /// Who is told of the new version.
    pub subscribers: Vec<Subscriber>,
    /// How long the old version stays valid at most, after the new one is in force. It is revoked earlier if there are
    /// subscribers and all of them acknowledged. Without subscribers nobody can, and it stays for all of this time.
    pub overlap: Duration,
}

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The old version stays valid until the subscribers acknowledged or the overlap ended.
    #[default]
    Normal,
    /// All older versions are revoked as soon as the new one is in force, before anyone is told.
    Emergency,
}

/// What to do with the pending version that an unfinished rotation left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnPending {
    /// Go on with it.
    #[default]
    Resume,
    /// Withdraw it and make another.
    Withdraw,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// How urgent it is.
    pub mode: Mode,
    /// Why; goes into the messages.
    pub reason: String,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// In an emergency, revoke the old versions even if no new one could be made.
    pub revoke_anyway: bool,
    /// What to do with an unfinished rotation's pending version.
    pub on_pending: OnPending,
    /// The time limit of each step.
    pub step_timeout: Duration,
    /// How many secrets are rotated at a time. More than 16 gains nothing on a single Vault (measured). In an emergency a
    /// secret makes room for the next one before its subscribers are told, so that a slow one holds nobody back.
    pub parallel: usize,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            mode: Mode::Normal,
            reason: String::new(),
            dry_run: false,
            revoke_anyway: false,
            on_pending: OnPending::Resume,
            step_timeout: Duration::from_secs(30),
            parallel: 16,
        }
    }
}

impl Request {
    /// An emergency, for `reason`.
    pub fn emergency(reason: impl Into<String>) -> Self {
        Self { mode: Mode::Emergency, reason: reason.into(), ..Self::default() }
    }
}

/// Rotates secrets. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Rotator {
    store: Arc<dyn SecretStore>,
    notifier: Arc<Notifier>,
    cache: Option<Arc<SecretCache>>,
}

impl Rotator {
    /// A rotator over `store` that tells subscribers through `notifier`.
    pub fn new(store: Arc<dyn SecretStore>, notifier: Arc<Notifier>) -> Self {
        Self { store, notifier, cache: None }
    }

    /// Keeps `cache` up to date: promoted secrets are dropped from it and revoked versions never served again.
    #[must_use]
    pub fn with_cache(mut self, cache: Arc<SecretCache>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Rotates several secrets, so many at a time as the request says. The reports come in the order of the plans.
    pub async fn rotate_all(&self, plans: Vec<Plan>, request: &Request) -> Reports {
        let began = Instant::now();
        let turns = Arc::new(Semaphore::new(request.parallel.max(1)));
        let names: Vec<SecretName> = plans.iter().map(|plan| plan.name.clone()).collect();
        let mut reports: Vec<Option<Report>> = vec![None; plans.len()];
        let mut tasks = JoinSet::new();
        for (at, plan) in plans.into_iter().enumerate() {
            let (rotator, request, turns) = (self.clone(), request.clone(), Arc::clone(&turns));
            tasks.spawn(async move {
                // The semaphore is never closed.
                let turn = turns.acquire_owned().await.ok();
                (at, Run::new(&rotator, &plan, &request).with_turn(turn).rotate().await)
            });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok((at, report)) = done {
                reports[at] = Some(report);
            }
        }
        let broken_off = |name| {
            let mut report = Report::new(name);
            report.fail("the rotation was broken off by a fault in the program; run it again");
            report.still_exposed = request.mode == Mode::Emergency;
            report
        };
        let rotations = reports.into_iter().zip(names).map(|(report, name)| report.unwrap_or_else(|| broken_off(name)));
        let rotations = rotations.collect();
        Reports { schema_version: 1, rotations, seconds: began.elapsed().as_secs_f64() }
    }

    /// Rotates one secret. An unfinished rotation of it is taken up where it stands.
    pub async fn rotate(&self, plan: &Plan, request: &Request) -> Report {
        Run::new(self, plan, request).rotate().await
    }

    /// Finishes what an interrupted rotation left, and begins nothing. `None` if there is nothing to finish.
    ///
    /// # Errors
    /// [`StoreError`] if the store can't be asked.
    pub async fn resume(&self, plan: &Plan, request: &Request) -> Result<Option<Report>, StoreError> {
        let document = self.store.load(&plan.name).await?.ok_or_else(|| not_found(&plan.name, None))?;
        match document.rotation() {
            None => Ok(None),
            Some(rotation) => Ok(Some(Run::new(self, plan, request).resume(rotation.clone()).await)),
        }
    }

    /// Revokes the versions of which the overlap has ended, and gives them.
    ///
    /// # Errors
    /// [`StoreError`] if the store can't be asked.
    pub async fn expire(&self, plan: &Plan, request: &Request) -> Result<Vec<Version>, StoreError> {
        Run::new(self, plan, request).expire().await
    }
}

#[cfg(test)]
mod tests;
