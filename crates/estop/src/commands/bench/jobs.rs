//! What watching costs, and how long a stop takes.

use std::time::{Duration, Instant};

use estop_watchdog::job::Tier;

use super::interrupt::Interrupt;
use super::tree::Tree;
use super::{Measurement, Unit};
use crate::failure::{Failure, Result};
use crate::platform::processes::{cpu_time, private_memory};
use crate::site::Site;

/// Tree sizes whose watching is measured.
const WATCHED: [u64; 3] = [1, 100, 1000];
/// Tree sizes whose stop is measured.
const STOPPED: [u64; 3] = [10, 100, 1000];
/// How long the watching of one tree is measured. At 10 samples a second, 30 samples.
const WATCH: Duration = Duration::from_secs(3);
/// Stops needed to claim 99.99 % with 95 % confidence when none failed: 3 / 0.0001.
const ENOUGH_STOPS: usize = 30_000;

/// What became of the stops.
#[derive(Default)]
struct Stops {
    processes: u64,
    proven: usize,
    all: usize,
    survivors: usize,
    /// What the guardians took of memory.
    guardians: Vec<f64>,
}

/// What was measured of trees of one size.
#[derive(Default)]
struct Trees {
    shares: Vec<f64>,
    times: Vec<f64>,
    sampling: &'static str,
    /// Why there is no more.
    missing: Option<String>,
}

/// Watches and stops trees of each size.
pub(super) fn measure(site: &Site, rounds: u32, interrupt: &Interrupt) -> Result<Vec<Measurement>> {
    let (mut watching, mut stopping) = (Vec::new(), Vec::new());
    let mut stops = Stops::default();
    for size in [1, 10, 100, 1000] {
        let trees = of_size(site, size, rounds, &mut stops, interrupt)?;
        let middle = |name: String, unit, values: Vec<f64>| match &trees.missing {
            Some(why) if values.is_empty() => Measurement::missing(name, unit, why),
            _ => Measurement::middle(name, unit, values),
        };
        if WATCHED.contains(&size) {
            let name = format!("monitoring_overhead_{size}_processes");
            watching.push(middle(name, Unit::Ratio, trees.shares).below(0.01).with(trees.sampling));
        }
        if STOPPED.contains(&size) {
            stopping.push(middle(format!("stop_{size}_processes"), Unit::Seconds, trees.times));
        }
    }
    watching.extend(stopping);
    watching.push(terminations(&stops));
    watching.push(Measurement::middle("guardian_memory", Unit::Bytes, stops.guardians).with("private"));
    Ok(watching)
}

/// Watches and stops trees of `processes` processes. A host on which such a tree is not there in time is measured without.
fn of_size(site: &Site, processes: u64, rounds: u32, stops: &mut Stops, interrupt: &Interrupt) -> Result<Trees> {
    let mut trees = Trees::default();
    for round in 0..rounds {
        let tree = match Tree::start(site, format!("tree-{processes}-{round}"), processes, interrupt) {
            Ok(tree) => tree,
            Err(failure) => {
                interrupt.check()?;
                trees.missing = Some(failure.message);
                break;
            }
        };
        if WATCHED.contains(&processes) {
            trees.shares.push(share_of_core(tree.guardian(), interrupt)?);
            stops.guardians.extend(private_memory(tree.guardian()));
        }
        let report = tree.stop()?;
        trees.sampling = sampling_in(report.tier);
        trees.times.push(report.stop_seconds);
        stops.all += 1;
        stops.processes += report.processes_before;
        stops.proven += usize::from(report.proven_empty);
        stops.survivors += report.survivors.len();
    }
    Ok(trees)
}

/// How often a job of this tier is sampled.
fn sampling_in(tier: Tier) -> &'static str {
    match tier {
        Tier::Kernel => "10 samples a second",
        // Without a cgroup's counters a sample costs a look at each process; a guardian bounds what that may cost in all.
        Tier::Namespace | Tier::Tracked => "at most 10 samples a second: fewer where they are dear, without a cgroup",
    }
}

/// The share of one core that the process `pid` used for a while.
fn share_of_core(pid: u32, interrupt: &Interrupt) -> Result<f64> {
    let gone = || Failure::failed("a guardian ended while it was measured", "this is an error in estop");
    let (before, started) = (cpu_time(pid).ok_or_else(gone)?, Instant::now());
    while started.elapsed() < WATCH {
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let (after, elapsed) = (cpu_time(pid).ok_or_else(gone)?, started.elapsed());
    Ok(after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64())
}

fn terminations(stops: &Stops) -> Measurement {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    let value = stops.proven as f64 / stops.all.max(1) as f64;
    let enough = stops.all >= ENOUGH_STOPS;
    let claim = if enough { "" } else { "; about 30,000 without a failure are needed to claim 99.99 %" };
    Measurement {
        name: "stops_proven_empty".to_owned(),
        value: Some(value),
        unit: Unit::Ratio,
        criterion: Some("≥ 99.99 %".to_owned()),
        met: if stops.proven < stops.all { Some(false) } else { enough.then_some(true) },
        detail: format!("{} stops of {} processes, {} survivors{claim}", stops.all, stops.processes, stops.survivors),
    }
}
