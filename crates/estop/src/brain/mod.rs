//! The brain: the daemon above the guardians. It starts workloads, adopts those that a brain before it started, carries
//! incidents through, and does what is due. Every job goes on without it.

pub mod api;
mod health;
mod restart;
mod schedule;
mod server;
mod supervise;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use estop_durable::lock::Lock;
use estop_recovery::IncidentStore;
use estop_watchdog::emergency::settle_abandoned;
use estop_watchdog::guardian::Watched;
use estop_watchdog::job::Exit;
use estop_watchdog::registry::{JobDir, RunDir};
use estop_watchdog::stop::StoppedBy;
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, mpsc};

use crate::engine::history::Histories;
use crate::engine::keys::Keys;
use crate::engine::response;
use crate::failure::{Code, Failure, Result};
use crate::platform::channel::Listener;
use crate::platform::{host, service};
use crate::site::Site;
use supervise::{Order, Supervisor};

/// How long the brain waits for a running brain that is just ending.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long workloads may take to end with `down`, beyond their own grace.
const DOWN_WAIT: Duration = Duration::from_mins(5);

/// What the brain knows of a workload beyond what its guardian says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Known {
    /// How often it was started again.
    pub restarts: u64,
    /// Whether it waits to be started again.
    #[serde(default)]
    pub restarting: bool,
    /// Whether it runs, as far as the daemon knows.
    #[serde(default)]
    pub running: bool,
    /// Whether it is ready to work; `None` where nobody looks.
    #[serde(default)]
    pub ready: Option<bool>,
    /// How it ended last.
    pub last_exit: Option<Exit>,
    /// Why it is not running, if it failed.
    pub failure: Option<String>,
}

/// What all parts of the brain share.
#[derive(Debug)]
pub struct Brain {
    site: Site,
    /// Opened when they are first needed: a Vault that is away must not keep running jobs from being adopted.
    keys: OnceCell<Keys>,
    histories: Histories,
    started: Instant,
    known: Mutex<BTreeMap<String, Known>>,
    /// Changes with what is known.
    learned: tokio::sync::watch::Sender<()>,
    orders: BTreeMap<String, mpsc::Sender<Order>>,
    down: mpsc::Sender<()>,
}

/// Runs the brain until it is told to end: by `down`, or by `end`, which says whether the workloads are to end too. `ready` is
/// called when it answers.
///
/// # Errors
/// If it cannot start: the configuration is wrong, or another brain runs.
pub async fn run(site: Site, end: impl Future<Output = Result<bool>>, ready: impl FnOnce()) -> Result<()> {
    host::make_room_for_jobs();
    let run_dir = site.open_run_dir()?;
    let lock = Lock::acquire(&run_dir.path().join("brain.lock"), LOCK_WAIT).map_err(|error| {
        Failure::new(Code::Refused, "locked", format!("another estop runs here: {error}"), "`estop down` ends it")
    })?;
    let (down, mut told_down) = mpsc::channel(1);
    let (mut orders, mut inboxes) = (BTreeMap::new(), Vec::new());
    for name in site.config.workloads.keys() {
        let (sender, inbox) = mpsc::channel(16);
        orders.insert(name.clone(), sender);
        inboxes.push((name.clone(), inbox));
    }
    let brain = Arc::new(Brain {
        histories: Histories::keep(&site),
        site,
        keys: OnceCell::new(),
        started: Instant::now(),
        known: Mutex::default(),
        learned: tokio::sync::watch::Sender::default(),
        orders,
        down,
    });
    let listener = Listener::bind(&brain.site.run_dir)?;
    let kept = listener.is_kept();
    tokio::spawn(server::serve(Arc::clone(&brain), listener));
    let supervise = |(name, inbox): (String, _)| {
        (name.clone(), tokio::spawn(Supervisor::new(Arc::clone(&brain), name, inbox).run()))
    };
    let supervisors: BTreeMap<_, _> = inboxes.into_iter().map(supervise).collect();
    tokio::task::spawn_blocking({
        let brain = Arc::clone(&brain);
        move || brain.settle_the_past()
    });
    tokio::spawn(schedule::run(Arc::clone(&brain)));
    ready();
    service::say_ready();
    tokio::spawn(service::stay_alive());
    let stop_workloads = tokio::select! {
        _ = told_down.recv() => true,
        told = end => told?,
    };
    service::say_stopping();
    if stop_workloads {
        brain.stop_all(supervisors).await;
    }
    let histories = Arc::clone(&brain);
    // What is not written by then is missing from the histories, which say so.
    let _ = tokio::task::spawn_blocking(move || histories.histories.close()).await;
    // By it `down` sees the end; who asks while the next brain starts is to find it.
    if stop_workloads || !kept {
        let _ = std::fs::remove_file(brain.site.brain_socket());
    }
    drop(lock);
    Ok(())
}

