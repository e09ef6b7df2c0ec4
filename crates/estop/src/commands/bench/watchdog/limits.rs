//! How soon a limit that is reached is acted on.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use estop_watchdog::guardian::{Watched, process_id};
use estop_watchdog::registry::Outcome;

use super::tree::bounded;
use super::{Interrupt, Measurement, Tree, Unit, middle, pressure};
use crate::config::{Period, Size, Workload};
use crate::failure::{Failure, Result};
use crate::platform::commands::{forker_until_refused, hog, spinner};
use crate::site::Site;

/// The aim after the event.
pub(super) const AIM: f64 = 0.01;
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// How long anything may take here. Reached only where something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How many processes a limit's program may have.
const PROCESSES: u64 = 20;
const MEMORY: u64 = 64 << 20;
/// Every limit that a moment can be told for.
pub(super) fn measure(site: &Site, rounds: u32, interrupt: &Interrupt) -> Result<Vec<Measurement>> {
    let second = Period::from_secs(1);
    let mut measurements = vec![timer(rounds, interrupt)?];
    let sleeping = |workload: &mut Workload| workload.time_max = Some(second);
    let spinning = |workload: &mut Workload| workload.cpu_time_max = Some(second);
    measurements.push(by_value(site, "time", rounds, spinner, sleeping, interrupt)?.below(AIM));
    // It is sampled: no event tells it.
    measurements.push(by_value(site, "cpu_time", rounds, spinner, spinning, interrupt)?);
    let limited = |workload: &mut Workload| workload.memory_max = Some(Size::from_bytes(MEMORY));
    let after = "after the kernel had ended a process that was over it, as seen from outside";
    measurements.push(by_end(site, "memory", rounds, hog, limited, interrupt)?.below(AIM).with(after));
    let after = "after the kernel had refused a process, as seen from outside by the end of the one that asked for it";
    measurements.push(by_end(site, "pids", rounds, forker_until_refused, |_| {}, interrupt)?.below(AIM).with(after));
    measurements.extend(pressure::measure(site, rounds, interrupt)?);
    Ok(measurements)
}

pub(super) fn delay_of(limit: &str) -> String {
    format!("detection_{limit}")
}

/// How late the kernel itself wakes who waits for a moment.
fn timer(rounds: u32, interrupt: &Interrupt) -> Result<Measurement> {
    const NAP: Duration = Duration::from_millis(20);
    let mut late = Vec::new();
    for _ in 0..rounds * 4 {
        interrupt.check()?;
        let begun = Instant::now();
        std::thread::sleep(NAP);
        late.push(begun.elapsed().saturating_sub(NAP).as_secs_f64());
    }
    Ok(Measurement::middle("kernel_timer", Unit::Seconds, late)
        .with("how late the kernel wakes a sleeper: no limit is acted on sooner"))
}

/// A limit whose breach tells itself by how much it was passed, in seconds.
fn by_value(
    site: &Site,
    limit: &str,
    rounds: u32,
    command: impl Fn() -> Option<Vec<String>>,
    set: impl Fn(&mut Workload),
    interrupt: &Interrupt,
) -> Result<Measurement> {
    let mut delays = Vec::new();
    for round in 0..rounds {
        let Some(command) = command() else { break };
        let mut workload = bounded(command, PROCESSES);
        set(&mut workload);
        let tree = Tree::start(site, format!("{limit}-{round}"), &workload, INTERVAL, None, interrupt)?;
        let outcome = tree.end_of_itself(PATIENCE, interrupt)?;
        let breach = outcome.breach.ok_or_else(|| unexpected(limit, &outcome))?;
        delays.push(breach.value - breach.limit);
    }
    let measured = middle(delay_of(limit), Unit::Seconds, delays, Some("there is no program for it here"));
    Ok(measured.with("by how much it was passed when the guardian saw it"))
}

/// A limit of the kernel's, at which a process ends: that moment is seen from here, and the guardian tells when it acted.
fn by_end(
    site: &Site,
    limit: &str,
    rounds: u32,
    command: impl Fn(&Path) -> Result<Option<Vec<String>>>,
    set: impl Fn(&mut Workload),
    interrupt: &Interrupt,
) -> Result<Measurement> {
    let mut delays = Vec::new();
    let mut why = "there is no program for it here".to_owned();
    for round in 0..rounds {
        let name = format!("{limit}-{round}");
        let sign = site.state_dir.with_file_name(format!("{name}.pid"));
        let Some(command) = command(&sign)? else { break };
        // Its process IDs are those that are seen from here.
        let mut workload = Workload { pid_namespace: false, ..bounded(command, PROCESSES) };
        set(&mut workload);
        let tree = Tree::start(site, name, &workload, INTERVAL, Some(&sign), interrupt)?;
        // Of one that has ended already nobody tells; what ended it shows that the limit holds.
        let enforced = tree.status().map(|status| status.enforced);
        if enforced.is_ok_and(|enforced| !if limit == "memory" { enforced.memory } else { enforced.pids }) {
            why = format!("nothing here limits {limit} but the samples of the guardian");
            break;
        }
        let pid = std::fs::read_to_string(&sign).ok().and_then(|text| text.trim().parse().ok());
        let ended = pid.and_then(|pid| end_of(pid, interrupt));
        let outcome = tree.end_of_itself(PATIENCE, interrupt)?;
        let acted = acted(&outcome).ok_or_else(|| unexpected(limit, &outcome))?;
        // One that had ended before it could be looked at tells nothing.
        let Some(ended) = ended.and_then(|ended| jiff::Timestamp::try_from(ended).ok()) else {
            "its process had ended before it could be looked at".clone_into(&mut why);
            continue;
        };
        // It may have seen the limit reached before the kernel had done its part.
        delays.push(acted.duration_since(ended).as_secs_f64().max(0.0));
    }
    Ok(middle(delay_of(limit), Unit::Seconds, delays, Some(&why)))
}

/// When the guardian acted on a limit.
pub(super) fn acted(outcome: &Outcome) -> Option<jiff::Timestamp> {
    outcome.breach.and(outcome.stopped_at.as_deref())?.parse().ok()
}

/// When the process `pid` ended.
fn end_of(pid: u32, interrupt: &Interrupt) -> Option<SystemTime> {
    let watched = Watched::open(process_id(pid)?)?;
    let deadline = Instant::now() + PATIENCE;
    while !watched.has_ended() {
        if Instant::now() > deadline || interrupt.check().is_err() {
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Some(SystemTime::now())
}

pub(super) fn unexpected(limit: &str, outcome: &Outcome) -> Failure {
    let message = format!("the limit of {limit} was not what ended its job: {:?} {}", outcome.exit, outcome.reason);
    Failure::failed(message, "this is an error in estop")
}
