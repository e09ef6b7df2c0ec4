//! How long freezing, thawing and stopping take, beside what the kernel takes for the same without estop.

use std::path::PathBuf;
use std::time::Duration;

use estop_watchdog::stop::{Phases, StopReport};

use super::tree::{Stopped, bounded};
use super::{Interrupt, Measurement, Stops, Tree, Unit, middle};
use crate::cli::output::seconds;
use crate::config::{Period, Workload};
use crate::failure::Result;
use crate::platform::bare::Bare;
use crate::platform::commands::{forkers, sleepers};
use crate::site::Site;

/// The aim for 100 idle processes, in seconds.
const HUNDRED_IDLE: f64 = 0.015;
/// The aim beside the kernel's own time.
const TIMES_KERNEL: f64 = 2.0;
/// How many processes fork without pause, and how many there may be of them and their children.
const FORKERS: u64 = 100;
const BOMB_LIMIT: u64 = 400;
const INTERVAL: Duration = Duration::from_millis(100);

impl Stops {
    pub(super) fn count(&mut self, report: &StopReport) {
        self.all += 1;
        self.processes += report.processes_before;
        self.proven += usize::from(report.proven_empty);
        self.survivors += report.survivors.len();
        self.tier = Some(report.tier);
    }
}

/// What was measured of trees of one kind.
#[derive(Default)]
struct Times {
    freezes: Vec<f64>,
    thaws: Vec<f64>,
    stops: Vec<f64>,
    answers: Vec<f64>,
    /// Without a look at the processes, which freezes them first.
    blind: Vec<f64>,
    phases: Vec<Phases>,
    /// The kernel's: one write to `cgroup.kill`, and a freeze before it.
    kills: Vec<f64>,
    frozen_kills: Vec<f64>,
    /// Why there is no more.
    missing: Option<String>,
    no_kernel: Option<String>,
}

/// Stops trees of `processes` sleeping processes.
pub(super) fn of_sleepers(
    site: &Site,
    processes: u64,
    rounds: u32,
    stops: &mut Stops,
    interrupt: &Interrupt,
) -> Result<Vec<Measurement>> {
    let mut times = Times::default();
    for round in 0..rounds {
        let tree = Tree::sleeping(site, format!("tree-{processes}-{round}"), processes, INTERVAL, interrupt);
        if !times.take(tree, stops, interrupt)? {
            break;
        }
        let name = format!("blind-{processes}-{round}");
        let sign = sign(site, &name);
        let workload = blind(bounded(sleepers(processes, &sign)?, processes));
        times.take_blind(Tree::start(site, name, &workload, INTERVAL, Some(&sign), interrupt)?, stops)?;
        for frozen in [false, true] {
            let sign = self::sign(site, &format!("bare-{processes}-{round}-{frozen}"));
            let command = sleepers(processes, &sign)?;
            times.take_bare(&command, bounded(command.clone(), processes).pids_max, &sign, frozen, interrupt)?;
        }
    }
    let aim = (processes == 100).then_some(HUNDRED_IDLE);
    Ok(times.measured(&format!("{processes}_processes"), aim))
}

/// Stops processes that fork without pause.
pub(super) fn of_a_bomb(
    site: &Site,
    rounds: u32,
    stops: &mut Stops,
    interrupt: &Interrupt,
) -> Result<Vec<Measurement>> {
    let mut times = Times::default();
    for round in 0..rounds {
        let Some(tree) = bomb(site, format!("bomb-{round}"), |workload| workload, interrupt) else {
            times.missing = Some("there is no fork here".to_owned());
            break;
        };
        if !times.take(tree, stops, interrupt)? {
            break;
        }
        if let Some(tree) = bomb(site, format!("blind-bomb-{round}"), blind, interrupt) {
            times.take_blind(tree?, stops)?;
        }
        for frozen in [false, true] {
            let sign = self::sign(site, &format!("bare-bomb-{round}-{frozen}"));
            let Some(command) = forkers(FORKERS, &sign)? else { break };
            times.take_bare(&command, Some(BOMB_LIMIT), &sign, frozen, interrupt)?;
        }
    }
    let more = format!("{FORKERS} processes that fork without pause, at most {BOMB_LIMIT}");
    Ok(times.measured("fork_bomb", None).into_iter().map(|one| one.with(&more)).collect())
}

/// Processes that fork without pause. `None` where there is no such thing.
fn bomb<'a>(
    site: &'a Site,
    name: String,
    set: impl FnOnce(Workload) -> Workload,
    interrupt: &Interrupt,
) -> Option<Result<Tree<'a>>> {
    let sign = sign(site, &name);
    let command = forkers(FORKERS, &sign).transpose()?;
    Some(command.and_then(|command| {
        Tree::start(site, name, &set(bounded(command, BOMB_LIMIT)), INTERVAL, Some(&sign), interrupt)
    }))
}

/// Nobody looks at it before it is killed.
fn blind(workload: Workload) -> Workload {
    Workload { evidence_max: Period::from_secs(0), ..workload }
}