impl Brain {
    /// What is known of `name`.
    pub fn known(&self, name: &str) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    /// The secrets, opened by now.
    ///
    /// # Errors
    /// If their store is away or cannot be opened. It is tried again the next time.
    async fn keys(&self) -> Result<&Keys> {
        self.keys.get_or_try_init(|| Keys::open(&self.site)).await
    }

    fn learn(&self, name: &str, change: impl FnOnce(&mut Known)) {
        change(self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default());
        self.learned.send_replace(());
    }

    /// Whether others may count on `name`.
    fn is_ready(&self, name: &str) -> bool {
        let known = self.known(name);
        known.running && known.ready != Some(false)
    }

    fn job(&self, name: &str) -> JobDir {
        RunDir::at(&self.site.run_dir).job(name)
    }

    /// Stops all workloads: who needs others before those.
    async fn stop_all(&self, mut supervisors: BTreeMap<String, tokio::task::JoinHandle<()>>) {
        let needs = |name: &String| self.site.config.needs_of(name).len();
        while let Some(most) = supervisors.keys().map(needs).max() {
            let those = supervisors.extract_if(.., |name, _| needs(name) == most).collect::<Vec<_>>();
            for (name, _) in &those {
                // A supervisor that has gone has no workload.
                let _ = self.orders[name].send(Order::Shutdown).await;
            }
            for (_, supervisor) in those {
                if tokio::time::timeout(DOWN_WAIT, supervisor).await.is_err() {
                    tracing::error!("a workload did not end in time; `estop now` ends it");
                }
            }
        }
    }

    /// What a brain before this one, or an emergency without one, left undone: open incidents, and jobs of no workload.
    fn settle_the_past(&self) {
        self.settle_the_ownerless();
        match IncidentStore::open(&self.site.incidents()).and_then(|store| store.list()) {
            Ok(listing) => {
                for error in listing.damaged {
                    tracing::error!(%error, "an incident cannot be read");
                }
                for incident in
                    listing.incidents.into_iter().filter(|incident| incident.is_open() && !incident.awaits_approval())
                {
                    self.resume(&incident.id.to_string());
                }
            }
            Err(error) => tracing::error!(%error, "the incidents cannot be read"),
        }
    }

    /// Sees to jobs that are no workload's and whose starter has gone: a workload's supervisor sees to its own.
    fn settle_the_ownerless(&self) {
        let dirs = RunDir::at(&self.site.run_dir).jobs().unwrap_or_else(|error| {
            tracing::error!(%error, "the run directory cannot be read");
            Vec::new()
        });
        for dir in dirs.iter().filter(|dir| !self.orders.contains_key(dir.name())) {
            if let Err(error) = self.settle_job(dir) {
                tracing::error!(job = dir.name(), %error, "what is left of a job");
            }
        }
    }

    /// Ends what a dead guardian left of the job, and carries its incident through if it ended by an emergency.
    fn settle_job(&self, dir: &JobDir) -> Result<()> {
        let Some(entry) = dir.entry()? else { return Ok(()) };
        if dir.is_alive()? || entry.starter.and_then(Watched::open).is_some() {
            return Ok(());
        }
        let exit = dir.outcome()?.and_then(|outcome| outcome.exit);
        self.histories.end(dir.name(), &entry.id, Some(&entry), exit);
        let outcome = if let Some(outcome) = dir.outcome()? {
            Some(outcome)
        } else {
            let report = settle_abandoned(dir, &entry.id)?;
            tracing::error!(job = dir.name(), ?report, "its guardian had died; what was left of it was ended");
            response::outcome_of_lost(&self.site, &entry, report)
        };
        if let Some(outcome) = outcome.filter(|outcome| outcome.stopped_by == Some(StoppedBy::CriticalStop)) {
            let run = response::attend(&self.site, &outcome, &entry.protects, false, server::log_event)?;
            tracing::warn!(job = dir.name(), incident = %run.incident.id, outcome = ?run.incident.outcome, "incident");
        }
        Ok(dir.remove(&entry.id)?)
    }

    /// Carries an incident through. Blocks.
    fn resume(&self, id: &str) {
        let carried = IncidentStore::open(&self.site.incidents()).and_then(|store| store.take_up(id));
        match carried {
            Ok((_claim, incident)) if incident.is_open() => {
                tracing::warn!(incident = %incident.id, "going on with an incident");
                match response::carry_through(&self.site, incident, true, server::log_event) {
                    Ok(run) => tracing::warn!(incident = %run.incident.id, outcome = ?run.incident.outcome, "incident"),
                    Err(error) => tracing::error!(%error, incident = id, "an incident could not be carried through"),
                }
            }
            Ok(_) => {}
            // Somebody else is at work on it.
            Err(estop_recovery::Error::Busy { .. }) => {}
            Err(error) => tracing::error!(%error, incident = id, "an incident cannot be taken up"),
        }
    }
}
