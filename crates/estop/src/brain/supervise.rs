//! Watching over one workload: starting it, adopting it, noticing its end, starting it again.

use std::fs::OpenOptions;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use estop_durable::file::created_with;
use estop_watchdog::emergency::settle_abandoned;
use estop_watchdog::guardian::{self, Client, Streams, Watched, process_id};
use estop_watchdog::registry::{Entry, JobDir, Outcome, RunDir};
use estop_watchdog::stop::{Category, StoppedBy};
use tokio::sync::{mpsc, oneshot, watch};

use super::health::{self, Health};
use super::restart::{Restarts, called_within, latch_by};
use super::{Brain, server};
use crate::config::{Restart, Workload};
use crate::engine::launch::{Launch, Stores};
use crate::engine::response;
use crate::failure::{Failure, Result};
use crate::platform::service;

/// Who ran for so long did not fail at the start.
const STEADY: Duration = Duration::from_mins(1);
/// How often is looked whether a guardian has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long a stop is waited for beyond the workload's grace.
const STOP_WAIT: Duration = Duration::from_mins(1);

/// What a supervisor is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Start the workload, and say how that went.
    Start(oneshot::Sender<Result<()>>),
    /// Do not start it again, if it waits for that; and say whether it did.
    Stay(oneshot::Sender<bool>),
    /// Stop it, asking first, and end.
    Shutdown,
}

/// Watches over one workload.
pub(super) struct Supervisor {
    brain: Arc<Brain>,
    name: String,
    inbox: mpsc::Receiver<Order>,
    /// Who wants it started as soon as the job that is just ending has ended.
    waiting: Option<oneshot::Sender<Result<()>>>,
    /// Who wants to know when it is ready.
    expecting: Vec<oneshot::Sender<Result<()>>>,
    restarts: Restarts,
    /// What stood in the file `now` before the last start: what is written after that and was obeyed by no guardian calls here.
    done: Option<guardian::Writing>,
}

/// A job that runs.
struct Running {
    dir: JobDir,
    /// The job's identifier.
    id: String,
    /// Becomes true when the guardian has ended.
    ended: watch::Receiver<bool>,
    /// What is found out about how well it does.
    health: mpsc::Receiver<Health>,
    since: Instant,
}

/// What came next.
enum Next {
    Ended,
    Shutdown,
}

impl Supervisor {
    pub(super) fn new(brain: Arc<Brain>, name: String, inbox: mpsc::Receiver<Order>) -> Self {
        Self { brain, name, inbox, waiting: None, expecting: Vec::new(), restarts: Restarts::new(), done: None }
    }

    pub(super) async fn run(mut self) {
        let mut running = match self.adopt().await {
            Ok(Some(running)) => Some(running),
            Ok(None) if self.definition().autostart => self.start_with_needs().await.ok(),
            Ok(None) => None,
            Err(error) => {
                self.fail(&error);
                None
            }
        };
        loop {
            running = match running {
                Some(running) => match self.watch(running).await {
                    Some(again) => Some(again),
                    None if self.inbox.is_closed() => return,
                    None => None,
                },
                None => match self.next_start().await {
                    Some(reply) => self.start_for(reply).await,
                    None => return,
                },
            };
        }
    }

    /// The next wish that it be started; `None` if it is to end.
    async fn next_start(&mut self) -> Option<oneshot::Sender<Result<()>>> {
        match self.waiting.take() {
            Some(reply) => Some(reply),
            None => loop {
                match self.inbox.recv().await {
                    Some(Order::Start(reply)) => return Some(reply),
                    Some(Order::Stay(reply)) => drop(reply.send(false)),
                    Some(Order::Shutdown) | None => return None,
                }
            },
        }
    }

    async fn start_for(&mut self, reply: oneshot::Sender<Result<()>>) -> Option<Running> {
        self.restarts.begin_afresh();
        match self.start_with_needs().await {
            Ok(running) => {
                self.expecting.push(reply);
                Some(running)
            }
            Err(failure) => {
                // Whoever asked may have gone meanwhile.
                let _ = reply.send(Err(failure));
                None
            }
        }
    }

