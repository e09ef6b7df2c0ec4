//! A tree of processes under a guardian of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use estop_watchdog::emergency::{self, Request};
use estop_watchdog::guardian::wire::Status;
use estop_watchdog::guardian::{self, Client, Guardian, Streams};
use estop_watchdog::registry::{Handle, Outcome};
use estop_watchdog::stop::{Category, StopReport};

use super::Interrupt;
use crate::config::{OnBrainLoss, Period, Workload};
use crate::engine::launch::{Launch, Stores, block_on};
use crate::failure::{Failure, Result};
use crate::platform::commands::sleepers;
use crate::site::Site;

/// How long a tree may take to be there.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a tree may live, whatever happens to the measuring.
const LIFE: Period = Period::from_secs(600);
/// Room beside the counted processes: the shell between two forks.
const SPARE: u64 = 8;

/// A tree of processes.
pub(super) struct Tree<'a> {
    site: &'a Site,
    name: String,
    guardian: Guardian,
    ended: bool,
}

/// How a stop went.
pub(super) struct Stopped {
    pub(super) report: StopReport,
    /// From the order to its answer.
    pub(super) answered: Duration,
}

/// A workload of `processes` processes, limited in number and in time.
pub(super) fn bounded(command: Vec<String>, processes: u64) -> Workload {
    Workload {
        pids_max: Some(processes + SPARE),
        time_max: Some(LIFE),
        // Nobody is left to stop it: its guardian does.
        on_brain_loss: OnBrainLoss::Stop,
        brain_loss_grace: Period::from_secs(0),
        ..Workload::new(command.into())
    }
}

impl<'a> Tree<'a> {
    /// Starts a tree of `processes` processes that sleep, and returns when all of them are there.
    pub(super) fn sleeping(
        site: &'a Site,
        name: String,
        processes: u64,
        interval: Duration,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let sign = site.state_dir.with_file_name(format!("{name}.ready"));
        let workload = bounded(sleepers(processes, &sign)?, processes);
        Self::start(site, name, &workload, interval, Some(&sign), interrupt)
    }

    /// Starts `workload`, sampled so often, and returns when it has made the file `sign`, if it is to make one.
    pub(super) fn start(
        site: &'a Site,
        name: String,
        workload: &Workload,
        interval: Duration,
        sign: Option<&Path>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let launch = Launch {
            site,
            name: &name,
            workload,
            argv: None,
            process_group: None,
            ignored_signals: Vec::new(),
            cgroup: true,
        };
        let mut spec = block_on(launch.guardian_spec(None, &Stores::default()))?;
        spec.sample_interval = interval;
        let streams = Streams { input: Stdio::null(), output: Stdio::null(), error: Stdio::null() };
        let guardian = guardian::start(&spec, streams)?;
        let tree = Self { site, name, guardian, ended: false };
        if let Some(sign) = sign {
            tree.wait_for(sign, interrupt)?;
        }
        Ok(tree)
    }

    fn wait_for(&self, sign: &Path, interrupt: &Interrupt) -> Result<()> {
        let mut client = Client::new(&self.guardian.dir)?;
        let deadline = Instant::now() + START_LIMIT;
        while !sign.exists() {
            interrupt.check()?;
            // Also tells whether the job still lives. One that has ended may have made its sign since the look.
            if let Err(error) = client.status() {
                return if sign.exists() { Ok(()) } else { Err(self.ended_early(error)) };
            }
            if Instant::now() > deadline {
                return Err(Failure::failed(
                    format!("{} did not start in {} s", self.name, START_LIMIT.as_secs()),
                    "this host is too busy to measure",
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn ended_early(&self, error: estop_watchdog::Error) -> Failure {
        match self.guardian.dir.outcome() {
            Ok(Some(outcome)) => Failure::failed(
                format!("{} ended too early ({:?}): {}", self.name, outcome.exit, outcome.reason),
                "this host may limit processes",
            ),
            _ => error.into(),
        }
    }

    /// Its guardian's process ID.
    pub(super) fn guardian(&self) -> u32 {
        self.guardian.process.id()
    }

    /// How its job is named for others than its guardian.
    pub(super) fn handle(&self) -> Result<Option<Handle>> {
        Ok(self.guardian.dir.entry()?.map(|entry| entry.handle))
    }

    /// What its guardian says of it.
    pub(super) fn status(&self) -> Result<Status> {
        Ok(Client::new(&self.guardian.dir)?.status()?)
    }

    /// How long it took to freeze it, and to thaw it.
    pub(super) fn freeze_and_thaw(&self) -> Result<(Duration, Duration)> {
        let mut client = Client::new(&self.guardian.dir)?;
        let begun = Instant::now();
        client.freeze(None)?;
        let frozen = begun.elapsed();
        let begun = Instant::now();
        client.thaw()?;
        Ok((frozen, begun.elapsed()))
    }

    /// Ends it by a `CRITICAL_STOP` through its guardian and says how that went.
    pub(super) fn stop(mut self) -> Result<Stopped> {
        let incident = estop_recovery::IncidentId::new().to_string();
        let request = Request {
            names: std::slice::from_ref(&self.name),
            category: Category::Kill,
            reason: "estop bench",
            incident: &incident,
        };
        let begun = Instant::now();
        let stopped = emergency::critical_stop(&self.site.instances(), request);
        let answered = begun.elapsed();
        let [report] = &stopped.jobs[..] else {
            return Err(Failure::failed(
                format!("{} stops were reported of one job", stopped.jobs.len()),
                "this is an error in estop",
            ));
        };
        if report.proven_empty && stopped.unreachable.is_empty() {
            // The guardian has nothing left to do but to take its group away.
            self.ended = self.guardian.process.wait().is_ok();
        }
        Ok(Stopped { report: report.clone(), answered })
    }

    /// Waits at most `limit` until its guardian has ended it, and says how it ended.
    pub(super) fn end_of_itself(mut self, limit: Duration, interrupt: &Interrupt) -> Result<Outcome> {
        let deadline = Instant::now() + limit;
        while matches!(self.guardian.process.try_wait(), Ok(None)) {
            interrupt.check()?;
            if Instant::now() > deadline {
                let message = format!("{} was not ended in {} s", self.name, limit.as_secs());
                return Err(Failure::failed(message, "this is an error in estop"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.ended = true;
        let none =
            || Failure::failed(format!("the guardian of {} left no word", self.name), "this is an error in estop");
        self.guardian.dir.outcome()?.ok_or_else(none)
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Without its guardian the job ends by the kernel where there are namespaces; what is left is ended here.
        let _ = self.guardian.process.kill();
        let _ = self.guardian.process.wait();
        let _ = emergency::end_stranded(&self.guardian.dir);
    }
}
