//! A tree of sleeping processes under a guardian of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use estop_watchdog::emergency::{self, Request};
use estop_watchdog::guardian::{self, Client, Guardian, Streams};
use estop_watchdog::stop::{Category, StopReport};

use super::interrupt::Interrupt;
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

/// A tree of sleeping processes.
pub(super) struct Tree<'a> {
    site: &'a Site,
    name: String,
    guardian: Guardian,
    ended: bool,
}

impl<'a> Tree<'a> {
    /// Starts a tree of `processes` processes and returns when all of them are there.
    pub(super) fn start(site: &'a Site, name: String, processes: u64, interrupt: &Interrupt) -> Result<Self> {
        let sign = site.state_dir.with_file_name(format!("{name}.ready"));
        let workload = Workload {
            pids_max: Some(processes + SPARE),
            time_max: Some(LIFE),
            // Nobody is left to stop it: its guardian does.
            on_brain_loss: OnBrainLoss::Stop,
            brain_loss_grace: Period::from_secs(0),
            ..Workload::new(sleepers(processes, &sign)?.into())
        };
        let launch = Launch {
            site,
            name: &name,
            workload: &workload,
            argv: None,
            process_group: None,
            ignored_signals: Vec::new(),
            cgroup: true,
        };
        let spec = block_on(launch.guardian_spec(None, &Stores::default()))?;
        let streams = Streams { input: Stdio::null(), output: Stdio::null(), error: Stdio::null() };
        let guardian = guardian::start(&spec, streams)?;
        let tree = Self { site, name, guardian, ended: false };
        tree.wait_for(&sign, interrupt)?;
        Ok(tree)
    }

    fn wait_for(&self, sign: &Path, interrupt: &Interrupt) -> Result<()> {
        let mut client = Client::new(&self.guardian.dir)?;
        let deadline = Instant::now() + START_LIMIT;
        while !sign.exists() {
            interrupt.check()?;
            // Also tells whether the job still lives.
            client.status().map_err(|error| match self.guardian.dir.outcome() {
                Ok(Some(outcome)) => Failure::failed(
                    format!("{} ended too early ({:?}): {}", self.name, outcome.exit, outcome.reason),
                    "this host may limit processes",
                ),
                _ => error.into(),
            })?;
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

    /// Its guardian's process ID.
    pub(super) fn guardian(&self) -> u32 {
        self.guardian.process.id()
    }

    /// Ends it by a `CRITICAL_STOP` through its guardian and says how that went.
    pub(super) fn stop(mut self) -> Result<StopReport> {
        let incident = estop_recovery::IncidentId::new().to_string();
        let request = Request {
            names: std::slice::from_ref(&self.name),
            category: Category::Kill,
            reason: "estop bench",
            incident: &incident,
        };
        let stopped = emergency::critical_stop(&self.site.instances(), request);
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
        Ok(report.clone())
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