    /// Starts it once all that it needs is ready.
    async fn start_with_needs(&mut self) -> Result<Running> {
        let started = match self.await_needs().await {
            Ok(()) => self.start().await,
            Err(failure) => {
                self.fail(&failure);
                Err(failure)
            }
        };
        // Those who asked while what it needs was waited for.
        if let Err(failure) = &started {
            self.tell(&Err(failure.message.clone()));
        }
        started
    }

    /// Has all started that it needs, and waits until that is ready.
    ///
    /// # Errors
    /// If something of it is not started, or this is called off meanwhile.
    async fn await_needs(&mut self) -> Result<()> {
        for need in self.definition().needs.clone() {
            let mut learned = self.brain.learned.subscribe();
            while !self.brain.is_ready(&need) {
                learned.mark_unchanged();
                let brain = Arc::clone(&self.brain);
                let ready = async {
                    if brain.known(&need).running {
                        let _ = learned.changed().await;
                        return Ok(());
                    }
                    brain.start(&need).await
                };
                let started = tokio::select! {
                    started = ready => started,
                    order = self.inbox.recv() => match order {
                        Some(Order::Start(reply)) => {
                            self.expecting.push(reply);
                            continue;
                        }
                        Some(Order::Stay(reply)) => {
                            let _ = reply.send(true);
                            return Err(Failure::failed(format!("the start of {} was called off", self.name), ""));
                        }
                        Some(Order::Shutdown) | None => {
                            self.inbox.close();
                            return Err(Failure::failed("the daemon is ending", ""));
                        }
                    },
                };
                match started {
                    // It was just being started.
                    Err(failure) if failure.kind == "name-taken" => {}
                    Err(failure) => {
                        let message = format!("{} needs {need}, which is not ready: {}", self.name, failure.message);
                        return Err(Failure::new(failure.code, failure.kind, message, failure.hint));
                    }
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// Tells whoever waits for it to be ready.
    fn tell(&mut self, answer: &std::result::Result<(), String>) {
        for reply in self.expecting.drain(..) {
            let answer =
                answer.clone().map_err(|why| Failure::failed(format!("{}: {why}", self.name), "see `estop logs`"));
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(answer);
        }
    }

    /// A job of it runs from now on.
    fn begin(&self, dir: JobDir, id: String, ended: watch::Receiver<bool>, since: Instant) -> Running {
        let ready = self.definition().ready.is_some().then_some(false);
        self.brain.learn(&self.name, |known| (known.running, known.ready) = (true, ready));
        self.brain.histories.follow(&dir, &id);
        let health = health::watch(&self.brain, &self.name, dir.clone());
        Running { dir, id, ended, health, since }
    }

    fn definition(&self) -> &Workload {
        // The names come from the configuration itself, which does not change while the brain runs.
        &self.brain.site.config.workloads[&self.name]
    }

    fn fail(&self, error: &Failure) {
        tracing::error!(workload = self.name, %error, "not running");
        self.brain.learn(&self.name, |known| known.failure = Some(error.message.clone()));
    }

    /// Takes over a job that a brain before this one started; settles one that ended, or lost its guardian, meanwhile.
    async fn adopt(&mut self) -> Result<Option<Running>> {
        self.note_order();
        let dir = self.brain.job(&self.name);
        if dir.is_alive()?
            && let Some(entry) = dir.entry()?
            && let Some(guardian) = Watched::open(entry.guardian)
        {
            let (asked, pid, id) = (dir.clone(), entry.guardian.pid, entry.id.clone());
            let adopt = move || {
                let status = Client::new(&asked)?.adopt()?;
                // If it was not, when it was started.
                service::set_apart(pid, asked.name(), &id);
                Ok::<_, estop_watchdog::Error>(status)
            };
            let adopted = tokio::task::spawn_blocking(adopt).await;
            let age = match adopted {
                Ok(Ok(status)) => Duration::from_secs_f64(status.uptime_seconds),
                // Its end, which it is just coming to, is what the wait is for.
                _ => Duration::ZERO,
            };
            tracing::info!(workload = self.name, uptime_seconds = age.as_secs_f64(), "adopted");
            let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
            return Ok(Some(self.begin(dir, entry.id, watch_end(guardian, None), since)));
        }
        if let Some(entry) = dir.entry()? {
            // It ended, or lost its guardian, while no brain was there.
            self.settle(&dir, &entry.id).await?;
        }
        Ok(None)
    }

    async fn start(&mut self) -> Result<Running> {
        let started = self.try_start().await;
        match &started {
            Ok(_) => {
                tracing::info!(workload = self.name, "started");
                self.brain.learn(&self.name, |known| known.failure = None);
            }
            // What the latch keeps from starting has not failed.
            Err(error) if error.kind == "latched" => tracing::warn!(workload = self.name, %error, "not started"),
            Err(error) => self.fail(error),
        }
        started
    }

    fn note_order(&mut self) {
        self.done = guardian::order(&RunDir::at(&self.brain.site.run_dir));
    }

    async fn try_start(&mut self) -> Result<Running> {
        self.note_order();
        let (brain, name) = (Arc::clone(&self.brain), self.name.clone());
        if self.brain.job(&self.name).is_alive()? {
            return Err(estop_watchdog::Error::NameTaken { name }.into());
        }
        let workload = self.definition().clone();
        let stores = tokio::task::spawn_blocking(move || snapshot_before(&brain, &name, &workload))
            .await
            .map_err(|error| Failure::failed(error.to_string(), ""))??;
        let workload = self.definition();
        let launch = Launch {
            site: &self.brain.site,
            name: &self.name,
            workload,
            argv: None,
            process_group: None,
            ignored_signals: Vec::new(),
            cgroup: true,
        };
        let needs_keys = workload.secret_names().next().is_some();
        let keys = if needs_keys { Some(self.brain.keys().await?) } else { None };
        let spec = launch.guardian_spec(keys, &stores).await?;
        let streams = self.streams()?;
        let start =
            move || guardian::start_placed(&spec, streams, |pid| service::set_apart(pid, &spec.job.name, &spec.job.id));
        let guardian =
            tokio::task::spawn_blocking(start).await.map_err(|error| Failure::failed(error.to_string(), ""))??;
        let identity = process_id(guardian.process.id()).and_then(Watched::open);
        let watched = identity
            .ok_or_else(|| Failure::failed(format!("the guardian of {} ended at once", self.name), "see its output"))?;
        let ended = watch_end(watched, Some(guardian.process));
        Ok(self.begin(guardian.dir, guardian.id, ended, Instant::now()))
    }

    /// Nothing to read, and the log file to write to: the workload needs no brain to write.
    fn streams(&self) -> Result<Streams> {
        let path = self.brain.site.log_file(&self.name);
        if let Some(parent) = path.parent() {
            estop_durable::replace::create_dir(parent, 0o700)?;
        }
        let open = || {
            created_with(OpenOptions::new().append(true).create(true), 0o600)
                .open(&path)
                .map_err(|error| Failure::io("open the log", &path, &error))
        };
        Ok(Streams { input: Stdio::null(), output: open()?.into(), error: open()?.into() })
    }

    /// Watches a running job to its end. The next one, if it is started again.
    async fn watch(&mut self, mut running: Running) -> Option<Running> {
        let shutdown = matches!(self.next(&mut running).await, Next::Shutdown);
        if shutdown {
            let dir = running.dir.clone();
            let stop = move || Client::new(&dir)?.stop(Category::Ask, "the daemon was told to end", STOP_WAIT);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(stop).await {
                tracing::warn!(workload = self.name, %error, "stop");
            }
            self.inbox.close();
        }
        wait_for(&running.ended).await;
        self.brain.learn(&self.name, |known| (known.running, known.ready) = (false, None));
        let outcome = self.settle(&running.dir, &running.id).await;
        let why = self.brain.known(&self.name).failure.unwrap_or_else(|| "it ended before it was ready".to_owned());
        self.tell(&Err(why));
        match outcome {
            Ok(Some(outcome)) if !shutdown && self.waiting.is_none() && self.is_wanted(&outcome) => {
                self.again(running.since).await
            }
            Ok(_) => None,
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    async fn next(&mut self, running: &mut Running) -> Next {
        loop {
            tokio::select! {
                () = wait_for(&running.ended) => return Next::Ended,
                Some(found) = running.health.recv() => self.note_health(found, &running.dir),
                order = self.inbox.recv() => match order {
                    // A guardian that has reported the end is only putting things away.
                    Some(Order::Start(reply)) if running.dir.outcome().ok().flatten().is_some() => self.waiting = Some(reply),
                    Some(Order::Start(reply)) => {
                        let _ = reply.send(Err(estop_watchdog::Error::NameTaken { name: self.name.clone() }.into()));
                    }
                    Some(Order::Stay(reply)) => drop(reply.send(false)),
                    Some(Order::Shutdown) | None => return Next::Shutdown,
                },
            }
        }
    }

    /// Takes note of how well it does. One that does not is stopped, and its end is waited for as any other.
    fn note_health(&mut self, found: Health, dir: &JobDir) {
        match found {
            Health::Ready => {
                self.brain.learn(&self.name, |known| known.ready = known.ready.map(|_| true));
                self.tell(&Ok(()));
            }
            Health::Failed(reason) => {
                tracing::error!(workload = self.name, reason, "it does not do its work");
                self.brain.learn(&self.name, |known| known.failure = Some(reason.clone()));
                let dir = dir.clone();
                tokio::task::spawn_blocking(move || {
                    let stopped = Client::new(&dir).and_then(|mut client| client.stop_unhealthy(&reason, STOP_WAIT));
                    if let Err(error) = stopped {
                        tracing::warn!(workload = dir.name(), %error, "stop");
                    }
                });
            }
        }
    }

    /// Takes note of how a job ended, ends what is left of it, and carries its incident through.
    async fn settle(&mut self, dir: &JobDir, id: &str) -> Result<Option<Outcome>> {
        let entry = dir.entry()?.filter(|entry| entry.id == id);
        let outcome = dir.outcome_of(id)?;
        let exit = outcome.as_ref().and_then(|outcome| outcome.exit);
        self.brain.histories.end(&self.name, id, entry.as_ref(), exit);
        let Some(outcome) = outcome else {
            self.settle_lost(dir, id, entry).await?;
            return Ok(None);
        };
        tracing::info!(workload = self.name, exit = ?outcome.exit, stopped_by = ?outcome.stopped_by, reason = outcome.reason, "ended");
        self.brain.learn(&self.name, |known| known.last_exit = outcome.exit);
        if outcome.stopped_by == Some(StoppedBy::CriticalStop) {
            self.attend(&outcome, entry.map(|entry| entry.protects).unwrap_or_default()).await?;
        }
        let (dir, id) = (dir.clone(), id.to_owned());
        // What cannot be removed is taken over by the next job of this name.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || dir.remove(&id)).await {
            tracing::warn!(workload = self.name, %error, "what is left of its directory");
        }
        Ok(Some(outcome))
    }

    /// Carries the incident of a job through that ended by an emergency.
    async fn attend(&self, outcome: &Outcome, protects: Vec<String>) -> Result<()> {
        let (brain, ended) = (Arc::clone(&self.brain), outcome.clone());
        let run = tokio::task::spawn_blocking(move || {
            response::attend(&brain.site, &ended, &protects, false, server::log_event)
        })
        .await;
        // If it cannot be carried through, how the job ended stays there to be read by the next daemon.
        let run = run.map_err(|error| Failure::failed(error.to_string(), ""))??;
        tracing::warn!(workload = self.name, incident = %run.incident.id, outcome = ?run.incident.outcome, "incident");
        Ok(())
    }

    /// Ends what is left of a job whose guardian died. If it died in an emergency, the rest of that follows.
    async fn settle_lost(&self, dir: &JobDir, id: &str, entry: Option<Entry>) -> Result<()> {
        let (dir, id) = (dir.clone(), id.to_owned());
        let ended = tokio::task::spawn_blocking(move || settle_abandoned(&dir, &id))
            .await
            .map_err(|error| Failure::failed(error.to_string(), ""))??;
        tracing::error!(workload = self.name, report = ?ended, "its guardian died; what was left of it was ended");
        self.brain.learn(&self.name, |known| known.failure = Some("its guardian died".to_owned()));
        let Some(entry) = entry else { return Ok(()) };
        match response::outcome_of_lost(&self.brain.site, &entry, ended) {
            Some(outcome) => self.attend(&outcome, entry.protects).await,
            None => Ok(()),
        }
    }

    /// Whether the workload is to be started again after `outcome`.
    fn is_wanted(&self, outcome: &Outcome) -> bool {
        let latched = !matches!(self.brain.site.latch().holds(&self.name), Ok(None));
        // What somebody or a limit stopped stays stopped.
        let unhealthy = outcome.stopped_by == Some(StoppedBy::Health);
        if latched || outcome.stopped_by.is_some() && !unhealthy {
            return false;
        }
        let failed = unhealthy || outcome.exit.and_then(|exit| exit.code) != Some(0);
        match self.definition().restart {
            Restart::Never => false,
            Restart::OnFailure => failed,
            Restart::Always => true,
        }
    }

    /// Starts it again, after a pause that grows while it fails early.
    async fn again(&mut self, since: Instant) -> Option<Running> {
        if since.elapsed() >= STEADY {
            self.restarts.begin_afresh();
        }
        loop {
            let pause = self.restarts.next_pause();
            self.brain.learn(&self.name, |known| known.restarting = true);
            let waiting = Restarting(&self.brain, &self.name);
            tokio::select! {
                called = called_within(&self.brain.site, self.done, pause) => if called {
                    return None;
                },
                order = self.inbox.recv() => match order {
                    Some(Order::Start(reply)) => {
                        let _ = reply.send(Ok(()));
                    }
                    Some(Order::Stay(reply)) => {
                        let _ = reply.send(true);
                        return None;
                    }
                    Some(Order::Shutdown) | None => {
                        self.inbox.close();
                        return None;
                    }
                },
            }
            drop(waiting);
            if self.is_crash_loop() {
                return None;
            }
            if !matches!(self.brain.site.latch().holds(&self.name), Ok(None)) {
                return None;
            }
            self.brain.learn(&self.name, |known| known.restarts += 1);
            if let Ok(running) = self.start_with_needs().await {
                return Some(running);
            }
            if self.inbox.is_closed() {
                return None;
            }
        }
    }

    /// Whether it was started again too often by now. Then it is latched: a person has to look.
    fn is_crash_loop(&mut self) -> bool {
        let (most, window) = (self.definition().restart_max, self.definition().restart_window);
        if self.restarts.is_allowed(most, window.duration()) {
            return false;
        }
        let reason = format!("it was started again {most} times within {window}");
        tracing::error!(workload = self.name, reason, "crash loop: latched");
        self.brain.learn(&self.name, |known| known.failure = Some(format!("crash loop: {reason}")));
        latch_by(&self.brain.site.latch(), Some(&self.name), "crash-loop", &reason);
        true
    }
}

/// While this is there, the workload is shown to wait for its next start.
struct Restarting<'a>(&'a Brain, &'a str);

impl Drop for Restarting<'_> {
    fn drop(&mut self) {
        self.0.learn(self.1, |known| known.restarting = false);
    }
}

/// Finds the stores of `workload` and makes the snapshots of before its run.
fn snapshot_before(brain: &Brain, name: &str, workload: &Workload) -> Result<Stores> {
    let stores = Stores::of(&brain.site, workload)?;
    for warning in stores.snapshot_before_run(&brain.site, name)? {
        tracing::warn!(workload = name, "{warning}");
    }
    Ok(stores)
}

/// Watches for the end of a guardian, and reaps it where this process is its parent.
fn watch_end(guardian: Watched, mut child: Option<Child>) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    // A look now and then needs no thread, which a fork bomb may deny, and takes no failure for the end.
    tokio::spawn(async move {
        while !guardian.has_ended() {
            tokio::time::sleep(LOOK).await;
        }
        if let Some(child) = &mut child {
            // It has ended: this does not wait.
            let _ = child.wait();
        }
        let _ = sender.send(true);
    });
    receiver
}

/// Waits for the end that `ended` tells of.
async fn wait_for(ended: &watch::Receiver<bool>) {
    // It is told before its sender goes; without a runtime nobody waits any more.
    let _ = ended.clone().wait_for(|ended| *ended).await;
}
