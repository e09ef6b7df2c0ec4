//! What watching costs, how long a stop takes beside the kernel's own time, and how soon a limit is acted on.

mod limits;
mod pressure;
mod stopping;
mod tree;
mod watching;

use estop_watchdog::job::Tier;

use super::interrupt::Interrupt;
use super::measurement::{Measurement, Unit};
use crate::failure::Result;
use crate::site::Site;
use tree::Tree;

/// Tree sizes whose watching is measured.
const WATCHED: &[u64] = &[1, 100, 1000, 5000];
/// Tree sizes whose stop is measured.
const STOPPED: &[u64] = &[10, 100, 1000, 5000];
/// Above this size a tree takes seconds to be there: it is stopped less often.
const LARGE: u64 = 1000;
/// How often that is.
const LARGE_ROUNDS: u32 = 2;
/// Stops needed to claim 99.99 % with 95 % confidence when none failed: 3 / 0.0001.
const ENOUGH_STOPS: usize = 30_000;

/// What became of all stops.
#[derive(Default)]
struct Stops {
    processes: u64,
    proven: usize,
    all: usize,
    survivors: usize,
    tier: Option<Tier>,
}

/// Watches and stops trees of each size. `processes` are other sizes than the usual ones, if there are any.
pub(super) fn measure(
    site: &Site,
    rounds: u32,
    processes: &[u64],
    interrupt: &Interrupt,
    progress: impl Fn(&str),
) -> Result<Vec<Measurement>> {
    let (watched, stopped) = if processes.is_empty() { (WATCHED, STOPPED) } else { (processes, processes) };
    let mut stops = Stops::default();
    let mut measurements = Vec::new();
    for &size in watched {
        progress(&format!("watching {size} processes"));
        measurements.extend(watching::measure(site, size, rounds, &mut stops, interrupt)?);
    }
    for &size in stopped {
        progress(&format!("freezing and stopping {size} processes"));
        let rounds = if size > LARGE { rounds.min(LARGE_ROUNDS) } else { rounds };
        measurements.extend(stopping::of_sleepers(site, size, rounds, &mut stops, interrupt)?);
    }
    progress("freezing and stopping a fork bomb");
    measurements.extend(stopping::of_a_bomb(site, rounds, &mut stops, interrupt)?);
    progress("limits");
    measurements.extend(limits::measure(site, rounds, interrupt)?);
    measurements.push(terminations(&stops));
    Ok(measurements)
}

fn terminations(stops: &Stops) -> Measurement {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    let value = stops.proven as f64 / stops.all.max(1) as f64;
    let enough = stops.all >= ENOUGH_STOPS;
    let claim = if enough { "" } else { "; about 30,000 without a failure are needed to claim 99.99 %" };
    let tier = stops.tier.map_or_else(String::new, |tier| format!(" in tier {tier}"));
    Measurement {
        name: "stops_proven_empty".to_owned(),
        value: Some(value),
        p99: None,
        unit: Unit::Ratio,
        criterion: Some("≥ 99.99 %".to_owned()),
        met: if stops.proven < stops.all { Some(false) } else { enough.then_some(true) },
        detail: format!(
            "{} stops of {} processes{tier}, {} survivors{claim}",
            stops.all, stops.processes, stops.survivors
        ),
    }
}

/// The measurement of `values`; where there are none, `why`.
fn middle(name: String, unit: Unit, values: Vec<f64>, why: Option<&str>) -> Measurement {
    match why {
        Some(why) if values.is_empty() => Measurement::missing(name, unit, why),
        _ => Measurement::middle(name, unit, values),
    }
}