/// The file that a tree makes when it is there.
fn sign(site: &Site, name: &str) -> PathBuf {
    site.state_dir.with_file_name(format!("{name}.ready"))
}

impl Times {
    /// Freezes, thaws and stops `tree`. Whether there was one.
    fn take(&mut self, tree: Result<Tree<'_>>, stops: &mut Stops, interrupt: &Interrupt) -> Result<bool> {
        let tree = match tree {
            Ok(tree) => tree,
            Err(failure) => {
                interrupt.check()?;
                self.missing = Some(failure.message);
                return Ok(false);
            }
        };
        let (freeze, thaw) = tree.freeze_and_thaw()?;
        self.freezes.push(freeze.as_secs_f64());
        self.thaws.push(thaw.as_secs_f64());
        let Stopped { report, answered } = tree.stop()?;
        self.stops.push(report.stop_seconds);
        self.answers.push(answered.as_secs_f64());
        self.phases.push(report.phases);
        stops.count(&report);
        Ok(true)
    }

    /// Stops `tree`, at which nobody looks before.
    fn take_blind(&mut self, tree: Tree<'_>, stops: &mut Stops) -> Result<()> {
        let Stopped { report, .. } = tree.stop()?;
        self.blind.push(report.stop_seconds);
        stops.count(&report);
        Ok(())
    }

    /// The same tree, ended by nothing but the kernel.
    fn take_bare(
        &mut self,
        command: &[String],
        most: Option<u64>,
        sign: &std::path::Path,
        frozen: bool,
        interrupt: &Interrupt,
    ) -> Result<()> {
        if self.no_kernel.is_some() {
            return Ok(());
        }
        let started = Bare::start(command, most.unwrap_or(BOMB_LIMIT)).and_then(|mut bare| {
            let there = bare.wait_for(sign, || interrupt.check().is_ok());
            there.and_then(|()| bare.end(frozen))
        });
        interrupt.check()?;
        match started {
            Ok(took) if frozen => self.frozen_kills.push(took.as_secs_f64()),
            Ok(took) => self.kills.push(took.as_secs_f64()),
            Err(why) => self.no_kernel = Some(why),
        }
        Ok(())
    }

    fn measured(self, what: &str, aim: Option<f64>) -> Vec<Measurement> {
        let (missing, no_kernel) = (self.missing.as_deref(), self.no_kernel.as_deref().or(self.missing.as_deref()));
        let phases = phases(&self.phases);
        let half = |values: &[f64]| Measurement::middle("", Unit::Seconds, values.to_vec()).value;
        let beside = half(&self.blind).zip(half(&self.kills)).map(|(stop, kernel)| stop / kernel);
        let after_freeze = half(&self.stops).zip(half(&self.frozen_kills)).map(|(stop, kernel)| stop / kernel);
        let mut stop = middle(format!("stop_{what}"), Unit::Seconds, self.stops, missing).with(&phases);
        if let Some(aim) = aim {
            stop = stop.below(aim);
        }
        let times = |name, value: Option<f64>, detail: &str| {
            let measured = middle(name, Unit::Times, value.into_iter().collect(), no_kernel);
            if value.is_some() { Measurement { detail: detail.to_owned(), ..measured } } else { measured }
        };
        let name = |part: &str| format!("{part}_{what}");
        vec![
            middle(name("freeze"), Unit::Seconds, self.freezes, missing)
                .with("order to answer, confirmed by the kernel"),
            middle(name("thaw"), Unit::Seconds, self.thaws, missing).with("order to answer"),
            stop,
            middle(name("blind_stop"), Unit::Seconds, self.blind, missing)
                .with("with `evidence_max = \"0s\"`: killed without a look, not frozen for it"),
            middle(name("stop_answer"), Unit::Seconds, self.answers, missing)
                .with("order to answer: with the latch on the disk, and evidence"),
            middle(name("kernel_kill"), Unit::Seconds, self.kills, no_kernel)
                .with("the kernel alone: a write to cgroup.kill until `populated 0`"),
            middle(name("kernel_freeze_and_kill"), Unit::Seconds, self.frozen_kills, no_kernel).with("frozen first"),
            times(name("stop_to_kernel"), beside, "middle of the blind stops, by that of kernel_kill")
                .below(TIMES_KERNEL),
            times(
                name("stop_to_kernel_frozen"),
                after_freeze,
                "middle of the stops, by that of kernel_freeze_and_kill",
            ),
        ]
    }
}

/// The middle of each part of the stops.
fn phases(phases: &[Phases]) -> String {
    let middle = |part: fn(&Phases) -> f64| {
        let values = phases.iter().map(part).collect();
        seconds(Measurement::middle("", Unit::Seconds, values).value.unwrap_or_default())
    };
    format!(
        "latch before it {}, freeze {}, evidence {}, kill and proof {}",
        middle(|one| one.latch_seconds),
        middle(|one| one.freeze_seconds),
        middle(|one| one.capture_seconds),
        middle(|one| one.kill_seconds)
    )
}
